"""Every command undisturbed, once: how long it takes and what it leaves."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.kills.cluster import Cluster
from tests.kills.commands import Kind
from tests.kills.processes import Command


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What an undisturbed command left."""

    folder: Path
    seconds: float
    """That it computed itself, by which moments are counted: the same on a machine with more to do."""
    printed: str


class Shelf:
    """References, the cluster and the yards of an exercise; a context that takes them away."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="afdsim-kills-"))
        self._references: dict[str, Reference] = {}
        self._cluster: Cluster | None = None

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        if self._cluster is not None:
            self._cluster.close()
        shutil.rmtree(self.place, ignore_errors=True)

    def environment(self, yard: Path | None = None) -> dict[str, str]:
        """Variables of a command: what it may write outside of its folder lies in its yard, where it is looked for."""
        caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # machine code, compiled before
        kept = {"XDG_CACHE_HOME": caches, "MPLCONFIGDIR": str(self.place / "matplotlib")}
        own = {} if yard is None else {"TMPDIR": str(yard / "tmp"), "HOME": str(yard / "home")}
        return {**os.environ, **kept, **own, "PYTHONPATH": os.pathsep.join(sys.path)}

    def yard(self, name: str, kind: Kind) -> Path:
        """Make a place with the folder of a command, `here`, and everything else where it might write."""
        yard = self.place / name
        for each in ("here", "tmp", "home"):
            (yard / each).mkdir(parents=True)
        kind.write(yard / "here")
        return yard

    @property
    def cluster(self) -> Cluster:
        """The Dask cluster, started when it is first asked for."""
        if self._cluster is None:
            number = len(list(self.place.glob("cluster *")))
            self._cluster = Cluster(self.place / f"cluster {number}", self.environment())
        return self._cluster

    def words(self, kind: Kind) -> tuple[str, ...]:
        """What is typed; of a Dask cluster that has lost a worker for good, another one is the next."""
        if kind.dask and not self.cluster.complete():
            self.cluster.close()
            self._cluster = None
        return kind.words(self.cluster.address if kind.dask else "")

    def reference(self, kind: Kind) -> Reference:
        """Run a command undisturbed, the first time that it is asked for."""
        if kind.name not in self._references:
            yard = self.yard(f"{kind.name} undisturbed", kind)
            command = Command(self.words(kind), yard / "here", yard.name, self.environment(yard))
            command.wait(lambda: command.used() < 0)  # which notes what it computes until it ends
            assert command.process.returncode == 0, command.said()
            self._references[kind.name] = Reference(
                folder=yard / "here", seconds=command.used(), printed=command.said("stdout")
            )
        return self._references[kind.name]
