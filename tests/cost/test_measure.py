"""Calibration without a GPU: what it says, which shapes it would time, and the lines it makes of timings."""

import sys
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from pandas import read_csv

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Precision, Split, without_shared
from afdsim.cli.explain import _calibration_lines
from afdsim.cli.main import main
from afdsim.cost import measure
from afdsim.cost.fitting import to_csv
from afdsim.cost.measure import Calibration
from afdsim.cost.operators import boundary_operators, expert_operator, reduction_operator
from afdsim.cost.roofline import Roofline, read_table
from afdsim.errors import CatalogError

H200 = catalog.gpu("H200")


def without_a_device():
    """Return what the module asks of PyTorch before any kernel runs."""
    return SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))


def timed(slower=1.0):
    """Return every probe with the seconds that the shipped coefficients give it."""
    return [(probe, slower * measure.shipped_seconds(probe, H200)) for probe in measure.probes((9, 0))]


def test_without_pytorch_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = CliRunner().invoke(main, ["calibrate"])

    assert found.exit_code == 2
    assert found.stderr == "calibrate needs PyTorch: pip install 'afdsim[calibrate]'\n"


def test_without_a_gpu_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", without_a_device())
    found = CliRunner().invoke(main, ["calibrate"])

    assert found.exit_code == 2
    assert found.stderr == "calibrate found no CUDA GPU on this machine; run it where one is\n"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA L20", "L20"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_devices_are_recognised_by_their_names(name, found):
    assert measure.recognised(name, None).name == found


def test_a_stated_name_wins_and_a_stranger_is_refused():
    assert measure.recognised("NVIDIA H200", "h20").name == "H20"
    with pytest.raises(CatalogError, match="no GPU in 'NVIDIA RTX 4090'; name one with --gpu"):
        measure.recognised("NVIDIA RTX 4090", None)


def test_old_devices_are_not_asked_for_fp8():
    kinds = {capability: {(p.kernel, p.dtype) for p in measure.probes(capability)} for capability in ((8, 0), (9, 0))}
    plain = {"gemm", "bmm", "core_mfa", "core_mqa", "core_gqa", "grouped_gemm"}

    assert kinds[9, 0] - kinds[8, 0] == {("gemm", "fp8"), ("grouped_gemm", "fp8")}
    assert {kernel for kernel, _ in kinds[8, 0]} == plain | {"reduce", "embedding", "sampling", "small"}


def test_every_probe_is_work_as_the_model_counts_it():
    llm, precision = catalog.llm("deepseek-v3"), Precision()
    found = {(probe.kernel, probe.dtype, probe.shape): probe for probe in measure.probes((9, 0))}
    boundary = {each.kernel: each for each in boundary_operators(llm, 64.0, precision=precision)}
    experts = llm.layers[-1].ffn
    routed = expert_operator(llm, without_shared(experts), 64.0 * 32, precision=precision, split=Split(ep=8))

    assert found["reduce", "bf16", (2, 64, 7168)].operator.bytes == reduction_operator(llm, 64.0, 2.0).bytes
    assert found["embedding", "bf16", (64, 7168)].operator.bytes == boundary["embedding"].bytes
    assert found["sampling", "bf16", (64, llm.vocab)].operator.bytes == boundary["sampling"].bytes
    assert found["grouped_gemm", "fp8", (7168, 2048, 32, 64)].operator.bytes == routed.bytes
    assert found["grouped_gemm", "fp8", (7168, 2048, 32, 64)].operator.flops == routed.flops
    assert all(probe.kernel == probe.operator.kernel for probe in found.values())


def test_what_a_call_moves_comes_from_memory_unless_it_was_just_written():
    found = {probe.kernel: measure._calls(None, replace(probe, make=lambda torch: object())) for probe in first()}

    assert len(set(map(id, found["small"]))) == 1
    assert all(len(set(map(id, calls))) == len(calls) for kernel, calls in found.items() if kernel != "small")
    assert all(
        len(calls) * probe.moved >= measure.FLUSH or len(calls) == max(measure.LAUNCHES)
        for probe, calls in ((probe, found[probe.kernel]) for probe in first())
        if probe.kernel != "small"
    )


def first():
    """Return a probe of every kernel."""
    return list({probe.kernel: probe for probe in measure.probes((9, 0))}.values())


def test_timings_become_coefficients_that_the_cost_model_reads():
    rows = read_table(to_csv(measure.fitted(timed(slower=1.5), H200, "afdsim calibrate: a test")))
    found = {(row.kernel, row.dtype): row for row in rows}

    assert set(found) == {(probe.kernel, probe.dtype) for probe in measure.probes((9, 0))}
    assert all(row.gpu == "H200" and row.status == "measured" for row in rows)
    assert all(row.median_error < 0.03 for row in rows)
    assert found["reduce", "bf16"].compute == found["sampling", "bf16"].memory == 0.0
    probe, seconds = timed(slower=1.5)[20]
    assert Roofline(own=rows).seconds(probe.operator, H200) == pytest.approx(seconds, rel=0.05)


def test_the_shipped_coefficients_are_held_against_what_was_timed():
    found = Calibration(device="a test", gpu=H200, timed=timed(slower=1.25), lines=())
    lines = [click.unstyle(text).split() for text in _calibration_lines(found)]
    written = read_csv(StringIO(measure.times_csv(found.timed, H200)))

    assert measure.shipped_errors(found.timed, H200).median == pytest.approx(0.2)
    assert {tuple(cells[3:5]) for cells in lines[3:]} == {("20%", "20%")}
    assert list(written) == ["gpu", "kernel", "dtype", "shape", "us", "shipped_us"]
    assert (written.us / written.shipped_us).to_numpy() == pytest.approx(1.25, abs=0.01)


def test_a_kernel_that_the_device_lacks_is_left_out_and_a_shape_that_does_not_fit(monkeypatch):
    def fail(torch, probe, repeats):
        if probe.dtype == "fp8":
            raise NotImplementedError("no scaled product here")
        if probe.shape == (1, 4096, 4096):
            raise RuntimeError("CUDA out of memory")
        return 1e-5

    said = []
    monkeypatch.setattr(measure, "time_kernel", fail)
    found = [p for p, _ in measure.time_all(None, measure.probes((9, 0)), repeats=3, progress=said.append)]

    assert {probe.dtype for probe in found} == {"bf16"}
    assert said.count("gemm fp8 left out: no scaled product here") == 1
    assert said.count("gemm bf16 1x4096x4096 left out: does not fit") == 1
    assert "gemm bf16 8x4096x4096: 10.0 us" in said
