"""The experiments about cost run on what ships, and calibration on a small made-up folder."""

import sys

import numpy as np
import pandas as pd
import pytest

from afdsim.cost.roofline import read_table
from afdsim.scenario.document import load
from afdsim.workload.laws import Lognormal, draw
from afdsim.workload.rates import Modulated, State, TimeChange
from afdsim.workload.traces import read_trace


@pytest.fixture
def experiment(repository, monkeypatch):
    """Import the module `name` of an experiment, as its own script does."""

    def imported(folder, name):
        monkeypatch.syspath_prepend(str(repository / "experiments" / folder))
        for stale in ("run", "recipes", "tables", "figures", "deployments", "traces", "gpu"):
            monkeypatch.delitem(sys.modules, stale, raising=False)
        return __import__(name)

    yield imported
    for stale in ("run", "recipes", "tables", "figures", "deployments", "traces", "gpu"):
        sys.modules.pop(stale, None)


def test_the_papers_closed_tables_come_out_to_the_printed_digits(experiment, tmp_path):
    pytest.importorskip("matplotlib")
    run = experiment("step3_paper", "run")
    found = [*run.work(), *run.accelerators(), *run.unit_costs(), *run.costs(), *run.sparsities()]

    assert [len([cell for cell in found if cell.table == table]) for table in ("2 and 3", "6", "7")] == [72, 108, 4]
    assert all(abs(cell.error) < 0.005 for cell in found if cell.table in ("2 and 3", "4", "5"))
    assert all(abs(cell.ours - cell.published) < 0.001 for cell in found if cell.table in ("6", "7"))


def test_expected_tables_are_current(experiment, repository):
    pytest.importorskip("matplotlib")
    run = experiment("step3_paper", "run")
    expected = (repository / "experiments/step3_paper/expected/tables.txt").read_text()
    closed = [*run.work(), *run.accelerators(), *run.unit_costs(), *run.costs(), *run.sparsities()]

    for table in ("2 and 3", "4", "5", "6", "7"):
        assert "\n".join(run.lines(table, [cell for cell in closed if cell.table == table])) in expected


def test_figures_are_drawn(experiment, tmp_path):
    pytest.importorskip("matplotlib")
    run = experiment("step3_paper", "run")
    layer = run.Cell(table="9", row="MFA H800 8K", column="us", published=281.0, ours=290.0)
    sys.modules["figures"].draw([*run.work(), *run.costs(), layer], tmp_path)

    assert len(list(tmp_path.glob("figure*.png"))) == 5


def test_only_h200_holds_every_row_that_the_paper_measured(experiment, repository):
    experiment("step3_paper", "run")
    deployments = sys.modules["deployments"]
    told = pd.read_csv(repository / "experiments/step3_paper/expected/deployments.csv")
    pairs = [(row, gpu) for row in deployments.ROWS for gpu in deployments.GPUS]
    asked = {pair: deployments.deployment(deployments.scenario(*pair, "TP8")) for pair in pairs}
    missing = {(row.name, gpu) for row, gpu in pairs if asked[row, gpu].kv_cache.sequences(row.context) < row.sequences}

    assert missing == {("3A2F 4K BF16", "H800"), ("3A2F 4K BF16", "H100")}
    assert set(told[told["peak_tgs"].isna()][["row", "gpu"]].itertuples(index=False, name=None)) == missing
    assert len(told) == 18


def write_gemms(folder, file):
    """Write a measured file that follows 4 us, 0.7 and 0.8 of H100 in BF16."""
    lines = ["hardware,op,dtype,m,n,k,measured_us"]
    for m in (1, 16, 128, 1024, 4096):
        for k, n in ((1024, 2048), (4096, 4096), (7168, 2048), (2048, 16384)):
            flops, moved = 2.0 * m * n * k, m * (2.0 * k + 2.0 * n) + 2.0 * n * k
            seconds = 4e-6 + max(flops / (989e12 * 0.7), moved / (3.35e12 * 0.8))
            lines.append(f"h100_sxm,gemm,bfloat16,{m},{n},{k},{seconds * 1e6}")
    (folder / file).write_text("\n".join(lines) + "\n")


def test_calibration_fits_measured_files(experiment, tmp_path, capsys):
    run = experiment("calibration", "run")
    write_gemms(tmp_path, "gemm_h100_sxm_bfloat16.csv")
    run.main([str(tmp_path), "--only", "gemm", "-o", str(tmp_path / "out.csv")])
    (row,) = read_table((tmp_path / "out.csv").read_text())
    said = capsys.readouterr().out

    assert (row.gpu, row.kernel, row.dtype, row.samples) == ("H100", "gemm", "bf16", 20)
    assert (row.fixed, row.compute, row.memory) == pytest.approx((4e-6, 0.7, 0.8), rel=0.02)
    assert "no gemm_h200_sxm_bfloat16.csv" in said


def test_shipped_coefficients_still_fit_the_measurements(experiment, shared):
    """Every shipped row with measurements has the errors that it states."""
    run = experiment("calibration", "run")
    recipes = sys.modules["recipes"]
    for recipe in recipes.recipes():
        row = run.shipped(recipe)
        if row is None or row.status != "measured" or recipe.identity.gpu not in ("H100", "H20"):
            continue
        found = run.shipped_errors(row, recipe, recipes.samples(recipe, shared / "silicon"))

        assert np.array([found.median, found.p90]) == pytest.approx([row.median_error, row.p90_error], abs=6e-4)


def test_a_table_of_fused_experts_beats_the_simple_form(experiment, shared):
    tables = experiment("calibration", "tables")
    recipe = next(recipe for recipe in tables.chosen() if recipe.identity.kernel == "grouped_gemm")

    assert np.median(tables.left_out(tables.points(recipe, shared / "silicon"))) < 0.03


def test_laws_of_a_recorded_service_are_those_that_it_was_drawn_from(experiment):
    traces = experiment("calibration", "traces")
    law, rng = Lognormal(mean=2000, cv=1.5, max=50_000), np.random.default_rng(1)
    found = traces.lognormal(draw(law, rng, 100_000))
    change = TimeChange(Modulated(states=(State(rate=16.0, dwell=7.0), State(rate=0.5, dwell=45.0))), rng)
    times = change(np.cumsum(rng.standard_exponential(200_000)))

    assert (found.mean, found.cv) == pytest.approx((2000, 1.5), rel=0.05)
    for window in traces.WINDOWS:
        assert traces.wanted(16.0, 0.5, (7.0, 45.0), window) == pytest.approx(traces.scatter(times, window), rel=0.1)


def test_shipped_workloads_hold_the_laws_of_their_traces(experiment, shared):
    traces = experiment("calibration", "traces")
    for name, file in (
        ("azure_code_burst", "azure23_code.csv"),
        ("mooncake_long_context", "mooncake_conversation.jsonl"),
    ):
        asked, trace = load(name).workload, read_trace(shared / "traces" / file, "auto")
        for given, lengths in ((asked.input_len, trace.input_len), (asked.output_len, trace.output_len)):
            law = traces.lognormal(lengths)

            assert (given.mean, given.cv, given.max) == (round(law.mean), round(law.cv, 2), law.max)


def test_kernels_timed_on_hopper_lie_near_the_shipped_coefficients(experiment, repository):
    gpu = experiment("calibration", "gpu")
    files = [repository / "experiments/calibration" / f"measured_{name}.csv" for name in ("h100", "h200")]
    found = gpu.compared(files)
    tuned = found.loc[(["H100", "H200"], ["gemm", "gemm (LM head)", "core_mfa", "core_gqa"], ["bf16"]), :]

    assert len(tuned) == 8
    assert tuned["median"].max() < 0.11
    assert found.loc[("H200", "core_mla (bmm)", "bf16"), "median"] > 0.6, "three operations are no fused kernel"


def test_coefficients_are_fitted_again_from_the_times_that_are_kept(experiment, repository):
    gpu = experiment("calibration", "gpu")
    rows = read_table(gpu.fits(repository / "experiments/calibration/measured_h200.csv"))

    assert {row.kernel for row in rows} == {probe.kernel for probe in gpu.probes.probes((9, 0))}
    assert {row.gpu for row in rows} == {"H200"}
