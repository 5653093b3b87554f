"""Laws of the cost model, and golden values: a coefficient that moves must move a line here too."""

import csv
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Gqa, Layer, Precision, Split
from afdsim.cost.all_to_all import exchange
from afdsim.cost.operators import (
    Operator,
    attention_operators,
    boundary_operators,
    core_operator,
    ffn_operators,
    gather_operator,
    reduction_operator,
    scatter_operator,
)
from afdsim.cost.roofline import STATUSES, Roofline, expected_rows, known_backends, padding, read_coefficient, table
from afdsim.errors import CatalogError

COST = Roofline()
STEP3 = catalog.llm("step3")
MOE = STEP3.layers[4]
FP8, BF16 = Precision(), Precision(attention="bf16", ffn="bf16", kv_cache="bf16")
MAIN = Split(instances=2, ep=1, tp=8)
TABLE_9 = Path(__file__).parent.parent / "data/paper/table9_attention_layer_us.csv"
COLLECTIVES = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all")
TOKENS = np.arange(1.0, 601.0)
MANY = np.arange(1.0, 3001.0)


@pytest.fixture(params=catalog.gpus())
def gpu(request):
    return catalog.gpu(request.param)


@pytest.fixture(params=catalog.llms())
def llm(request):
    return catalog.llm(request.param)


MODELS = tuple(map(catalog.llm, catalog.llms()))


def operators(llm, tokens, many, precision=FP8, split=MAIN):
    """Return every operator of every kind of layer, `tokens` on attention and `many` on FFN GPUs."""
    found = [*boundary_operators(llm, tokens, precision=precision), reduction_operator(llm, tokens, 2)]
    for layer in set(llm.layers):
        found += attention_operators(llm, layer, tokens, precision=precision)
        found += attention_operators(llm, layer, tokens, precision=precision, o_proj="tp8")
        found += attention_operators(llm, layer, tokens, precision=precision, tp=4)
        found += [core_operator(layer, tokens, 8192 * tokens, precision=precision)]
        found += ffn_operators(llm, layer, many, precision=precision, split=split)
    gather = gather_operator(llm, many, gpus=8, top_k=8, precision=precision)
    return [*found, gather, scatter_operator(llm, many, gpus=8)]


def seconds(operator, gpu, cost=COST):
    return np.atleast_1d(cost.seconds(operator, gpu))


@pytest.mark.parametrize("precision", [FP8, BF16, Precision(attention="int8", ffn="fp4", kv_cache="int8")])
def test_one_more_token_never_costs_less(gpu, precision):
    for llm in MODELS:
        for operator in operators(llm, TOKENS, MANY, precision):
            assert (np.diff(seconds(operator, gpu)) >= 0).all(), (llm.name, operator.name)


def test_one_more_context_token_never_costs_less(gpu):
    context = np.arange(0.0, 30_000.0)
    for layer, tp in product({layer for llm in MODELS for layer in llm.layers}, (1, 4)):
        operator = core_operator(layer, 64.0, context, precision=FP8, tp=tp)
        assert (np.diff(seconds(operator, gpu)) >= 0).all()


@pytest.mark.parametrize("query_tokens", [1, 2, 3])
def test_one_more_query_token_never_costs_less(gpu, query_tokens):
    def at(count):
        return core_operator(llm.layers[-1], 64.0 * count, 64 * 4096.0, precision=FP8, query_tokens=count)

    for llm in MODELS:
        # A full tile holds one more query for nothing, to the rounding of its padding factor.
        assert seconds(at(query_tokens + 1), gpu) >= seconds(at(query_tokens), gpu) * (1 - 1e-12), llm.name


@pytest.mark.parametrize("precision", [FP8, BF16])
def test_nothing_beats_the_roofline(gpu, precision):
    for operator in (each for llm in MODELS for each in operators(llm, TOKENS, MANY, precision)):
        if operator.kernel in COLLECTIVES:
            continue
        peak = gpu.flops["bf16"] if operator.dtype == "fp32" else gpu.peak(operator.dtype)
        bound = np.maximum(operator.flops / peak, operator.bytes / gpu.memory_bandwidth)
        assert (seconds(operator, gpu) >= bound).all(), operator.name


def test_collectives_stay_below_the_achieved_link(gpu):
    for kernel in COLLECTIVES:
        wire = np.arange(0.0, 1e8, 1e6)
        operator = Operator(name=kernel, stage="gather", kernel=kernel, dtype="bf16", bytes=wire, gpus=8)
        assert (np.diff(seconds(operator, gpu)) > 0).all()
        assert seconds(operator, gpu)[0] > 0


def test_h800_is_h100_but_for_its_nvlink(llm):
    h800, h100 = catalog.gpu("H800"), catalog.gpu("H100")
    for operator in operators(llm, TOKENS, MANY):
        slower, faster = seconds(operator, h800), seconds(operator, h100)
        if operator.kernel in COLLECTIVES:
            assert (slower[-1:] > faster[-1:]).all()
        else:
            assert np.array_equal(slower, faster)


def test_every_coefficient_names_its_source_and_status(repository):
    rows = [row for rows in table().values() for row in rows]
    owners = {"*", *catalog.gpus(), *(catalog.gpu(name).family for name in catalog.gpus())}

    assert len(rows) == len((repository / "afdsim/data/coefficients.csv").read_text().splitlines()) - 1
    for row in rows:
        assert row.source
        assert row.status in STATUSES
        assert row.status != "family" or row.lender in owners - {row.gpu}
        assert row.gpu in owners
        assert row.fixed > 0
        assert 0 <= row.memory <= 1
        assert row.status != "measured" or row.samples or row.kernel == "small"
        assert (row.samples > 0) == (not math.isnan(row.median_error))


@pytest.mark.parametrize(("source", "status"), [(" ", "measured"), ("a paper", "guessed")])
def test_a_coefficient_without_a_source_or_a_known_status_is_refused(source, status):
    line = {"gpu": "X", "kernel": "gemm", "dtype": "bf16", "source": source, "status": status}
    with pytest.raises(CatalogError, match="X gemm bf16 states no source"):
        read_coefficient(line)


def test_an_empty_number_of_a_coefficient_is_none():
    numbers = ("gpus", "compute", "memory", "bandwidth", "samples")
    words = {"gpu": "X", "kernel": "gemm", "dtype": "bf16", "backend": "*", "peak": "", "source": "a paper"}
    line = words | dict.fromkeys((*numbers, "median_error"), "") | {"status": "measured", "tile": "64"}
    row = read_coefficient(line | {"fixed": "3e-6", "quantise": "0.5"})

    assert [getattr(row, name) for name in numbers] == [0] * len(numbers)
    assert math.isnan(row.median_error)
    assert math.isnan(row.p90_error)
    assert (row.fixed, row.tile, row.quantise) == (3e-6, 64, 0.5)


@pytest.mark.parametrize(
    ("name", "kernel", "dtype", "backends", "status", "lender"),
    [
        ("H100", "core_mfa", "fp8", (), "measured", "H100"),
        ("H800", "core_mfa", "fp8", (), "family", "H100"),
        ("H100", "gemm", "fp8", (), "measured", "H100"),
        ("H800", "gemm", "fp8", (), "family", "H100"),
        ("H800", "core_gqa", "bf16", (), "family", "H100"),
        ("H800", "core_gqa", "bf16", ("flashinfer",), "measured", "H800"),
        ("H100", "core_gqa", "bf16", ("flashinfer",), "family", "H800"),
        ("A800", "gemm", "bf16", (), "family", "A100"),
        ("A800", "core_gqa", "bf16", (), "measured", "A800"),
        ("A100", "core_gqa", "bf16", (), "family", "A800"),
        ("B200", "core_gqa", "fp8", (), "measured", "B200"),
        ("GB200", "core_gqa", "fp8", (), "family", "B200"),
        ("GB200", "core_mla", "fp8", (), "measured", "GB200"),
        ("GB200", "gemm", "fp8", (), "measured", "GB200"),
        ("H20", "gemm", "int8", (), "transferred", "H20"),
        ("H800", "gemm", "int8", (), "transferred", "H100"),
        ("H800", "reduce", "bf16", (), "assumed", "*"),
        ("H100", "small", "bf16", (), "measured", "H100"),
        ("H800", "small", "bf16", (), "family", "H100"),
        ("GB200", "small", "bf16", (), "transferred", "*"),
    ],
)
def test_a_status_is_seen_from_the_gpu_that_is_asked_for(name, kernel, dtype, backends, status, lender):
    asked = Operator(name="x", stage="ffn", kernel=kernel, dtype=dtype)
    gpu, cost = catalog.gpu(name), Roofline(backends=backends)
    row = cost.coefficient(asked, gpu)

    assert (row.status, row.lender) == (status, lender)
    assert cost.law(asked, gpu).status == status


@pytest.mark.parametrize(
    ("source", "lender"), [("B200's Marlin", "B200"), ("Marlin", "A100"), ("the maker's own table", "A100")]
)
def test_a_lender_is_named_by_one_word_at_the_head_of_a_source(source, lender):
    (row,) = (row for row in table()["A100", "gemm"] if row.dtype == "bf16")

    assert replace(row, source=source).lender == lender


def test_a_row_marked_family_has_the_numbers_of_its_lender():
    for row in (row for rows in table().values() for row in rows if row.status == "family"):
        (own,) = (
            each
            for each in table()[row.lender, row.kernel]
            if (each.dtype, each.backend, each.status) == (row.dtype, row.backend, "measured")
        )
        same = replace(row, gpu=own.gpu, status=own.status, source=own.source)
        assert row.source == f"{row.lender}'s {own.source}"
        assert repr(same) == repr(own)  # a missing error is NaN, which equals nothing


@pytest.mark.parametrize(
    ("name", "lacks", "has"), [("H100", "fp4", "fp8"), ("H800", "fp4", "fp8"), ("B200", "int4", "bf16")]
)
def test_what_stands_in_for_a_format_that_a_gpu_lacks_is_assumed(name, lacks, has):
    gpu = catalog.gpu(name)
    other, own = (COST.law(Operator(name="x", stage="ffn", kernel="gemm", dtype=d), gpu) for d in (lacks, has))

    assert other.status == "assumed"
    assert other.per_flop == own.per_flop
    assert other.source == f"{has} in place of {lacks}: {own.source}"


def test_a_measured_row_of_the_format_itself_comes_before_any_that_stands_in():
    asked = Operator(name="x", stage="ffn", kernel="gemm", dtype="int4", flops=1.0)
    (bf16,) = (row for row in table()["A100", "gemm"] if row.dtype == "bf16")
    marlin = replace(bf16, dtype="int4", fixed=5e-6, source="Marlin")
    for name, status in (("A100", "measured"), ("A800", "family")):
        law = Roofline(own=(marlin,)).law(asked, catalog.gpu(name))
        assert (law.fixed, law.source, law.status) == (5e-6, "Marlin", status)
        assert law.per_flop == pytest.approx(1 / (312e12 * marlin.compute))


PRICED = {"bf16": BF16, "fp8": FP8, **{each: Precision(ffn=each) for each in ("fp4", "int8", "int4")}}


@pytest.mark.parametrize("formats", PRICED)
def test_every_kernel_of_every_model_is_priced_on_every_gpu(gpu, formats):
    """On a GPU of which nothing was measured all is transferred or assumed, and says from whom."""
    precision = PRICED[formats]
    cells = (Split(instances=2, ep=1, tp=8), Split(instances=1, ep=8, tp=1))
    found = [
        (operator, COST.coefficient(operator, gpu))
        for llm, split in product(MODELS, cells)
        for operator in operators(llm, TOKENS[:3], MANY[:3], precision, split)
    ]
    new = gpu.nearest is not None

    for operator, row in found:
        assert row.source
        assert not new or row.status in ("transferred", "assumed")
        assert not new or row.gpu in (gpu.name, gpu.family, "*") or row.source.startswith(f"{row.gpu}: ")
        assert operator.dtype in (*gpu.flops, "fp32") or row.dtype == "*" or row.status == "assumed"


@pytest.mark.parametrize("count", [4, 8, 32, 128])
def test_every_gpu_has_an_all_to_all(gpu, count):
    for operation in ("dispatch", "combine"):
        found = exchange("low_latency", operation, gpu, count)
        assert found.seconds(1e6) > 0
        assert gpu.nearest is None or found.row.status in ("transferred", "assumed")


@pytest.mark.parametrize(
    ("name", "kernel", "dtype", "status", "lender"),
    [
        ("B300", "gemm", "fp4", "transferred", "B200"),
        ("B300", "core_gqa", "fp8", "transferred", "B200"),
        ("GB300", "core_gqa", "fp8", "transferred", "GB200"),
        ("GB300", "gemm", "fp8", "transferred", "GB200"),
        ("H20-141GB", "gemm", "fp8", "family", "H20"),
        ("H20-141GB", "core_mla", "bf16", "family", "H20"),
        ("H20-141GB", "gemm", "bf16", "transferred", "H20"),
        ("MI300X", "gemm", "fp8", "transferred", "H200"),
        ("MI300X", "gemm", "fp4", "assumed", "H200"),
        ("MI300X", "all_reduce", "bf16", "transferred", "MI300X"),
        ("MI325X", "grouped_gemm", "fp8", "transferred", "H200"),
        ("MI325X", "all_reduce", "bf16", "transferred", "MI300X"),
        ("RTX PRO 6000", "gemm", "bf16", "transferred", "L20"),
        ("RTX PRO 6000", "core_gqa", "bf16", "transferred", "RTX PRO 6000"),
        ("RTX PRO 6000", "all_reduce", "bf16", "assumed", "RTX PRO 6000"),
    ],
)
def test_what_was_not_measured_on_a_gpu_comes_from_the_nearest(name, kernel, dtype, status, lender):
    row = COST.coefficient(Operator(name="x", stage="ffn", kernel=kernel, dtype=dtype, gpus=8), catalog.gpu(name))

    assert (row.status, row.gpu) == (status, lender)


def test_two_gpus_of_a_full_mesh_share_one_link():
    wires = {n: 1 / COST.law(_gather(n), catalog.gpu("MI300X")).per_byte for n in (2, 4, 8)}

    assert wires[2] == pytest.approx(wires[8] / 7, rel=2e-3)
    assert wires[4] == pytest.approx(wires[8] * 3 / 7, rel=2e-3)


def test_an_unpriced_kernel_is_refused_with_the_way_out():
    operator = Operator(name="x", stage="ffn", kernel="convolution", dtype="bf16")
    with pytest.raises(
        CatalogError, match=r"no coefficient for kernel 'convolution' in bf16 on H20; .*coefficients\.csv"
    ):
        COST.seconds(operator, catalog.gpu("H20"))


def test_core_attention_follows_its_law_to_the_bit(gpu):
    for name in ("step3", "deepseek-v3", "qwen3-235b", "minimax-m1"):
        for batch, context in ((1.0, 17.0), (128.0, 524288.0)):
            operator = core_operator(catalog.llm(name).layers[-1], batch, context, precision=FP8)
            law = COST.law(operator, gpu)
            direct = law.fixed + max(operator.flops * law.per_flop, operator.bytes * law.per_byte)
            assert COST.seconds(operator, gpu) == direct
            assert law.source


def test_a_foreign_dtype_runs_in_the_next_best_one():
    a800 = catalog.gpu("A800")
    gemm = attention_operators(STEP3, MOE, 64.0, precision=FP8)[3]
    law = COST.law(gemm, a800)

    assert law.status == "assumed"
    assert law.per_flop == 1 / (624e12 * 0.708)
    assert law.fixed == pytest.approx(9.7e-6)


def test_fits_that_hold_the_quantisation_get_none_added():
    gemm = attention_operators(STEP3, MOE, 64.0, precision=FP8)[1]

    assert COST.law(gemm, catalog.gpu("H800")).fixed == pytest.approx(7.0e-6)
    assert COST.law(gemm, catalog.gpu("H20")).fixed == pytest.approx(4.4e-6 + 3e-6)


def test_backends_change_the_tile_and_the_kernel():
    h20 = catalog.gpu("H20")
    layer = catalog.llm("qwen3-235b").layers[0]
    core = core_operator(layer, 256.0, 256 * 32768.0, precision=BF16, tp=4)
    padded, fitting = (float(Roofline(backends=names).seconds(core, h20)) for names in ((), ("flashinfer",)))

    assert padded == pytest.approx(2544e-6, rel=1e-3)
    assert fitting == pytest.approx(1413e-6, rel=1e-2)


def test_an_unknown_backend_is_refused():
    assert {"fa3", "flashinfer", "flashmla", "trtllm", "deepgemm", "cutlass"} <= known_backends()
    with pytest.raises(CatalogError, match=r"no kernel was measured for 'magic' \(known: cutlass"):
        Roofline(backends=("magic",))


def test_fused_experts_are_dearer_than_the_grouped_gemm():
    (experts,) = ffn_operators(STEP3, MOE, 2048.0, precision=FP8, split=MAIN)
    grouped, fused = (seconds(experts, catalog.gpu("H800"), Roofline(backends=names)) for names in ((), ("cutlass",)))

    assert fused > 1.2 * grouped


def test_random_loads_cost_half_a_tile_per_expert():
    assert expected_rows(np.array([128.0, 256.0, 512.0]), 64) == pytest.approx([160, 288, 544], abs=1.5)
    assert expected_rows(0.0, 64) == 0


@pytest.mark.parametrize("tile", [16, 32, 64, 128])
def test_expected_rows_match_the_poisson_law(tile):
    for mean in (0.01, 0.5, 3.0, 20.0, 50.0, 64.0, 100.0, 300.0):
        counts = np.arange(1, int(mean + 12 * math.sqrt(mean) + 30))
        logs = counts * math.log(mean) - mean - np.array([math.lgamma(n + 1.0) for n in counts])
        exact = float((np.exp(logs) * np.ceil(counts / tile) * tile).sum())
        assert float(expected_rows(mean, tile)) == pytest.approx(exact, rel=0.02)


@given(mean=st.floats(0, 5000), more=st.floats(1e-3, 100), tile=st.sampled_from([16, 32, 64]))
def test_expected_rows_grow_and_never_fall_below_the_mean(mean, more, tile):
    low, high = expected_rows(np.array([mean, mean + more]), tile)

    assert low < high
    assert low >= mean


@given(mean=st.floats(20_000, 1e7), tile=st.sampled_from([1, 16, 64, 128]))
def test_many_random_rows_waste_half_a_tile_and_never_a_row_more(mean, tile):
    assert expected_rows(mean, tile) - mean == pytest.approx((tile - 1) / 2, abs=0.01)


def test_rows_that_are_known_fill_whole_tiles_and_what_has_none_is_not_padded():
    none = Operator(name="core", stage="attention", kernel="core_gqa", dtype="bf16")

    assert padding(none, 64) == 1.0
    assert padding(replace(none, rows=np.array([0, 1, 64, 65])), 64).tolist() == [64.0, 64.0, 1.0, 128 / 65]


def test_equal_rows_pad_to_the_tile_exactly():
    layer = Layer(attention=Gqa(heads=65, kv_heads=1, head_dim=256), ffn=MOE.ffn)
    core = core_operator(layer, 1.0, 1e6, precision=BF16)
    law = COST.law(core, catalog.gpu("H800"))

    assert law.per_flop == pytest.approx(128 / 65 / (989e12 * 0.6))


def test_collectives_of_any_size_take_the_next_measured_one():
    h100 = catalog.gpu("H100")
    laws = {n: COST.law(_gather(n), h100).per_byte for n in (2, 3, 4, 6, 8, 72)}

    assert laws[3] == laws[4]
    assert laws[6] == laws[8] == laws[72]
    assert len(set(laws.values())) == 3


def _gather(gpus):
    return Operator(name="all-gather", stage="gather", kernel="all_gather", dtype="bf16", bytes=1e6, gpus=gpus)


def test_a_collective_of_one_is_free():
    for operator in (
        gather_operator(STEP3, 64.0, gpus=1, top_k=3, precision=FP8),
        scatter_operator(STEP3, 64.0, gpus=1),
    ):
        assert COST.seconds(operator, catalog.gpu("H800")) == 0


# Evidence that was not fitted on: kernels of the pinned rules, and published attention layers.


def micro(operators_, gpu):
    return float(sum(COST.seconds(operator, gpu) for operator in operators_)) * 1e6


@pytest.mark.parametrize(("name", "gather", "scatter"), [("H800", 95, 173), ("H100", 63, 99)])
def test_stages_of_2a2f_at_4k(name, gather, scatter):
    gpu = catalog.gpu(name)
    core = core_operator(MOE, 128.0, 128 * 4096.0, precision=FP8)
    stage = [*attention_operators(STEP3, MOE, 128.0, precision=FP8), core, reduction_operator(STEP3, 128.0, 2)]

    assert micro([core], gpu) == pytest.approx(120, rel=0.03)
    assert micro(stage, gpu) == pytest.approx(233, rel=0.02)
    assert micro([gather_operator(STEP3, 2048.0, gpus=8, top_k=3, precision=FP8)], gpu) == pytest.approx(gather, abs=1)
    assert micro([scatter_operator(STEP3, 2048.0, gpus=8)], gpu) == pytest.approx(scatter, abs=1)


def test_dense_layers_o_proj_and_head_of_step3():
    h800 = catalog.gpu("H800")
    dense = ffn_operators(STEP3, STEP3.layers[0], 2048.0, precision=FP8, split=MAIN)
    gemms = {o.name: micro([o], h800) for o in attention_operators(STEP3, MOE, 128.0, precision=FP8)}
    head = {o.name: micro([o], h800) for o in boundary_operators(STEP3, 128.0, precision=FP8)}

    assert micro(dense, h800) == pytest.approx(119, abs=1)
    assert gemms["o_proj"] == pytest.approx(50, abs=1)
    assert gemms["router"] == pytest.approx(5, abs=0.5)
    assert 660 <= head["lm head"] <= 730


@pytest.mark.parametrize(("tokens", "low", "high"), [(1, 10, 15), (64, 12, 15), (128, 18, 22), (256, 36, 50)])
def test_absorbed_products_of_mla(tokens, low, high):
    llm = catalog.llm("deepseek-v3")
    pair = [o for o in attention_operators(llm, llm.layers[9], float(tokens), precision=FP8) if o.kernel == "bmm"]

    assert low <= micro(pair, catalog.gpu("H100")) <= high


def published_attention():
    names = {
        "MFA-Step3": ("step3", 1, 64.0),
        "MLA-DSv3": ("deepseek-v3", 1, 64.0),
        "GQA-Qwen3": ("qwen3-235b", 4, 256.0),
    }
    with TABLE_9.open() as file:
        for row in csv.DictReader(file):
            for gpu in ("H800", "H20", "A800"):
                if row[f"{gpu.lower()}_us"]:
                    yield gpu, *names[row["attention"]], int(row["context"]), float(row[f"{gpu.lower()}_us"])


def predicted_attention(name, model, tp, batch, context):
    """Return the microseconds of one attention layer, BF16 core and 8-bit GEMMs, without collectives."""
    precision, llm = Precision(kv_cache="bf16"), catalog.llm(model)
    block = attention_operators(llm, llm.layers[-1], batch, precision=precision, tp=tp)
    own = [o for o in block if o.gpus == 1 and not o.name.startswith(("post-norm", "router"))]
    core = core_operator(llm.layers[-1], batch, batch * context, precision=precision, tp=tp)
    return micro([*own, core], catalog.gpu(name))


def test_published_attention_layers_are_predicted():
    errors = {
        (name, model, context): predicted_attention(name, model, tp, batch, context) / measured - 1
        for name, model, tp, batch, context, measured in published_attention()
    }

    assert len(errors) == 11
    assert np.median(np.abs(list(errors.values()))) <= 0.10
    assert all(abs(error) <= 0.25 for error in errors.values()), errors


GOLDEN = {
    "H800 step3 block": 107.38834970926497,
    "H800 step3 core": 123.21652818261632,
    "H800 step3 ffn": 189.13360382553253,
    "H800 step3 boundary": 716.0354826106156,
    "H800 deepseek-v3 block": 130.8583840742923,
    "H800 deepseek-v3 core": 176.6838174582196,
    "H800 deepseek-v3 ffn": 362.56516446891754,
    "H800 deepseek-v3 boundary": 718.4324728075597,
    "H800 qwen3-235b block": 63.764658121928,
    "H800 qwen3-235b core": 262.315158751696,
    "H800 qwen3-235b ffn": 115.98608317635124,
    "H800 qwen3-235b boundary": 504.58589448026146,
    "H800 gather": 95.0592,
    "H800 scatter": 172.5632,
    "H100 step3 block": 107.38834970926497,
    "H100 step3 core": 123.21652818261632,
    "H100 step3 ffn": 189.13360382553253,
    "H100 step3 boundary": 716.0354826106156,
    "H100 deepseek-v3 block": 130.8583840742923,
    "H100 deepseek-v3 core": 176.6838174582196,
    "H100 deepseek-v3 ffn": 362.56516446891754,
    "H100 deepseek-v3 boundary": 718.4324728075597,
    "H100 qwen3-235b block": 63.764658121928,
    "H100 qwen3-235b core": 262.315158751696,
    "H100 qwen3-235b ffn": 115.98608317635124,
    "H100 qwen3-235b boundary": 504.58589448026146,
    "H100 gather": 63.5201606118547,
    "H100 scatter": 98.7594801641587,
    "H20 step3 block": 207.89497065891598,
    "H20 step3 core": 339.8644821474536,
    "H20 step3 ffn": 649.7966357193335,
    "H20 step3 boundary": 2144.382644939251,
    "H20 deepseek-v3 block": 255.70373188995683,
    "H20 deepseek-v3 core": 811.161205368634,
    "H20 deepseek-v3 ffn": 703.0754799821003,
    "H20 deepseek-v3 boundary": 2151.938866114555,
    "H20 qwen3-235b block": 106.58434526691424,
    "H20 qwen3-235b core": 650.7289642949072,
    "H20 qwen3-235b ffn": 244.01345345524925,
    "H20 qwen3-235b boundary": 1461.4842638291243,
    "H20 gather": 63.5201606118547,
    "H20 scatter": 98.7594801641587,
    "A800 step3 block": 179.55513139695714,
    "A800 step3 core": 206.54561094017095,
    "A800 step3 ffn": 1130.2744992690525,
    "A800 step3 boundary": 1356.1718291562934,
    "A800 deepseek-v3 block": 242.72331260431963,
    "A800 deepseek-v3 core": 803.0688464957266,
    "A800 deepseek-v3 ffn": 1221.6967861309809,
    "A800 deepseek-v3 boundary": 1360.8642772890735,
    "A800 qwen3-235b block": 98.32809405255878,
    "A800 qwen3-235b core": 330.42341818181814,
    "A800 qwen3-235b ffn": 433.9826219578462,
    "A800 qwen3-235b boundary": 942.3951626002766,
    "A800 gather": 108.77611374407581,
    "A800 scatter": 187.2674133333333,
    "B200 step3 block": 77.32937657865789,
    "B200 step3 core": 51.25717972350231,
    "B200 step3 ffn": 103.38241311760865,
    "B200 step3 boundary": 371.1879005273307,
    "B200 deepseek-v3 block": 90.039147894644,
    "B200 deepseek-v3 core": 81.17257791181963,
    "B200 deepseek-v3 ffn": 190.21773198868172,
    "B200 deepseek-v3 boundary": 372.3458574193218,
    "B200 qwen3-235b block": 50.49716494376417,
    "B200 qwen3-235b core": 88.15721491411813,
    "B200 qwen3-235b ffn": 66.75823550750924,
    "B200 qwen3-235b boundary": 269.06735325016643,
    "B200 gather": 45.43993918508007,
    "B200 scatter": 69.44118883946622,
}


def golden():
    """Return microseconds of the main operators at 128 and 2048 tokens and 4096 of context."""
    found = {}
    for name in ("H800", "H100", "H20", "A800", "B200"):
        for model in ("step3", "deepseek-v3", "qwen3-235b"):
            llm, gpu = catalog.llm(model), catalog.gpu(name)
            layer = llm.layers[10]
            found[f"{name} {model} block"] = micro(attention_operators(llm, layer, 128.0, precision=FP8), gpu)
            core = core_operator(layer, 128.0, 128 * 4096.0, precision=FP8)
            found[f"{name} {model} core"] = micro([core], gpu)
            ffn = ffn_operators(llm, layer, 2048.0, precision=FP8, split=MAIN)
            found[f"{name} {model} ffn"] = micro(ffn, gpu)
            found[f"{name} {model} boundary"] = micro(boundary_operators(llm, 128.0, precision=FP8), gpu)
        found[f"{name} gather"] = micro([gather_operator(STEP3, 2048.0, gpus=8, top_k=3, precision=FP8)], gpu)
        found[f"{name} scatter"] = micro([scatter_operator(STEP3, 2048.0, gpus=8)], gpu)
    return found


def test_golden_values():
    assert golden() == pytest.approx(GOLDEN, rel=1e-9)


@pytest.mark.parametrize(("tp", "us"), [(1, 472), (8, 63)])
def test_a_head_over_the_gpus_of_a_rank_takes_what_the_model_says(tp, us):
    operators = boundary_operators(catalog.llm("qwen3-235b"), 256, precision=Precision(), tp=tp)
    (head,) = (each for each in operators if each.name == "lm head")

    assert COST.seconds(head, catalog.gpu("H100")) * 1e6 == pytest.approx(us, abs=0.5)
