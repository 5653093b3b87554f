"""Tables 2, 3, 6 and 7 of the Step-3 paper, to the digits printed; figures in tests/data/paper."""

import csv
from pathlib import Path

import pytest

from afdsim.catalog import entries as catalog
from afdsim.cost.theory import (
    attention_usd,
    best_pair,
    dense_batch,
    ffn_cards,
    ffn_usd,
    ideal_batch,
    intensity,
    largest_context,
    min_sparsity,
    roofline,
    usd_per_byte,
    usd_per_flop,
    work,
)
from afdsim.errors import CatalogError

PAPER = Path(__file__).parent.parent / "data/paper"
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
ACCELERATORS = ("H800", "H20", "A800", "910B")


def rows(name):
    with (PAPER / name).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("part", ["kv_bytes", "attention_flops", "linear_flops", "ffn_flops"])
@pytest.mark.parametrize("row", rows("table2_3_work_per_token.csv"), ids=lambda row: f"{row['model']}-{row['context']}")
def test_work_per_token_to_three_digits(row, part):
    ours = getattr(work(catalog.llm(NAMES[row["model"]]), int(row["context"])), part)

    assert f"{ours:.2e}" == f"{float(row[part]):.2e}"


@pytest.mark.parametrize("row", rows("table6_cost.csv"), ids=lambda row: f"{row['model']}-{row['accelerator']}")
def test_usd_per_million_tokens_to_the_printed_digit(row):
    llm, gpu = catalog.llm(NAMES[row["model"]]), catalog.gpu(row["accelerator"])
    ours = [attention_usd(llm, gpu, 8192), attention_usd(llm, gpu, 32768), ffn_usd(llm, gpu)]
    theirs = [float(row[key]) for key in ("attention_8k_usd", "attention_32k_usd", "ffn_usd")]

    assert ours == pytest.approx(theirs, abs=0.001)


def test_all_cells_are_there():
    assert len(rows("table2_3_work_per_token.csv")) * 4 == 72
    assert len(rows("table6_cost.csv")) * 3 == 108


@pytest.mark.parametrize("row", rows("table7_min_sparsity.csv"), ids=lambda row: row["accelerator"])
def test_minimum_sparsity_to_the_printed_digit(row):
    assert f"{min_sparsity(catalog.gpu(row['accelerator'])):.3f}" == row["min_sparsity"]


@pytest.mark.parametrize(
    ("name", "context", "usd"),
    [
        ("step3", 8192, 0.055),
        ("deepseek-v3", 8192, 0.068),
        ("qwen3-235b", 8192, 0.062),
        ("step3", 32768, 0.129),
        ("deepseek-v3", 32768, 0.211),
        ("qwen3-235b", 32768, 0.193),
    ],
)
def test_summary_costs_of_the_best_pair(name, context, usd):
    pair = best_pair(catalog.llm(name), map(catalog.gpu, ACCELERATORS), context)

    assert pair.usd == pytest.approx(usd, abs=0.001)


def test_step3_attends_on_h20_and_multiplies_on_h800():
    pair = best_pair(catalog.llm("step3"), map(catalog.gpu, ACCELERATORS), 32768)

    assert (pair.attention.name, pair.ffn.name) == ("H20", "H800")


@pytest.mark.parametrize(("name", "flops_per_byte"), [("step3", 128), ("deepseek-v3", 512), ("qwen3-235b", 32)])
def test_arithmetic_intensity(name, flops_per_byte):
    assert intensity(catalog.llm(name).layers[-1].attention) == flops_per_byte


@pytest.mark.parametrize("row", rows("table4_accelerators.csv"), ids=lambda row: row["accelerator"])
def test_roofline_of_the_accelerators(row):
    assert roofline(catalog.gpu(row["accelerator"])) == pytest.approx(float(row["roofline_flop_per_byte"]), abs=0.5)


def test_unit_costs_of_h800():
    h800 = catalog.gpu("H800")

    assert usd_per_flop(h800) == pytest.approx(2.80e-19, rel=0.005)
    assert f"{usd_per_byte(h800):.2e}" == "1.66e-16"


def test_weak_hardware_of_section_6():
    step3 = catalog.llm("step3")

    assert largest_context(step3, catalog.gpu("L20"), o_proj=8) == pytest.approx(328_000, rel=0.02)
    assert ffn_cards(step3, catalog.gpu("L20")) == 48
    assert ffn_cards(step3, catalog.gpu("L4")) == 144


def test_batches_that_make_an_ffn_compute_bound():
    h800 = catalog.gpu("H800")

    assert dense_batch(h800) == pytest.approx(295, abs=1)
    assert ideal_batch(catalog.llm("deepseek-v3"), h800) == pytest.approx(dense_batch(h800) * 256 / 9)


def test_a_gpu_without_a_price_says_so():
    with pytest.raises(CatalogError, match="no price is known for H200"):
        usd_per_flop(catalog.gpu("H200"))
