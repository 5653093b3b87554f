"""Tables 2 to 9 of the Step-3 paper beside what afdsim computes: ``python run.py [-o FOLDER]``.

Prints every cell with its error; FOLDER (default: `expected` beside this file) gets `cells.csv`, `tables.txt` and the
figures, and as `deployments.txt` and `.csv` the measured rows of table 8 on H800, H100 and H200. Published figures are
read from `tests/data/paper` and `afdsim/data/published.csv`.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))

import deployments
from figures import draw

from afdsim.catalog import entries as catalog
from afdsim.cost import theory
from afdsim.studies.validation import published, validate

HERE = Path(__file__).parent
PAPER = HERE.parent.parent / "tests/data/paper"
NAMES = {
    "DSv3": "deepseek-v3",
    "Kimi K2": "kimi-k2",
    "Qwen3 MoE": "qwen3-235b",
    "Qwen3 32B": "qwen3-32b",
    "Llama 4 M": "llama4-maverick",
    "MM M1": "minimax-m1",
    "ERNIE 4.5": "ernie-4.5-300b",
    "Pangu Pro": "pangu-pro-moe",
    "Step-3": "step3",
}
TITLES = {
    "2 and 3": "Work per decoded token at 8K and 32K",
    "4": "Accelerators: FLOPs per byte",
    "5": "Unit costs in USD (the stored facts hold those of H800)",
    "6": "Theoretical USD per 1M tokens",
    "7": "Minimum sparsity that hides the network",
    "8": "Decoding throughput in tokens/s per GPU, simulated",
    "9": "Time of one attention layer in us",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One published figure and ours."""

    table: str
    row: str
    column: str
    published: float
    ours: float
    note: str = ""

    @property
    def error(self) -> float:
        """Ours over the published one, less one."""
        return self.ours / self.published - 1.0


def rows(name: str) -> list[dict[str, str]]:
    with (PAPER / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def work() -> Iterator[Cell]:
    for row in rows("table2_3_work_per_token.csv"):
        token = theory.work(catalog.llm(NAMES[row["model"]]), int(row["context"]))
        for part in ("kv_bytes", "attention_flops", "linear_flops", "ffn_flops"):
            label = f"{row['model']} {int(row['context']) // 1024}K"
            yield Cell(table="2 and 3", row=label, column=part, published=float(row[part]), ours=getattr(token, part))


def accelerators() -> Iterator[Cell]:
    for row in rows("table4_accelerators.csv"):
        ours = theory.roofline(catalog.gpu(row["accelerator"]))
        theirs = float(row["roofline_flop_per_byte"])
        yield Cell(table="4", row=row["accelerator"], column="FLOP/byte", published=theirs, ours=ours)


def unit_costs() -> Iterator[Cell]:
    for row in rows("table5_unit_costs.csv"):
        gpu = catalog.gpu(row["accelerator"])
        for column, unit in (("usd_per_flop", theory.usd_per_flop), ("usd_per_byte", theory.usd_per_byte)):
            yield Cell(table="5", row=gpu.name, column=column, published=float(row[column]), ours=unit(gpu))


def costs() -> Iterator[Cell]:
    for row in rows("table6_cost.csv"):
        llm, gpu = catalog.llm(NAMES[row["model"]]), catalog.gpu(row["accelerator"])
        ours = {
            "attention_8k_usd": theory.attention_usd(llm, gpu, 8192),
            "attention_32k_usd": theory.attention_usd(llm, gpu, 32768),
            "ffn_usd": theory.ffn_usd(llm, gpu),
        }
        for column, value in ours.items():
            label = f"{row['model']} {gpu.name}"
            yield Cell(table="6", row=label, column=column, published=float(row[column]), ours=value)


def sparsities() -> Iterator[Cell]:
    for row in rows("table7_min_sparsity.csv"):
        ours = theory.min_sparsity(catalog.gpu(row["accelerator"]))
        yield Cell(table="7", row=row["accelerator"], column="S", published=float(row["min_sparsity"]), ours=ours)


def simulated() -> Iterator[Cell]:
    tables = {"afd decode": "8", "afd claim": "8", "attention layer": "9"}
    own = (case for case in published() if case.kind in tables and case.source.startswith("Step-3 paper"))
    for verdict in validate(own):
        case = verdict.case
        kind = {"afd decode": "measured", "afd claim": "computed by the authors"}.get(case.kind, "measured")
        yield Cell(
            table=tables[case.kind],
            row=case.id,
            column=case.unit,
            published=case.measured,
            ours=verdict.predicted,
            note="; ".join(filter(None, (kind, case.note))),
        )


def cells() -> list[Cell]:
    """Return every cell of every table."""
    return [*work(), *accelerators(), *unit_costs(), *costs(), *sparsities(), *simulated()]


def text(found: list[Cell]) -> str:
    return "\n".join(line for table in TITLES for line in lines(table, [cell for cell in found if cell.table == table]))


def lines(table: str, own: list[Cell]) -> Iterator[str]:
    errors = [abs(cell.error) for cell in own]
    yield f"Table{'s' * (' ' in table)} {table}: {TITLES[table]}"
    yield f"  {'row':24} {'column':16} {'published':>11} {'ours':>11} {'error':>8}"
    for cell in own:
        figures = f"{shown(cell.published)} {shown(cell.ours)} {cell.error:+8.2%}"
        yield f"  {cell.row:24} {cell.column:16} {figures}  {cell.note}".rstrip()
    yield f"  {len(own)} cells; absolute error: median {statistics.median(errors):.2%}, worst {max(errors):.2%}"
    yield ""


def shown(value: float) -> str:
    small = abs(value) >= 1e5 or abs(value) < 1e-3
    return f"{value:11.2e}" if small else f"{value:11,.3f}" if value < 10 else f"{value:11,.0f}"


def save(found: Iterable[Cell], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("table", "row", "column", "published", "ours", "error", "note"))
        for cell in found:
            figures = (f"{cell.published:g}", f"{cell.ours:.6g}", f"{cell.error:.5f}")
            writer.writerow((cell.table, cell.row, cell.column, *figures, cell.note))


def main(arguments: list[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected", help="folder for tables and figures")
    folder = parser.parse_args(arguments).output
    folder.mkdir(parents=True, exist_ok=True)
    found = cells()
    report = text(found)
    print(report)
    (folder / "tables.txt").write_text(report, encoding="utf-8")
    save(found, folder / "cells.csv")
    again = list(deployments.predicted())
    print(deployments.text(again))
    (folder / "deployments.txt").write_text(deployments.text(again), encoding="utf-8")
    pd.DataFrame(again).to_csv(folder / "deployments.csv", index=False, float_format="%.6g")
    draw(found, folder)
    print(f"wrote {folder}: tables.txt, cells.csv, deployments.txt and .csv, five figures")


if __name__ == "__main__":
    main(sys.argv[1:])
