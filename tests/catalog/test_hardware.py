import json
from dataclasses import FrozenInstanceError, replace

import pytest

from afdsim.catalog import entries as catalog
from afdsim.errors import CatalogError


@pytest.fixture(params=catalog.gpus())
def gpu(request):
    return catalog.gpu(request.param)


def test_every_gpu_states_its_sources(gpu):
    assert gpu.source
    assert gpu.nic.source


def test_peaks_grow_as_elements_shrink(gpu):
    peaks = [gpu.flops[dtype] for dtype in ("bf16", "fp8", "fp4") if dtype in gpu.flops]

    assert peaks == sorted(peaks)


def test_a_nic_never_achieves_more_than_its_line(gpu):
    assert 0 < gpu.nic.achieved <= gpu.nic.bandwidth


def test_every_gpu_computes_in_every_known_dtype(gpu):
    for dtype in ("bf16", "fp8", "int8", "fp4"):
        assert gpu.peak(dtype) == gpu.flops[gpu.native(dtype)]


def test_an_unknown_dtype_is_refused_with_the_known_ones(gpu):
    with pytest.raises(CatalogError, match="known dtypes: fp4, fp8, int8, bf16"):
        gpu.peak("int2")


def test_ampere_and_ascend_run_fp8_weights_as_int8():
    assert catalog.gpu("A800").native("fp8") == "int8"
    assert catalog.gpu("910B").native("fp8") == "int8"
    assert catalog.gpu("A800").peak("fp8") == 624e12


def test_h800_is_h100_with_another_nvlink():
    h800, h100 = catalog.gpu("H800"), catalog.gpu("H100")

    assert replace(h800, name="H100", nvlink=h100.nvlink, usd_per_hour=h100.usd_per_hour, source=h100.source) == h100


def test_h20_servers_have_half_the_nics():
    assert catalog.gpu("H20").nic.achieved == 20e9
    assert catalog.gpu("H800").nic.achieved == 40e9


def test_hardware_is_frozen_and_hashable(gpu):
    with pytest.raises(FrozenInstanceError):
        gpu.memory = 0.0
    assert len({gpu, catalog.gpu(gpu.name)}) == 1


def test_table_4_of_the_paper(repository):
    lines = (repository / "tests/data/paper/table4_accelerators.csv").read_text().splitlines()[1:]
    for name, usd, bf16, fp8, bandwidth, _ in (line.split(",") for line in lines):
        gpu = catalog.gpu(name)
        assert gpu.usd_per_hour == float(usd)
        assert gpu.memory_bandwidth == float(bandwidth)
        assert gpu.flops["bf16"] == pytest.approx(float(bf16), rel=1e-3)
        assert not fp8 or gpu.flops["fp8"] == pytest.approx(float(fp8), rel=1e-3)


def test_the_data_file_is_plain_json(repository):
    entries = json.loads((repository / "afdsim/data/gpus.json").read_text())

    assert tuple(entries) == catalog.gpus()
