"""A tour of afdsim: load, run, histogram, sweep, Pareto, causes, compare. ``python run.py [-o FOLDER]``.

FOLDER (default: `tour` in the working directory) gets the pictures and the points of the sweep.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import afdsim


def tour(folder: Path) -> None:
    """Walk through the library."""
    # A scenario says everything: model, cluster, workload, limits. This one runs in a second.
    small = afdsim.load("small")
    print(small.name, "has the key", small.key[:8])

    # One run: flat keys as vLLM has them, and ours.
    result = afdsim.simulate(small)
    own = result.summary["afdsim"]
    print(f"TPOT p50 {result.summary['median_tpot_ms']:.2f} ms, TGS {own['tgs']:,.0f} tokens/s per GPU")

    # Its frames: every request, every token, every GPU.
    slowest = result.requests.dropna(subset="tpot_ms").nlargest(1, "tpot_ms").iloc[0]
    print(f"slowest request: {slowest['request_id']:.0f} with {slowest['tpot_ms']:.2f} ms per token")

    # A histogram as a table, and as a picture.
    histogram = result.hist("tpot", bins=10)
    print(f"{histogram['share'].max():.0%} of the requests are in the fullest of {len(histogram)} bins")
    afdsim.plot.save(result.plot.tpot_histogram(), folder / "histogram.png")

    # Many runs: a row for each point and seed, in as many processes as you like; run it again and nothing is repeated.
    ratio = "deployment.attention.instances"
    over = {ratio: [1, 2, 3], "deployment.max_num_seqs": [12, 24, 48]}
    frame = afdsim.sweep(small, over, seeds=2, workers=2, cache=folder / "points")
    best = frame.loc[frame["tgs"].idxmax()]
    print(f"{len(frame)} rows; most tokens per GPU with {best[ratio]} attention instances")

    # What a user feels against what the owner earns.
    afdsim.plot.save(afdsim.plot.pareto(frame, hue=ratio), folder / "pareto.png")

    # Why: where the GPU time of two deployments went, drawn side by side.
    wide = afdsim.simulate(small.vary(ratio, 2))
    pair = {"1A1F (16 GPUs)": result, "2A1F (24 GPUs)": wide}
    afdsim.plot.save(afdsim.plot.causes(pair), folder / "causes.png")

    # The same comparison with every figure, under one workload and the same seeds.
    compared = afdsim.compare(small, small.varied({"name": "small_2a1f", ratio: 2}))
    print(compared.text())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("tour"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    tour(folder)


if __name__ == "__main__":
    main()
