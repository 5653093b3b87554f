"""Several seeds of one scenario in one run folder: the first one's is the folder itself.

Each further seed has a folder of its own in ``seeds/``, without pictures; the report is of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afdsim.results.result import REPORT, SEEDS, Result, drawable, pooled, report, to_json, write_report
from afdsim.results.whole import write_text


def save_seeds(results: Sequence[Result], folder: Path) -> None:
    """Write ``seeds.json``, the pooled summary and every seed's own, and what further seeds have; then `draw_seeds`."""
    for result in results[1:]:
        own = folder / SEEDS / str(result.seed)
        if not whole(own):
            result.save(own, force=True, pictures=False)
    each = {str(result.seed): result.summary for result in results}
    write_text(folder / "seeds.json", to_json({"pooled": pooled(results), "seeds": each}))
    if len(results) > 1:  # that of the first one alone
        (folder / REPORT).unlink(missing_ok=True)


def draw_seeds(results: Sequence[Result], folder: Path) -> None:
    """Add the report of all seeds to a folder, and the figures of the first if it is the only one."""
    if len(results) == 1:
        results[0].draw(folder)
    elif drawable():
        write_report(folder / REPORT, lambda: report(results))


def whole(folder: Path) -> bool:
    """Whether a folder holds all of a run: its manifest is written last."""
    return (folder / "manifest.json").is_file()


def load_seeds(folder: str | Path) -> list[Result]:
    """Read all seeds of a run folder back in the order in which they ran; of a run that was stopped those it kept."""
    folder = Path(folder)
    first = Result.load(folder)
    names = [str(seed) for seed in first.scenario.run.seeds if seed != first.seed]
    return [first, *(Result.load(folder / SEEDS / name) for name in names if whole(folder / SEEDS / name))]
