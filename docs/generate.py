"""Pages that are made from the code: `python docs/generate.py` writes them, `make docs` calls it.

They are kept in the repository, so that they read on any git host; `tests/test_docs.py` says when they are out of date.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path

import afdsim
import click

import keys

HERE = Path(__file__).parent
MADE = "<!-- made by docs/generate.py; do not edit -->\n"
METHODS: Mapping[str, str] = {
    "Scenario": "vary, varied, given, resolved, where, key, notes, parts",
    "Result": "",
}
"""Members of a class that its page shows; all that are documented if empty."""
SEAMS = (
    ("afdsim.cost.roofline.CostModel", "what an operator takes"),
    ("afdsim.cost.operators.Operator", "what a cost model is asked about"),
    ("afdsim.cluster.network.Network", "what a message takes on a port"),
    ("afdsim.engine.fleet.Router", "which cell a request goes to"),
)


def pages() -> dict[str, str]:
    """Return every page by its place below docs/."""
    made = {"reference/scenario.md": keys.page(), "reference/commands.md": commands(), "reference/python.md": python()}
    return {name: MADE + text for name, text in made.items()}


def commands() -> str:
    """Return the command reference."""
    from afdsim.cli.main import main

    head = (HERE / "reference" / "commands.head.md").read_text(encoding="utf-8").rstrip()
    names = main.list_commands(click.Context(main))
    contents = "\n".join(f"| [`{name}`](#afdsim-{name}) | {_first(main.commands[name])} |" for name in names)
    body = "\n\n".join(_command(main.commands[name], f"afdsim {name}") for name in names)
    return f"{head}\n\n| command | does |\n|---|---|\n{contents}\n\n{body}\n"


def _first(command: click.Command) -> str:
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())


def _command(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    rows = [row for each in command.params for row in _option(each, context)]
    table = "\n\n| option | meaning |\n|---|---|\n" + "\n".join(rows) if rows else ""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return "\n\n".join(
        [f"## {path}\n\n```text\n{usage}\n```\n\n{text}{table}", *(_command(each, f"{path} {each.name}") for each in below)]
    )


def _option(option: click.Parameter, context: click.Context) -> Iterator[str]:
    record = option.get_help_record(context)
    if record is not None:
        cells = [f"`{record[0]}`", " ".join(record[1].split())]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def python() -> str:
    """Return the Python reference: headings and names of `afdsim`, each with its docstring."""
    head = (HERE / "reference" / "python.head.md").read_text(encoding="utf-8").rstrip()
    rows = [f"| `afdsim.{name}` | {what} |" for _, group in afdsim._TABLE for name, _, _, what in group]
    table = "| name | is |\n|---|---|\n" + "\n".join(rows)
    groups = [f"## {heading}\n\n" + "\n\n".join(_member(name) for name, *_ in group) for heading, group in afdsim._TABLE]
    seams = "## Seams\n\nProtocols that an object of your own may fulfil, and what they are given.\n\n" + "\n\n".join(
        _directive("autoclass", path, ":members:") for path, _ in SEAMS
    )
    return "\n\n".join([head, table, *groups, seams]) + "\n"


def _member(name: str) -> str:
    found = getattr(afdsim, name)
    if inspect.ismodule(found):
        each = "\n\n".join(_named(f"afdsim.{name}.{inner}") for inner in found.__all__)
        return f"### afdsim.{name}\n\n{_sentence(found)}\n\n{each}"
    return _named(f"afdsim.{name}")


def _sentence(module: object) -> str:
    return (inspect.getdoc(module) or "").split(":")[0].rstrip(".") + "."


def _named(path: str) -> str:
    found = attrgetter(path.removeprefix("afdsim."))(afdsim)
    name = path.rpartition(".")[2]
    match found:
        case type() if issubclass(found, Exception):
            return _directive("autoexception", path)
        case type():
            return _directive("autoclass", path, f":members: {METHODS.get(name, '')}".rstrip())
        case _ if callable(found):
            return _directive("autofunction", path)
        case _:
            return _directive("autodata", path, ":no-value:")


def _directive(kind: str, path: str, *options: str) -> str:
    inside = "\n".join(f"   {option}" for option in options)
    return f"```{{eval-rst}}\n.. {kind}:: {path}\n{inside}".rstrip() + "\n```"


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")
