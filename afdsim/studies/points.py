"""One point of a sweep: simulate it, flatten what it gives, keep it in a file.

A file is named by the content of the scenario and the seed, in a folder named by the code that computed it, so it is
right whenever it is found: an edited scenario, engine or catalog looks elsewhere. Models of the caller's are part of
the content; where they have no digest, no file is read or written. Files are written whole or not at all. Under the
outcome stands whose it is, and its digest: one that is torn, changed or another point's counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from afdsim import __version__
from afdsim.cluster.network import Network
from afdsim.cost.checked import checked_cost, checked_network
from afdsim.cost.identity import UnknownError, digest
from afdsim.cost.roofline import CostModel
from afdsim.errors import AfdsimError, ModelError, SimulationError
from afdsim.results import outages
from afdsim.scenario.document import Scenario

Status = Literal["ok", "error"]

UNTOLD = ("definitions", "cells")
"""Keys of a summary that are no columns: documentation, which is the same for every point, and rows of their own."""

PRESENTATION = (
    "cli/",
    "plot",
    "data/init/",
    "data/report/",
    *(
        f"results/{room}"
        for room in ("exhibits", "gallery", "glossary", "ink", "inline", "page", "plot", "report", "terminal")
    ),
    *(f"studies/{room}" for room in ("pages", "reporting", "telling")),
)
"""Beginnings of the paths of modules and files that only show what others compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What prices points in place of afdsim's own models: the `cost` and `network` of `simulate`."""

    cost: CostModel | None = None
    network: Network | None = None

    def check(self) -> None:
        """Refuse what is no model."""
        checked_cost(self.cost)
        checked_network(self.network)

    def key(self, scenario: Scenario) -> str:
        """Return the key of a scenario under these models, or raise UnknownError."""
        if self.cost is None and self.network is None:
            return scenario.key
        return hashlib.sha256(f"{scenario.key} {digest((self.cost, self.network))}".encode()).hexdigest()

    def nameless(self) -> str:
        """Return why these models have no digest; nothing where they have one."""
        for argument, model in (("cost", self.cost), ("network", self.network)):
            try:
                digest(model)
            except UnknownError as error:
                return f"{argument}={type(model).__name__} has no digest: {error}"
        return ""

    def check_travel(self) -> None:
        """Refuse models that a worker process could not receive."""
        for argument, model in (("cost", self.cost), ("network", self.network)):
            if type(model).__module__ == "__main__":
                reason = "it is defined in a script or notebook, which no worker process imports"
            elif not (reason := _unpicklable(model)):
                continue
            raise ModelError(f"{argument}={type(model).__name__}: {reason}; define it in a module, or use workers=1")


def _unpicklable(thing: object) -> str:
    try:
        pickle.dumps(thing)
    except Exception as error:  # pickle raises what it likes
        return f"it cannot be sent to a worker process ({error})"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a point gave; the same whoever computed it, but for the wall time."""

    status: Status
    error: str | None = None
    wall_s: float = 0.0
    columns: Mapping[str, Any]
    """Flat keys of the summary."""

    def text(self) -> str:
        """Return the content of its file."""
        data = {"status": self.status, "error": self.error, "wall_s": self.wall_s, "columns": self.columns}
        return json.dumps(data, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, text: str) -> Outcome:
        """Return the outcome in the content of a file; ValueError or KeyError if it is torn."""
        data = json.loads(text)
        return cls(status=data["status"], error=data["error"], wall_s=data["wall_s"], columns=data["columns"])


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of outcomes."""

    folder: Path

    def file(self, key: str, seed: int) -> Path:
        """Return where the outcome of a scenario and a seed is kept."""
        return self.folder / code()[:16] / key[:2] / f"{key}-{seed}.json"

    @staticmethod
    def line(file: Path) -> str | None:
        """Return the line that a file keeps, or None if there is none that is whole and its own."""
        with suppress(OSError, ValueError):
            if file.is_file():  # a pipe would be waited for
                text, _, seal = file.read_text(encoding="utf-8").partition("\n")
                return text if seal == sealed(file, text) else None
        return None

    @classmethod
    def get(cls, file: Path) -> Outcome | None:
        """Return the outcome in a file, or None if there is none that is whole and its own."""
        try:
            return None if (text := cls.line(file)) is None else Outcome.read(text)
        except (ValueError, KeyError, TypeError):
            return None

    @staticmethod
    def put(file: Path, text: str) -> None:
        """Write a line, such as an outcome: whole, or OSError and nothing."""
        from afdsim.results.whole import write_text

        file.parent.mkdir(parents=True, exist_ok=True)
        kept = text.removesuffix("\n")
        write_text(file, f"{kept}\n{sealed(file, kept)}")


def sealed(file: Path, text: str) -> str:
    """Return the line that says whose line a text is, and that nothing in it was changed."""
    own = hashlib.sha256(f"{file.stem} {text}".encode()).hexdigest()
    return json.dumps({"of": file.stem, "sha256": own}) + "\n"


def compute(scenario: Scenario, seed: int, file: Path | None, expected: str, models: Models | None = None) -> str:
    """Simulate one point wherever this runs, keep it in `file` if there is one, and return the text of its outcome.

    `expected` is the `code` of who asks: a worker with another one must not answer.
    """
    if expected != code():
        raise SimulationError("this worker runs another version of afdsim than the sweep; install the same everywhere")
    text = outcome(scenario, seed, models or Models()).text()
    if file is not None:
        # a worker may have no such disk, or a full one: who asked keeps the outcome too, and notices
        with suppress(OSError):
            Cache.put(file, text)
    return text


def outcome(scenario: Scenario, seed: int, models: Models) -> Outcome:
    """Simulate one point; a failure that afdsim explains is an outcome.

    Any other is a bug and raised, and so is a fault of `models`, which is none of the point.
    """
    from afdsim.simulation import simulate

    started = time.perf_counter()
    try:
        summary = simulate(scenario, seed=seed, cost=models.cost, network=models.network, watch=False).summary
    except ModelError:
        raise
    except AfdsimError as error:
        return Outcome(status="error", error=str(error), wall_s=time.perf_counter() - started, columns={})
    return Outcome(status="ok", wall_s=time.perf_counter() - started, columns=flat(summary))


def flat(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary as one row: its keys joined by dots, without ``afdsim.``."""
    own = {key: value for key, value in summary["afdsim"].items() if key not in UNTOLD}
    if "failures" in own:
        own["failures"] = outages.pooled(own["failures"])
    if "blame" in own:
        own["blame"] = {kind: each["share"] for kind, each in own["blame"]["kinds"].items()}
    if "bottleneck" in own:
        own["bottleneck"] = {key: value for key, value in own["bottleneck"].items() if not isinstance(value, Mapping)}
    return dict(_leaves({key: value for key, value in summary.items() if key != "afdsim"} | own, ""))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            yield f"{prefix}{key}", "; ".join(value)
        elif isinstance(value, list | tuple):
            yield from _leaves({str(index): item for index, item in enumerate(value)}, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@cache
def code() -> str:
    """Return a digest of all that an outcome depends on beside the scenario: source, data, and NumPy and SimPy."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256(f"{__version__} {[version(name) for name in ('numpy', 'simpy')]}".encode())
    data = (path for path in (package / "data").rglob("*") if path.is_file() and path.suffix != ".pyc")
    held = sorted({*package.rglob("*.py"), *data})
    for file in (each for each in held if not each.relative_to(package).as_posix().startswith(PRESENTATION)):
        digest.update(f"{file.relative_to(package).as_posix()} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
