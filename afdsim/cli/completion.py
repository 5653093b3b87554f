"""Names that a shell completes, and the command `afdsim completion` that teaches it to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VARIABLE = "_AFDSIM_COMPLETE"
HOW = {
    "bash": 'eval "$(afdsim completion bash)"      # in ~/.bashrc',
    "zsh": 'eval "$(afdsim completion zsh)"       # in ~/.zshrc, after compinit',
    "fish": "afdsim completion fish | source        # in ~/.config/fish/config.fish",
}


def register(group: click.Group) -> None:
    """Add the command of this module to `group`."""
    group.add_command(completion)


@click.command(epilog="\b\n" + "\n".join(HOW.values()))
@click.argument("shell", type=click.Choice(tuple(HOW)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes commands, options, and names of scenarios."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None, "click knows the shells of the choice"
    script = made(ctx.find_root().command, {}, "afdsim", VARIABLE)
    click.echo(script.source_template % script.source_vars(), nl=False)


def scenario_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return shipped scenarios that begin so, and files."""
    from afdsim.scenario.document import shipped

    return _named(shipped(), incomplete)


def sweep_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return shipped sweeps that begin so, and files."""
    from afdsim.studies.grid import shipped

    return _named(shipped(), incomplete)


def model_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return models of the catalog that begin so, and files."""
    from afdsim.catalog import entries as catalog

    return _named(catalog.llms(), incomplete)


def _named(names: Any, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]
