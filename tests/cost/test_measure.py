"""Calibration without a GPU: what it says, which shapes it would time, and the lines it makes of timings."""

import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from afdsim.catalog import entries as catalog
from afdsim.cli.main import main
from afdsim.cost import measure
from afdsim.cost.fitting import to_csv
from afdsim.cost.roofline import Roofline, read_table
from afdsim.errors import CatalogError

H200 = catalog.gpu("H200")


def device(capability=(9, 0), present=True):
    """Return what the module asks of PyTorch before any kernel runs."""
    cuda = SimpleNamespace(get_device_capability=lambda: capability, is_available=lambda: present)
    return SimpleNamespace(cuda=cuda)


def timed(slower=1.0):
    """Return every probe with the seconds that the shipped coefficients give it."""
    cost = Roofline(backends=("fa3",))
    return [
        (probe, slower * float(cost.seconds(probe.operator, H200)))
        for probe in measure.probes(device())
        if probe.operator.kernel in ("gemm", "bmm", "core_gqa", "core_mqa", "core_mfa")
    ]


def test_without_pytorch_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = CliRunner().invoke(main, ["calibrate"])

    assert found.exit_code == 2
    assert found.stderr == "calibrate needs PyTorch: pip install 'afdsim[calibrate]'\n"


def test_without_a_gpu_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", device(present=False))
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
    kinds = {
        capability: {(p.kernel, p.dtype) for p in measure.probes(device(capability))} for capability in ((8, 0), (9, 0))
    }

    assert ("gemm", "fp8") not in kinds[8, 0]
    assert kinds[9, 0] - kinds[8, 0] == {("gemm", "fp8")}
    assert {kernel for kernel, _ in kinds[8, 0]} == {"gemm", "bmm", "core_mfa", "core_mqa", "core_gqa"}


def test_timings_become_coefficients_that_the_cost_model_reads():
    rows = read_table(to_csv(measure.fitted(timed(slower=1.5), H200, "afdsim calibrate: a test")))
    found = {(row.kernel, row.dtype): row for row in rows}

    assert {"gemm", "bmm", "core_gqa"} <= {kernel for kernel, _ in found}
    assert all(row.gpu == "H200" and row.status == "measured" for row in rows)
    assert all(row.median_error < 0.03 for row in rows)
    probe, seconds = timed(slower=1.5)[20]
    assert Roofline(own=rows).seconds(probe.operator, H200) == pytest.approx(seconds, rel=0.05)


def test_a_kernel_that_the_device_lacks_is_left_out(monkeypatch):
    def fail(torch, probe, repeats):
        if probe.dtype == "fp8":
            raise NotImplementedError("no scaled product here")
        return 1e-5

    said = []
    monkeypatch.setattr(measure, "time_kernel", fail)
    kinds = {probe.dtype for probe, _ in measure._timed(device(), 3, said.append)}

    assert kinds == {"bf16"}
    assert said.count("gemm fp8 left out: no scaled product here") == 1
