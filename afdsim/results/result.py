"""What a run gives: columns, a summary, where it came from; saved to a folder and read back.

Nothing saved but ``run.log`` knows the time of day, so the same scenario and seed give the same bytes. Files are
written whole or not at all, and the manifest after what it is about, so that a full disk or an interruption leaves
nothing that looks whole and is not.
"""

from __future__ import annotations

import gzip
import json
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from itertools import product
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Literal

from afdsim import __version__
from afdsim.errors import ScenarioError
from afdsim.results import blame, metrics
from afdsim.results.bottleneck import Bounds
from afdsim.results.gallery import Plots
from afdsim.results.metrics import Run
from afdsim.results.pooling import together
from afdsim.results.steady import Load
from afdsim.results.summary import known, summary
from afdsim.results.whole import vacant, write_text, write_whole
from afdsim.scenario import yamlfile
from afdsim.scenario.document import Scenario, load
from afdsim.scenario.formats import Format, answer, of_scenario

if TYPE_CHECKING:
    import pandas as pd

    from afdsim.results.page import Report

Metric = Literal["ttft", "prefill_queue", "tpot", "itl", "e2el", "queue"]

FRAMES = ("requests", "tokens", "gpus", "links", "blame", "utilization", "pipeline")
MAY_LACK = ("blame", "utilization", "pipeline")
"""Frames that older folders have not, nor those of runs that nobody watched."""
FIGURES = ("tpot_histogram", "tpot_cdf", "itl_histogram", "causes")
FIRST_TOKEN = ("ttft_histogram", "ttft_cdf")
"""Figures of runs with prefill."""

REPORT, SEEDS = "report.html", "seeds"
"""The page of a run folder, and the folder of further seeds in it."""

_PACKAGES = ("numpy", "simpy")
"""Packages that could move a figure: the streams and the order of events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Where a result comes from; the same on every run of one scenario and seed on one machine."""

    scenario: str
    key: str
    """SHA-256 of the resolved scenario."""
    seed: int
    afdsim: str
    engine_requested: str
    engine: str
    engine_reason: str = ""
    """Why `auto` chose this engine; empty where the scenario named it."""
    coefficients: str = ""
    """Digest of the fitted coefficients, or the class and digest of the cost model that was given instead."""
    network: str = ""
    """Class and digest of the network model that was given; empty where the scenario's own ran."""
    packages: Mapping[str, str]


def manifest(
    scenario: Scenario, *, seed: int, engine: str, engine_reason: str = "", coefficients: str = ""
) -> Manifest:
    """Return the manifest of a run of `scenario` by `engine`."""
    return Manifest(
        scenario=scenario.name,
        key=scenario.key,
        seed=seed,
        afdsim=__version__,
        engine_requested=scenario.run.engine,
        engine=engine,
        engine_reason=engine_reason,
        coefficients=coefficients or _coefficients(),
        packages={name: _version(name) for name in _PACKAGES},
    )


@cache
def _coefficients() -> str:
    held = files("afdsim").joinpath("data", "coefficients.csv").read_bytes()
    return f"sha256:{sha256(held).hexdigest()[:12]}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One simulated run. Frames are built when they are asked for."""

    scenario: Scenario
    run: Run
    manifest: Manifest
    notes: tuple[str, ...] = ()
    """What a reader of the figures should know: refused requests, variation, transferred coefficients."""
    asked: tuple[Format, ...] = ()
    """Number formats with who asked for each, of a run that was read back; else the scenario knows."""
    marginal: tuple[Mapping[str, Any], ...] = ()
    """What one more instance of each role would give (`studies.marginal`), where that was asked for."""

    @property
    def seed(self) -> int:
        """Seed of every random stream of this run."""
        return self.manifest.seed

    @cached_property
    def formats(self) -> tuple[Format, ...]:
        """Number formats that it ran in, by role, and who asked for each."""
        return self.asked or of_scenario(self.scenario)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Flat keys as vLLM has them, and ours under "afdsim"; the content of ``result.json``."""
        found = summary(self.run)
        own = found["afdsim"] | {"window_s": list(self.run.window), "precision": answer(self.formats)}
        own |= {"marginal": list(self.marginal)} if self.marginal else {}
        own |= {"provenance": asdict(self.manifest)}
        return found | {"afdsim": own | ({"notes": list(self.notes)} if self.notes else {})}

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request; with queue_ms, tpot_ms, e2el_ms and with prefill ttft_ms, NaN where not reached."""
        frame = _frame(self.run.requests)
        spans = {"queue": metrics.queue, "tpot": metrics.tpot, "e2el": metrics.e2el}
        for metric, seconds in (spans | ({"ttft": metrics.ttft} if self.run.prefilled else {})).items():
            frame[f"{metric}_ms"] = seconds(self.run.requests) * 1e3
        return frame

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """One row per step boundary of a micro-batch: every token of the run, without loss."""
        return _frame(self.run.tokens)

    @cached_property
    def gpus(self) -> pd.DataFrame:
        """One row per GPU: seconds of the window by cause."""
        return _frame(self.run.gpus)

    @cached_property
    def links(self) -> pd.DataFrame:
        """One row per port and direction: messages and bytes of the whole run."""
        return _frame(self.run.links)

    @cached_property
    def blame(self) -> pd.DataFrame:
        """One row per unit and culprit: GPU-seconds that it waited for a peer, a port, NVLink, the path or its host."""
        return _frame(self.run.blame)

    @cached_property
    def utilization(self) -> pd.DataFrame:
        """One row per GPU and slice of the whole run, warm-up included: begin_s, end_s, pool, instance, rank, busy.

        `busy` is the share of the slice in which the GPU computed, 0..1. There are 33 to 64 slices as wide as a power
        of two seconds (fewer in a run of microseconds), and the last one ends with the run. Empty where nobody watched:
        `simulate(watch=False)`, sweeps, folders of earlier versions.
        """
        return _frame(self.run.utilization)

    @cached_property
    def pipeline(self) -> pd.DataFrame:
        """Who did what, and why others stood still, in three layers of a step near the middle of the window.

        One row per span: track, start_s, end_s, step, layer (-1: a boundary), micro_batch (-1: a gap), cause ("busy",
        or why a unit stood still) and what (operation, "boundary", "messages", "gap"). Tracks are those of at most two
        units of every pool: ``attention[0]``, ``ffn[0] gather``, ``→ ffn[0]`` (messages on their way to it). Of a
        fleet it is the first cell's. Empty where `utilization` is, and where no step was whole.
        """
        return _frame(self.run.pipeline)

    @cached_property
    def operators(self) -> pd.DataFrame:
        """One row per operator of the usual layer and of a boundary: its work, its seconds and what bounds it."""
        from afdsim.results.operators import operators

        return _frame(operators(self.scenario, self.run))

    def samples(self, metric: Metric) -> metrics.Samples:
        """Seconds of every counted request (of every gap for "itl")."""
        found = metrics.latencies(self.run)
        if metric not in found:
            from afdsim.scenario.words import hint

            more = hint(metric, "", lambda _: False)
            raise ScenarioError(f"no latency is called {metric!r}: {', '.join(found)}{more}")
        return found[metric]

    def hist(self, metric: Metric = "tpot", bins: metrics.Bins = "auto") -> pd.DataFrame:
        """Histogram of a latency: left_ms, right_ms, count, share."""
        import pandas as pd

        samples = self.samples(metric)
        edges, counts = metrics.hist(samples.values * 1e3, samples.weights, bins)  # noqa: PD011 - no frame
        share = counts / max(counts.sum(), 1.0)
        return pd.DataFrame({"left_ms": edges[:-1], "right_ms": edges[1:], "count": counts.astype(int), "share": share})

    @property
    def plot(self) -> Plots:
        """Figures of this run: ``result.plot.tpot_histogram()``."""
        return Plots(self)

    def report(self) -> Report:
        """Return the report of this run as one HTML page: a notebook shows it, ``.save("report.html")`` writes it."""
        return report([self])

    def save(self, folder: str | Path, *, force: bool = False, log: Iterable[str] = (), pictures: bool = True) -> Path:
        """Write the run folder and return its path; `log` are further lines of ``run.log``.

        Without `pictures` it has no figures and no report, until `draw` adds them; `Result.load` reads it all the same.
        """
        folder = Path(folder)
        check_folder(folder, self.scenario, force=force)
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        for name, text in self._texts().items():
            write_text(folder / name, text)
        for name in FRAMES:
            if len((frame := getattr(self, name)).columns):
                write_frame(frame, folder, name)
        write_text(folder / "run.log", _log(self.manifest, log))
        # last, so that a folder with a manifest is a whole one; pictures only show what it holds
        write_text(folder / "manifest.json", to_json(self._rest()))
        if pictures:
            self.draw(folder)
        return folder

    def draw(self, folder: str | Path) -> None:
        """Add the figures and the report to a run folder."""
        if drawable():
            self._draw(Path(folder) / "figures")
            write_report(Path(folder) / REPORT, self.report)

    def _texts(self) -> dict[str, str]:
        # result.json comes first: it says which scenario the folder is for
        return {
            "result.json": to_json(self.summary),
            "scenario.yaml": yamlfile.dump(self.scenario.given()),
            "scenario.resolved.yaml": yamlfile.dump(self.scenario.resolved()),
        }

    def _rest(self) -> dict[str, Any]:
        """Return what `load` needs beside the frames."""
        formats = [asdict(each) for each in self.formats]
        told = {"notes": self.notes, "formats": formats, "marginal": self.marginal}
        return {"manifest": asdict(self.manifest), "run": _scalars(self.run), **told}

    def _draw(self, folder: Path) -> None:
        from afdsim.results import plot_parts

        folder.mkdir(exist_ok=True)
        for name in (*FIGURES, *(FIRST_TOKEN if self.run.prefilled else ())):
            axes = getattr(self.plot, name)()
            for suffix in ("svg", "png"):
                plot_parts.save(axes, folder / f"{name}.{suffix}")

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """Read a run folder back; ScenarioError if it is none, or not a whole one."""
        folder = Path(folder)
        try:
            saved = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            found = {name: frame_file(folder, name) or folder / f"{name}.csv.gz" for name in FRAMES}
            frames = {name: read_frame(path) for name, path in found.items() if name not in MAY_LACK or path.is_file()}
            run, made, notes = _run(saved["run"], frames), Manifest(**saved["manifest"]), tuple(saved["notes"])
            # older folders have none of these
            formats = tuple(Format(**each) for each in saved.get("formats", ()))
            marginal = tuple(saved.get("marginal", ()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ScenarioError(f"{folder}: not a whole run folder: {error}; 'afdsim run -o' writes one") from None
        scenario = load(folder / "scenario.resolved.yaml")
        return cls(scenario=scenario, run=run, manifest=made, notes=notes, asked=formats, marginal=marginal)

    def __repr__(self) -> str:
        lines = [f"Result of {self.manifest.scenario}, seed {self.seed}"]
        lines += [f"  {name:<26}{value}" for name, value in self._headlines()]
        more = ".summary .requests .tokens .gpus .links .blame .utilization .pipeline .hist() .plot .report() .save()"
        return "\n".join([*lines, f"  {'more':<26}{more}"])

    def _repr_html_(self) -> str:
        from html import escape

        body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self._headlines())
        head = f"<table><caption>{escape(self.manifest.scenario)}, seed {self.seed}</caption>{body}</table>"
        try:
            from afdsim.results.report import excerpt

            return head + excerpt(self)
        except ImportError:
            return head  # without matplotlib or jinja2

    def _headlines(self) -> Iterator[tuple[str, str]]:
        own = self.summary["afdsim"]
        yield "GPUs", f"{own['gpus']}"
        yield "Output tok/s/GPU (TGS)", _shown(own.get("tgs"), ",.0f")
        if "usd_per_1m_output_tokens" in own:
            yield "USD per 1M output tokens", f"{own['usd_per_1m_output_tokens']:.3f}"
        for metric, label, scale in _LATENCIES:
            keys = [f"{statistic}_{metric}_ms" for statistic in ("mean", "p99")]
            ends = [None if key in own.get("too_few", ()) else self.summary.get(key) for key in keys]
            if ends != [None, None]:
                yield label, ", ".join(_shown(end, scale=scale) for end in ends)
        if "load" in own:
            yield "Load", own["load"]
        if "sla" in own:
            yield "SLA", own["sla"]["verdict"]


_LATENCIES = (
    ("ttft", "TTFT mean, p99 (ms)", 1.0),
    ("tpot", "TPOT mean, p99 (ms)", 1.0),
    ("itl", "ITL mean, p99 (ms)", 1.0),
    ("queue", "Queue mean, p99 (ms)", 1.0),
    ("e2el", "E2EL mean, p99 (s)", 1e-3),
)
"""Metric, its headline, headline units per millisecond."""


def _shown(value: float | None, look: str = ".2f", *, scale: float = 1.0) -> str:
    """Return a figure, or n/a where a run has none."""
    return "n/a" if value is None else format(scale * value, look)


def pooled(results: Sequence[Result]) -> dict[str, Any]:
    """Return one summary of independent runs: counts added, all else averaged, intervals over the seeds."""
    found = together([result.summary for result in results], [result.seed for result in results])
    if len(results) > 1:
        own = found["afdsim"]
        own |= {"blame": known(blame.told([result.run for result in results]) or {})} if "blame" in own else {}
        own |= {"marginal": list(results[0].marginal)} if results[0].marginal else {}
    return found


def report(results: Sequence[Result]) -> Report:
    """Return the report of runs that differ in their seed only, as one HTML page."""
    from afdsim.results.report import report as written

    name = results[0].scenario.name
    return written({name: results}, {name: pooled(results)})


def write_report(path: Path, made: Callable[[], Report]) -> None:
    """Write a report beside what it is about; without jinja2 there is none, and one warning says so."""
    try:
        import jinja2  # noqa: F401 - pages are made with it
    except ImportError:
        path.unlink(missing_ok=True)
        warnings.warn("no report: jinja2 is missing; pip install 'afdsim[report]'", stacklevel=3)
        return
    write_text(path, str(made()))


def drawable() -> bool:
    """Whether pictures can be drawn; else one warning says that there are none."""
    try:
        import matplotlib as mpl  # noqa: F401 - plot draws with it
    except ImportError:
        warnings.warn("no figures: matplotlib is missing; pip install 'afdsim[report]'", stacklevel=4)
        return False
    return True


def _clear(folder: Path) -> None:
    """Take away what would be another run's: the mark of a whole folder, pictures, and further seeds."""
    for name in ("manifest.json", "seeds.json", REPORT):
        (folder / name).unlink(missing_ok=True)
    for name, suffix in product((*FIGURES, *FIRST_TOKEN), ("svg", "png")):
        (folder / "figures" / f"{name}.{suffix}").unlink(missing_ok=True)
    for manifest in (folder / SEEDS).glob("*/manifest.json"):
        manifest.unlink()  # first, for a folder that has it is a whole one
        rmtree(manifest.parent)


# the run folder -----------------------------------------------------------------------------------------------------


def check_folder(folder: str | Path, scenario: Scenario, *, force: bool = False) -> None:
    """Refuse a folder that holds something else than a result of `scenario`."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ScenarioError(f"{folder} is a file; -o takes a folder")
    if force or vacant(folder):
        return
    held = _held_key(folder)
    if held is None:
        raise ScenarioError(f"{folder} exists and holds no afdsim result; -o or --force")
    if held != scenario.key:
        raise ScenarioError(f"{folder} exists and holds a different scenario; -o or --force")


def _held_key(folder: Path) -> str | None:
    try:
        saved = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return str(saved["afdsim"]["provenance"]["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def to_json(tree: object) -> str:
    """Return JSON text with a stable order, and an error rather than a NaN."""
    return json.dumps(tree, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _frame(columns: metrics.Columns) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(dict(columns.items()))


def _columns(frame: pd.DataFrame) -> dict[str, Any]:
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def write_frame(frame: pd.DataFrame, folder: Path, name: str) -> None:
    """Write Parquet, or CSV without pyarrow; never both."""
    parquet, csv = folder / f"{name}.parquet", folder / f"{name}.csv.gz"
    try:
        import pyarrow as pa  # noqa: F401 - pandas writes with it
    except ImportError:
        warnings.warn(f"{csv.name} is written as CSV: pyarrow is missing; pip install 'afdsim[parquet]'", stacklevel=3)
        write_whole(csv, lambda path: path.write_bytes(_csv(frame)))
        parquet.unlink(missing_ok=True)
        return
    write_whole(parquet, lambda path: frame.to_parquet(path, engine="pyarrow", compression="zstd", index=False))
    csv.unlink(missing_ok=True)


def _csv(frame: pd.DataFrame) -> bytes:
    text = frame.to_csv(index=False, lineterminator="\n")
    return gzip.compress(text.encode(), mtime=0)


def frame_file(folder: Path, name: str) -> Path | None:
    """Return the file of a frame of a run folder, None where it has none."""
    found = (folder / f"{name}{suffix}" for suffix in (".parquet", ".csv.gz"))
    return next((path for path in found if path.is_file()), None)


def read_frame(path: Path) -> pd.DataFrame:
    """Return the frame in a file, every float exactly; ValueError or OSError where it is damaged."""
    import pandas as pd

    if path.suffix != ".parquet":
        return pd.read_csv(path, engine="python")  # which reads every float back exactly
    try:
        return pd.read_parquet(path)
    except NotImplementedError as error:  # damage that pyarrow takes for a format to come
        raise ValueError(f"{path}: {error}") from None


def _scalars(run: Run) -> dict[str, Any]:
    """Return what of a run is not a frame."""
    return {
        "window": list(run.window),
        "pools": {name: asdict(pool) for name, pool in run.pools.items()},
        "engine": asdict(run.engine),
        "sla": _plain(run.sla),
        "load": run.load and run.load.plain(),
        "bounds": run.bounds and asdict(run.bounds),
        "ranks": run.ranks and asdict(run.ranks),
        **({} if run.failures is None else {"failures": run.failures}),
        **({} if run.kv_cache is None else {"kv_cache": run.kv_cache}),
        **({} if run.mixed is None else {"mixed": run.mixed}),
        **({} if run.sessions is None else {"sessions": run.sessions}),
        **({"cells": list(run.cells)} if run.cells else {}),
        **({} if run.slots is None else {"slots": run.slots}),
        "waits": run.waits,
        "critical": run.critical,
        **({"classes": {name: _plain(sla) for name, sla in run.classes.items()}} if run.classes else {}),
    }


def _plain(sla: metrics.Sla | None) -> dict[str, Any] | None:
    return None if sla is None else {"limits": dict(sla.limits), "percentile": sla.percentile}


def _limits(plain: Mapping[str, Any] | None) -> metrics.Sla | None:
    return None if plain is None else metrics.Sla(**plain)


def _run(scalars: Mapping[str, Any], frames: Mapping[str, pd.DataFrame]) -> Run:
    derived = [name for name in ("queue_ms", "tpot_ms", "e2el_ms", "ttft_ms") if name in frames["requests"]]
    return Run(
        requests=_columns(frames["requests"].drop(columns=derived)),
        tokens=_columns(frames["tokens"]),
        gpus=_columns(frames["gpus"]),
        links=_columns(frames["links"]),
        window=(scalars["window"][0], scalars["window"][1]),
        pools={name: metrics.Pool(**pool) for name, pool in scalars["pools"].items()},
        engine=metrics.Engine(**scalars["engine"]),
        sla=_limits(scalars["sla"]),
        load=scalars["load"] and Load.read(scalars["load"]),
        bounds=scalars["bounds"] and Bounds(**scalars["bounds"]),
        ranks=_ranks(scalars.get("ranks")),  # older folders have none
        failures=scalars.get("failures"),
        kv_cache=scalars.get("kv_cache"),
        mixed=scalars.get("mixed"),
        sessions=scalars.get("sessions"),
        cells=tuple(scalars.get("cells", ())),
        **{name: _columns(frames[name]) for name in MAY_LACK if name in frames},
        slots=scalars.get("slots"),
        waits=scalars.get("waits", {}),
        critical=scalars.get("critical"),
        classes={name: _limits(sla) for name, sla in scalars.get("classes", {}).items()},
    )


def _ranks(found: Mapping[str, Any] | None) -> metrics.Ranks | None:
    if found is None:
        return None
    return metrics.Ranks(**{end: metrics.Rank(**own) for end, own in found.items()})


def _log(made: Manifest, lines: Iterable[str]) -> str:
    """Return what is true of this one execution only."""
    here = (f"python: {platform.python_version()}", f"platform: {platform.platform()}")
    packages = (f"{name}: {number}" for name, number in made.packages.items())
    return "".join(f"{line}\n" for line in (f"afdsim: {made.afdsim}", *here, *packages, *lines))
