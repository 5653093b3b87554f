"""Pages that are made from the code: `python docs/generate.py` writes them, `make docs` calls it.

They are kept in the repository, so that they read on any git host; `tests/test_docs.py` says when they are out of date.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import click
import keys

import afdsim

if TYPE_CHECKING:
    from afdsim.studies.validation import Verdict

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


def measured() -> dict[str, str]:
    """Return the page of predictions beside published measurements, which takes seconds to simulate."""
    return {"validation.md": MADE + validation()}


def validation() -> str:
    """Return every published figure with what is predicted, by class."""
    from afdsim.studies.validation import medians, validate

    verdicts = validate()
    sources = list(dict.fromkeys(each.case.source for each in verdicts))
    classes = medians(verdicts)
    short = [
        f"| [{_headed(each.kind)}](#{each.kind.lower().replace(' ', '-')}) | {each.cases} "
        f"| {each.error:.1%} | {each.worst:.1%} |"
        for each in classes
    ]
    tables = [_judged(each.kind, [v for v in verdicts if v.case.kind == each.kind], sources) for each in classes]
    listed = "\n".join(f"{number}. {source}" for number, source in enumerate(sources, start=1))
    head = (HERE / "validation.head.md").read_text(encoding="utf-8").rstrip()
    summary = "| class | figures | median error | worst |\n|---|---:|---:|---:|\n" + "\n".join(short)
    return f"{head.replace('TABLE', summary)}\n\n" + "\n\n".join(tables) + f"\n\n## Sources\n\n{listed}\n"


def _judged(kind: str, verdicts: Sequence[Verdict], sources: Sequence[str]) -> str:
    rows = [
        f"| {each.case.id} | {each.case.unit} | {_three(each.predicted)} | {_three(each.case.measured)} "
        f"| {_signed(each.error)} | {sources.index(each.case.source) + 1} | {each.case.note} |"
        for each in verdicts
    ]
    head = "| case | unit | predicted | measured | error | source | remark |\n|---|---|---:|---:|---:|---:|---|"
    return f"## {_headed(kind)}\n\n{head}\n" + "\n".join(rows)


def _headed(kind: str) -> str:
    """Return a class of figures as a heading writes it."""
    return f"{kind[0].upper()}{kind[1:]}".replace("Afd", "AFD")


def _signed(share: float) -> str:
    return f"{share:+.1%}".replace("-0.0%", "0.0%")


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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
        [
            f"## {path}\n\n```sh\n{usage}\n```\n\n{text}{table}",
            *(_command(each, f"{path} {each.name}") for each in below),
        ]
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
    groups = [
        f"## {heading}\n\n" + "\n\n".join(_member(name) for name, *_ in group) for heading, group in afdsim._TABLE
    ]
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
            return f"```{{eval-rst}}\n.. py:data:: {path}\n\n   {_constant(path)}\n```"


def _constant(path: str) -> str:
    """Return the docstring of a constant: the text below its assignment, in the module that has it."""
    module, _, name = path.rpartition(".")
    public = ast.parse(inspect.getsource(importlib.import_module(module)))
    homes = [
        each.module for each in public.body if isinstance(each, ast.ImportFrom) and name in {x.name for x in each.names}
    ]
    for home in map(importlib.import_module, homes):
        for first, second in pairwise(ast.parse(inspect.getsource(home)).body):
            match first, second:
                case ast.AnnAssign(target=ast.Name(id=found)), ast.Expr(value=ast.Constant(value=str(text))) if (
                    found == name
                ):
                    return " ".join(text.split())
    return ""


def _directive(kind: str, path: str, *options: str) -> str:
    inside = "\n".join(f"   {option}" for option in options)
    return f"```{{eval-rst}}\n.. {kind}:: {path}\n{inside}".rstrip() + "\n```"


def write() -> None:
    """Write every page that is not as the code makes it."""
    for name, text in (pages() | measured()).items():
        page = HERE / name
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
