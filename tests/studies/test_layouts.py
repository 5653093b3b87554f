"""Every way to lay a model out, as scenarios take it."""

import pickle

import numpy as np
import pytest

import afdsim
from afdsim.catalog import entries as catalog
from afdsim.errors import ScenarioError
from afdsim.studies.layouts import AFD, EP, FAMILIES, MIXED, TP, layouts
from afdsim.studies.trials import Question, bounded
from tests.cases import tiny_hybrid, tiny_model, tiny_sparse, tiny_windowed

TINY = {"dense first": tiny_model(4, 1), "windows": tiny_windowed(4), "index": tiny_sparse(4), "Mamba": tiny_hybrid(4)}


def base(model, **changes):
    data = {
        "model": model,
        "deployment": {"type": "afd", "attention": {"gpu": "H800", "instances": 1}, "max_num_seqs": 8},
        "workload": {"arrival": {"process": "closed_loop"}, "input_len": 100, "output_len": 16, "num_requests": 9},
    }
    data["deployment"]["ffn"] = data["deployment"]["attention"]
    return afdsim.load(data).varied(changes)


def found(model, **gpus):
    return list(layouts(catalog.llm(model), gpus))


def labels(model, family, **gpus):
    return [layout.label for layout in found(model, **gpus) if layout.family == family]


@pytest.mark.parametrize("model", ["step3", "qwen3-235b", "llama4-maverick", "qwen3-32b", *TINY])
@pytest.mark.parametrize("gpus", [{"H800": 8, "L20": 8}, {"GB200": 8}, {"H20": 3}], ids=" ".join)
def test_scenarios_take_every_layout_or_lack_memory(model, gpus):
    model = TINY.get(model, model)
    question, some = Question(base=base(model)), found(model, **gpus)
    out = [bound for layout in some if isinstance(bound := bounded(question, layout), str)]

    assert [why for why in out if " GB " not in why] == []
    assert len({layout.label for layout in some}) == len(some)
    assert all(sum(layout.gpus.values()) == layout.count <= sum(gpus.values()) for layout in some)
    assert all(layout.gpus[kind] <= gpus[kind] for layout in some for kind in layout.gpus)


def test_a_dense_model_is_cut_in_one_way():
    some = found("qwen3-32b", H800=16)

    assert {layout.family for layout in some} == {AFD, TP}
    assert {tuple(layout.deployment["ffn"]["parallelism"].items()) for layout in some if layout.family == AFD} == {
        (("ep", 1), ("tp", 8))
    }


def test_few_gpus_are_parts_of_a_server():
    assert labels("qwen3-30b-a3b", TP, H800=4) == ["TP1 H800", "TP2 H800", "TP2 H800, EP2", "TP4 H800", "TP4 H800, EP4"]
    assert "EP2 H800" in labels("qwen3-30b-a3b", EP, H800=2)
    assert "1A1F H800, EP4, 2 micro-batches" in labels("qwen3-30b-a3b", AFD, H800=8)
    assert labels("qwen3-30b-a3b", AFD, H800=1) == []


def test_tensor_parallelism_leaves_a_server_where_nvlink_does():
    assert "TP8 GB200" in labels("qwen3-235b", TP, GB200=72)
    assert "TP16 H800" not in labels("qwen3-235b", TP, H800=72)
    assert labels("qwen3-30b-a3b", TP, L20=8) == ["TP1 L20"]


def test_attention_of_afd_is_cut_where_that_cuts_the_cache():
    def cut(model):
        return {label for label in labels(model, AFD, H800=16) if "attention TP" in label}

    assert cut("qwen3-235b")
    assert not cut("step3")


def test_shared_experts_run_on_either_side():
    shared = [label for label in labels("step3", MIXED, H800=8, H20=8) if "shared expert on attention" in label]

    assert len(shared) * 2 == len(labels("step3", MIXED, H800=8, H20=8))
    assert not [label for label in labels("qwen3-235b", MIXED, H800=8, H20=8) if "shared" in label]


def test_a_network_of_afd_keeps_no_other_kind_out():
    network = {"link": {"bandwidth": "200Gbps", "latency": "20us"}, "efficiency": 0.9}
    question = Question(base=base("step3-small", network=network))
    some = {layout.family: layout for layout in found("step3-small", H800=16)}

    assert {family for family, layout in some.items() if isinstance(bounded(question, layout), str)} == set()
    assert question.scenario(some[EP], 8).network.link.bandwidth == question.base.network.link.bandwidth
    assert question.scenario(some[AFD], 8).network == question.base.network


def test_families_are_all_there():
    assert {layout.family for layout in found("step3", H800=16, H20=16)} == set(FAMILIES)


def test_a_layout_that_a_scenario_refuses_is_said_to_be_out():
    layout = found("step3-small", H800=16)[0]
    wrong = type(layout)(family=AFD, label="", deployment={**layout.deployment, "gate": "nobody"}, gpus=layout.gpus)
    question = Question(base=base("step3-small"))

    with pytest.raises(ScenarioError):
        question.scenario(wrong, 8)
    assert "gate" in bounded(question, wrong)


def test_a_question_travels_without_what_was_computed_for_it():
    question, layout = Question(base=base("step3-small")), found("step3-small", H800=16)[0]
    before = len(pickle.dumps(question))
    told = bounded(question, layout)

    assert len(pickle.dumps(question)) == before
    assert (bounded(pickle.loads(pickle.dumps(question)), layout).rate == told.rate).all()


def test_layouts_are_bounded_alike_in_whatever_order():
    some = found("step3-small", H800=16, H20=8)
    asked, again = Question(base=base("step3-small")), Question(base=base("step3-small"))
    one = [bounded(asked, layout) for layout in some]
    other = [bounded(again, layout) for layout in reversed(some)][::-1]

    assert all(np.array_equal(a.rate, b.rate) for a, b in zip(one, other, strict=True))
