"""Markdown as tests read it: pages, their fenced blocks, their links; and a reader who does what a page says."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner
from ruamel.yaml import YAML

from afdsim.cli.main import main
from afdsim.scenario.document import load

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
FENCE = re.compile(r"^(?P<mark>`{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=mark) *$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n?", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ALIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block: its language, what the fence says beside it, its text."""

    language: str
    words: tuple[str, ...]
    body: str
    line: int

    @property
    def slow(self):
        return "slow" in self.words

    def word(self, key):
        """Return what stands behind ``key=`` on the fence, or None."""
        return next((word.partition("=")[2] for word in self.words if word.startswith(f"{key}=")), None)


def pages():
    """Every document for users, written or made, by its path."""
    below = (path for path in sorted(DOCS.rglob("*.md")) if not {"_build", "_made"} & set(path.parts))
    return [REPOSITORY / "README.md", REPOSITORY / "MODEL.md", *(p for p in below if not p.name.endswith(".head.md"))]


def name(path):
    return path.relative_to(REPOSITORY).as_posix()


def blocks(path):
    text = path.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        language, *words = found["info"].split() or [""]
        yield Block(language, tuple(words), found["body"], text.count("\n", 0, found.start()) + 1)


class Reader:
    """Does what the blocks of one page say, in order, in the working directory, and complains about what differs."""

    def __init__(self, path):
        self.path = path
        self.names = {"__name__": "document"}

    def follow(self, block):
        where = f"{name(self.path)}:{block.line}"
        if (file := block.word("file")) is not None:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(block.body, encoding="utf-8")
        match block.language:
            case "console":
                self.type(block, where)
            case "python" if block.word("file") is None:
                self.execute(block, where)
            case "yaml" if "fragment" not in block.words:
                self.load(block, where)

    def type(self, block, where):
        wanted = int(block.word("exit") or 0)
        parts = COMMAND.split(block.body)[1:]
        for command, shown in zip(parts[::2], parts[1::2], strict=True):
            code, out = run(command.replace("\\\n", " "))
            assert code == (wanted if code is not None else None), f"{where}: $ {command}\n{out}"
            if code is not None:
                assert same(shown, out), f"{where}: $ {command}\n{difference(shown, out)}"

    def execute(self, block, where):
        if "compile" in block.words:
            compile(block.body, where, "exec")
        elif block.body.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block.body, self.names, where, where, block.line)
            runner = doctest.DocTestRunner(optionflags=ALIKE, verbose=False)
            said = []
            runner.run(test, out=said.append, clear_globs=False)
            self.names.update(test.globs)
            assert not runner.failures, "".join(said)
        else:
            exec(compile(block.body, where, "exec"), self.names)

    def load(self, block, where):
        data = YAML(typ="safe").load(block.body)
        if "axes" in data:
            from afdsim.studies import grid

            Path("page.sweep.yaml").write_text(block.body, encoding="utf-8")
            assert grid.read(Path("page.sweep.yaml")), where
        else:
            assert load(block.word("file") or data), where


def run(command):
    """Return (exit code, output) of a command line; (None, "") of one that is not afdsim's or Python's."""
    words = shlex.split(command, comments=True)
    target = words[words.index(">") + 1] if ">" in words else None
    words = words[: words.index(">")] if target else words
    if words[:1] == ["python"]:
        env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=False, env=env)
        code, out, said = done.returncode, done.stdout, done.stderr
    elif words[:1] == ["afdsim"]:
        done = CliRunner().invoke(main, words[1:], prog_name="afdsim", catch_exceptions=False)
        code, out, said = done.exit_code, done.stdout, done.stderr
    else:
        return None, ""
    if target is not None:
        Path(target).write_text(out, encoding="utf-8")
        out = ""
    return code, out if code in (0, 3) else out + said


def same(shown, out):
    """Whether a page shows what comes out, all of it or with ``...`` where it leaves something out; or nothing."""
    return not shown.strip() or doctest.OutputChecker().check_output(_lines(shown), _lines(out), doctest.ELLIPSIS)


def difference(shown, out):
    example = doctest.Example("", _lines(shown))
    return doctest.OutputChecker().output_difference(example, _lines(out), doctest.ELLIPSIS | doctest.REPORT_NDIFF)


def _lines(text):
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def anchors(path):
    """Names of the headings of a document, by the rule of git hosts."""
    seen = {}
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = seen[slug] = seen.get(slug, -1) + 1
        yield f"{slug}-{count}" if count else slug


def links(path):
    """Targets of the links of a document, without those in code."""
    text = re.sub(r"`[^`\n]+`(?!\])", "", FENCE.sub("", path.read_text(encoding="utf-8")))
    return LINK.findall(text)
