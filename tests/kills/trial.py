"""One kill at one moment, and the laws that it breaks."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner

from afdsim.cli.main import main
from tests.kills.commands import KINDS, OUT, POINTS, Kind, outcomes
from tests.kills.files import differences, left_over, torn
from tests.kills.processes import NUMBERS, PARENT, WORKER, Command, gone
from tests.kills.shelf import Reference, Shelf

SIGNALS = ("INT", "TERM", "KILL")
SECONDS = 3.0
"""In which no process is left."""
LINES = 10
"""Of a message at most."""
CODES = {"INT": 130, "TERM": 143, "KILL": -9}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is killed, by what, and where."""

    kind: Kind
    signal: str
    victim: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a trial."""

    case: Case
    seed: int
    moment: str
    code: int
    seconds: float
    """From the signal, or the end of a command that has done its work, until no process was left."""
    hit: bool
    """Whether there was somebody to kill."""
    wrong: tuple[str, ...] = field(default=())


CASES = tuple(
    Case(kind=kind, signal=signal, victim=victim) for kind in KINDS for signal in SIGNALS for victim in kind.victims
)
SKIPPED = tuple(f"{kind.name} {WORKER}" for kind in KINDS if WORKER not in kind.victims)
"""What does not exist."""


def slack() -> float:
    """Times longer than alone that anything takes on a machine with more to do than cores."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def chosen(number: int, seed: int) -> Case:
    """Return the case of the n-th trial: all of them in turn, in an order of the seed."""
    order = list(CASES)
    random.Random(f"order {seed}").shuffle(order)
    return order[number % len(order)]


def tried(case: Case, seed: int, shelf: Shelf) -> Outcome:
    """Kill a command at a moment, and look at what is left; then run it again, where it has not done its work."""
    name = f"{case.kind.name} {case.signal} {case.victim} {seed}"
    reference, yard, rng = shelf.reference(case.kind), shelf.yard(name, case.kind), random.Random(name)
    others = shelf.cluster.workers() if case.kind.dask and case.victim == WORKER else []
    command = Command(shelf.words(case.kind), yard / "here", yard.name, shelf.environment(yard))
    moment = _waited(case, command, reference, rng)
    hit = _killed(case, command, rng, others)
    trial = _Trial(case, shelf, yard, reference, command, since=command.seconds())
    wrong = [*trial.left(), *trial.ending(), *trial.files()]
    done = command.process.returncode == 0 and not list(differences(trial.folder, reference.folder))
    wrong += [*([] if done else trial.again()), *trial.outside()]
    if not wrong:
        shutil.rmtree(yard)
    code, seconds = command.process.returncode, trial.empty - trial.since
    return Outcome(case=case, seed=seed, moment=moment, code=code, seconds=seconds, hit=hit, wrong=tuple(wrong))


def _waited(case: Case, command: Command, reference: Reference, rng: random.Random) -> str:
    """Wait for a moment of the command's life: a share of what it computes, or a file that it writes."""
    if rng.random() < 0.4:
        share = rng.random()
        command.wait(lambda: command.used() >= share * reference.seconds)
        return f"at {share:.0%} of its work"
    places = (POINTS,) if case.victim == WORKER else (OUT, POINTS)
    found = (path for place in places for path in (reference.folder / place).rglob("*") if path.is_file())
    file = rng.choice(sorted(found))
    place = command.folder / file.relative_to(reference.folder)
    command.wait(lambda: _begun(place))
    return f"at {file.name[:24]}"


def _killed(case: Case, command: Command, rng: random.Random, others: list[int]) -> bool:
    """Send the signal, to one of `others` where these are the workers; whether there was somebody to hear it."""
    if case.victim != WORKER:
        return command.kill(case.signal, case.victim, rng)
    if not others:
        command.wait(command.workers)
        return command.kill(case.signal, WORKER, rng)
    if not command.ended():
        os.kill(rng.choice(others), NUMBERS[case.signal])
        return True
    return False


def _begun(file: Path) -> bool:
    return file.exists() or any(file.parent.glob(f".{file.stem}.*"))


@dataclass
class _Trial:
    """What is looked at after a kill; every function yields what is wrong."""

    case: Case
    shelf: Shelf
    yard: Path
    reference: Reference
    command: Command
    since: float
    """Seconds of the command's life at the signal, or when it had ended in spite of that."""
    empty: float = 0.0
    """Seconds of the command's life when no process was left."""

    @property
    def folder(self) -> Path:
        return self.command.folder

    def left(self) -> Iterator[str]:
        """No process is left after three seconds; those of a command that lost a worker, after its end."""
        if self.case.victim == WORKER or self.command.process.poll() == 0:
            self.command.wait(self.command.ended)
            self.since = self.command.seconds()
        if not gone(self.command.mark, SECONDS * slack()):
            yield f"processes were left after {SECONDS:g} s"
        self.empty = self.command.seconds()
        self.command.process.wait()
        if self.case.kind.dask and not self.shelf.cluster.calm():
            yield "the cluster still works for a command that has ended"

    def ending(self) -> Iterator[str]:
        """The exit code is that of the signal, with one message and no traceback; or all was done."""
        code, said = self.command.process.returncode, self.command.said()
        lines = [
            line
            for line in said.splitlines()
            if not line.startswith(("Precision ", "Note ", "          ", "warning: "))
        ]
        if self.case.kind.script:
            yield from self._ending_of_script(code)
            return
        if "Traceback" in said:
            yield f"traceback: {said[-600:]}"
        if len(lines) > LINES:
            yield f"{len(lines)} lines: {said[-600:]}"
        asked = code == CODES[self.case.signal] and self.case.victim != WORKER
        if asked and code > 0 and not any(line.startswith("interrupted; ") for line in lines):
            yield f"no message: {said[-300:]}"
        if code != 0 and not asked:
            yield f"exit code {code}: {said[-300:]}"
        if code == 0:
            yield from (f"ended, but {each}" for each in differences(self.folder, self.reference.folder))

    def _ending_of_script(self, code: int) -> Iterator[str]:
        """Python ends by the signal itself; Ctrl-C says what the sweep keeps."""
        said, asked = self.command.said(), {"INT": -2, "TERM": -15, "KILL": -9}[self.case.signal]
        if code not in ({0} if self.case.victim == WORKER else {0, asked}):
            yield f"exit code {code}: {said[-300:]}"
        if code == 0 and self.command.said("stdout") != self.reference.printed:
            yield "ended, but printed another table"
        if said.count("Traceback") > 1 or (said and self.case.signal != "INT"):
            yield f"said {said[-600:]}"

    def files(self) -> Iterator[str]:
        """Nothing is torn, and whoever reads the folder gets a page or one message."""
        yield from torn(self.folder)
        died = self.command.process.returncode < 0 or self.case.victim != PARENT
        if not died:
            yield from (f"{each.name} was left" for each in self.folder.rglob("*") if left_over(each))
        if not (self.folder / OUT).is_dir():
            return
        words = [["report", str(self.folder / OUT), "-o", str(self.yard / "report.html")]]
        words += [["verify", str(self.folder / OUT)]] if self.case.kind.name == "run" else []
        for each in words:
            done = CliRunner().invoke(main, each)
            if done.exit_code not in {0, 2} or len(done.stderr.splitlines()) > LINES:
                yield f"afdsim {each[0]}: exit code {done.exit_code}, {done.exception!r}, {done.output[-300:]}"

    def again(self) -> Iterator[str]:
        """The same command ends the work, computes nothing twice, and leaves what an undisturbed one does."""
        kept = outcomes(self.folder)
        once_more = Command(
            self.shelf.words(self.case.kind), self.folder, f"{self.yard.name} again", self.shelf.environment(self.yard)
        )
        once_more.wait(once_more.ended)
        if once_more.process.returncode != 0:
            yield f"again: exit code {once_more.process.returncode}: {once_more.said()[-300:]}"
            return
        if not gone(once_more.mark, SECONDS * slack()):
            yield "again: processes were left"
        now = outcomes(self.folder)
        yield from (f"again: {path.name} was computed twice" for path, own in kept.items() if now.get(path) != own)
        found = re.search(r"\((\d+) from before\)", once_more.said())
        if found and int(found[1]) != len(kept):
            yield f"again: {found[1]} points from before, {len(kept)} were kept"
        if self.case.kind.script and once_more.said("stdout") != self.reference.printed:
            yield "again: printed another table"
        yield from (f"again: {each}" for each in differences(self.folder, self.reference.folder))

    def outside(self) -> Iterator[str]:
        """Nothing is written outside of the folder."""
        for place in ("tmp", "home"):
            yield from (f"wrote {path.relative_to(self.yard)}" for path in (self.yard / place).rglob("*"))
        own = {"here", "tmp", "home", "stdout", "stderr", "report.html"}
        yield from (f"wrote {path.name}" for path in self.yard.iterdir() if path.name not in own)
