"""Several seeds of one scenario in one run folder: the first one's is the folder itself.

Each further seed has a folder of its own in ``seeds/``, without pictures; the report is of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afdsim.results.result import REPORT, SEEDS, Result, pooled, report, to_json, write_report, write_text


def save_seeds(results: Sequence[Result], folder: Path) -> None:
    """Write ``seeds.json``, the pooled summary and every seed's own, what further seeds have, and the report of all."""
    for result in results[1:]:
        own = folder / SEEDS / str(result.seed)
        if not (own / "manifest.json").is_file():
            result.save(own, pictures=False)
    each = {str(result.seed): result.summary for result in results}
    write_text(folder / "seeds.json", to_json({"pooled": pooled(results), "seeds": each}))
    if len(results) > 1 and (folder / REPORT).is_file():
        write_report(folder / REPORT, lambda: report(results))


def load_seeds(folder: str | Path) -> list[Result]:
    """Read all seeds of a run folder back in the order in which they ran; of a run that was stopped those it kept."""
    folder = Path(folder)
    first = Result.load(folder)
    names = [str(seed) for seed in first.scenario.run.seeds if seed != first.seed]
    return [first, *(Result.load(folder / SEEDS / name) for name in names if (folder / SEEDS / name).is_dir())]
