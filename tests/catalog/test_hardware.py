import json
from dataclasses import FrozenInstanceError, replace

import pytest

from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import SUBSTITUTES, foreign_formats, stand_in
from afdsim.catalog.llm import Precision
from afdsim.cost import theory
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
    for dtype in SUBSTITUTES:
        assert gpu.peak(dtype) == gpu.flops[gpu.native(dtype)]


def test_an_unknown_dtype_is_refused_with_the_known_ones(gpu):
    with pytest.raises(CatalogError, match="known dtypes: fp4, fp8, int8, int4, w8a16, bf16"):
        gpu.peak("int2")


def test_ampere_and_ascend_run_fp8_weights_as_int8():
    assert catalog.gpu("A800").native("fp8") == "int8"
    assert catalog.gpu("910B").native("fp8") == "int8"
    assert catalog.gpu("A800").peak("fp8") == 624e12


def test_int4_is_unpacked_to_bf16_everywhere(gpu):
    assert gpu.native("int4") == "bf16"
    assert stand_in(gpu, "int4") == (
        f"{gpu.name} unpacks int4 weights: computes in bf16, weights keep the bytes of int4, unpacking is not counted; assumed"
    )


def test_integers_stand_in_for_no_float_in_theory(gpu):
    for dtype in SUBSTITUTES:
        assert theory.peak(gpu, dtype) == gpu.flops[gpu.native(dtype, integers=False)]


def test_a_format_that_a_gpu_has_needs_no_stand_in(gpu):
    assert [stand_in(gpu, dtype) for dtype in gpu.flops] == [None] * len(gpu.flops)


@pytest.mark.parametrize(
    ("attention", "ffn", "precision", "sentences"),
    [
        ("H100", "H100", {}, []),
        ("B200", "B200", {"ffn": "fp4"}, []),
        (
            "H100",
            "H100",
            {"ffn": "fp4"},
            [
                "H100 has no FP4 units: computes in fp8, weights keep the bytes of fp4, unpacking is not counted; assumed"
            ],
        ),
        ("H100", "B200", {"ffn": "fp4"}, []),
        (
            "A800",
            "H20",
            {"kv_cache": "bf16"},
            [
                "A800 has no FP8 units: computes in int8, weights keep the bytes of fp8, unpacking is not counted; assumed"
            ],
        ),
        (
            "A800",
            "H20",
            {},
            [
                "A800 has no FP8 units: computes in int8, weights and KV cache keep the bytes of fp8, unpacking is not counted; assumed"
            ],
        ),
        (
            "A800",
            "A800",
            {"ffn": "bf16"},
            [
                "A800 has no FP8 units: computes in int8, the KV cache keeps the bytes of fp8, unpacking is not counted; assumed"
            ],
        ),
    ],
)
def test_what_stands_in_for_a_format_that_a_gpu_lacks_is_said(attention, ffn, precision, sentences):
    gpus = {"attention": catalog.gpu(attention), "ffn": catalog.gpu(ffn)}

    assert foreign_formats(catalog.llm("deepseek-v3"), Precision(**precision), **gpus) == sentences


def test_blackwell_ultra_has_more_fp4_and_hardly_any_int8():
    for ultra, plain in (("B300", "B200"), ("GB300", "GB200")):
        new, old = catalog.gpu(ultra).flops, catalog.gpu(plain).flops
        assert new["fp4"] == 1.5 * old["fp4"] == 3 * new["fp8"]
        assert (new["bf16"], new["fp8"]) == (old["bf16"], old["fp8"])
        assert new["int8"] < 0.05 * old["int8"]


def test_siblings_have_the_silicon_of_their_family():
    for name in ("H20-141GB", "MI325X"):
        gpu = catalog.gpu(name)
        assert gpu.flops == catalog.gpu(gpu.family).flops
        assert gpu.memory > 1.3 * catalog.gpu(gpu.family).memory


def test_whoever_is_nearest_is_in_the_catalog(gpu):
    assert gpu.nearest is None or gpu.nearest in catalog.gpus()
    assert gpu.nearest != gpu.name


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
