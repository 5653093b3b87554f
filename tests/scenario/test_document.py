import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim import ScenarioError
from afdsim.scenario import yamlfile
from afdsim.scenario.document import Scenario, load, locate, schema, shipped, vary
from afdsim.scenario.streams import Kind, stream

SMALL = """\
model: step3-small
deployment:
  type: afd
  attention: {gpu: H800, instances: 1}
  ffn: {gpu: H800, instances: 1}
  max_num_seqs: 48
workload:
  arrival: {process: closed_loop}
  input_len: 1024
  output_len: 64
  num_requests: 768
"""


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def trace(folder):
    return write(folder, "t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n")


@pytest.fixture
def small_file(tmp_path):
    return write(tmp_path, "mine.yaml", SMALL)


def test_the_main_scenario_is_the_papers_deployment():
    main = load("step3_2a2f_4k")

    assert main.deployment.slots == 6144
    output_len = main.workload.output_len
    halfway = output_len.mean * (1 + output_len.cv**2) / 2  # of the answers in flight when one looks
    assert main.workload.input_len.mean + halfway == 4096
    assert (main.workload.num_requests, main.deployment.num_microbatches, main.sla.tpot) == (12288, 3, 0.05)
    assert main.network.link.bandwidth * main.network.efficiency == 40e9
    assert sum(
        (main.network.synchronise, main.network.post, main.network.poll, main.network.link.latency)
    ) == pytest.approx(20e-6)
    assert (main.variation.event, main.variation.step, main.variation.link) == (0.006, 0.005, 0.027)


def test_names_and_paths_lead_to_the_same_scenario(repository, monkeypatch):
    keys = {load(name).key for name in ("small", "small.yaml", repository / "scenarios" / "small.yaml")}
    monkeypatch.chdir("/")

    assert keys == {load("scenarios/small.yaml").key}
    assert set(shipped()) >= {"small", "step3_2a2f_4k", "step3_poisson", "azure_conversation"}
    assert locate("small").is_file()


def test_a_file_of_the_users_wins_over_a_shipped_name(tmp_path, monkeypatch):
    write(tmp_path, "small.yaml", SMALL.replace("768", "5"))
    monkeypatch.chdir(tmp_path)

    assert load("small.yaml").workload.num_requests == 5
    assert load("small").workload.num_requests == 768


def test_an_unknown_name_lists_what_is_shipped():
    with pytest.raises(
        ScenarioError, match=r"smal: no such file, and no shipped scenario; did you mean 'small'\? \(shipped: "
    ):
        load("smal")


@pytest.mark.parametrize("name", [name for name in shipped() if name != "azure_conversation"])
def test_resolved_text_loads_to_the_same_key(name):
    scenario = load(name)
    text = yamlfile.dump(scenario.resolved())

    assert load(yamlfile.parse(text, "again").data).key == scenario.key
    assert load(scenario.given()).key == scenario.key


def test_resolved_shows_every_default_with_its_unit():
    resolved = load("small").resolved()

    assert resolved["network"]["link"]["latency"] == "9 us"
    assert resolved["deployment"]["attention"]["parallelism"] == {"dp": 8, "tp": 1}
    assert resolved["deployment"]["ffn"]["parallelism"] == {"ep": 1, "tp": 8}
    assert resolved["run"]["seeds"] == [0]
    json.dumps(resolved, allow_nan=False)


def test_an_infinite_rate_survives_the_round_trip():
    counted = ["workload.duration=null", "workload.num_requests=9"]
    base = load("step3_poisson", overrides=["workload.arrival.request_rate=.inf", *counted])

    assert base.workload.arrival.request_rate == np.inf
    assert load(base.resolved()).key == base.key


def test_the_key_ignores_spelling_and_follows_meaning(small_file, tmp_path):
    base = load(small_file)
    spelled = write(
        tmp_path,
        "sub/mine.yaml",
        SMALL.replace("H800", "h800").replace("input_len: 1024", "input_len: {value: 1024, distribution: constant}"),
    )

    assert load(spelled).key == base.key
    assert load(small_file, overrides=["network.post=1500ns"]).key == base.key
    assert load(small_file, overrides=["network.post=1501ns"]).key != base.key


def test_the_key_holds_the_content_of_a_trace_not_its_place(tmp_path):
    first, moved = trace(tmp_path / "a"), trace(tmp_path / "b")
    keys = [load("azure_conversation", overrides=[f"workload.trace.path={path}"]).key for path in (first, moved)]
    moved.write_text(moved.read_text() + "2023-11-16 18:15:47.6805900,374,45\n")
    longer = load("azure_conversation", overrides=[f"workload.trace.path={moved}"]).key

    assert keys[0] == keys[1] != longer


@given(
    st.sampled_from(
        [("deployment.max_num_seqs", 7), ("network.link.latency", "3us"), ("sla.tpot", "9ms"), ("run.seeds", [4])]
    )
)
def test_vary_changes_one_value_and_the_key(change):
    base = load("small")
    path, value = change
    varied = base.vary(path, value)
    differing = [leaf for leaf, (old, new) in leaves(base.resolved(), varied.resolved()).items() if old != new]

    assert differing == [path]
    assert varied.key != base.key
    assert vary(varied, path, value).key == varied.key
    assert base.key == load("small").key


def leaves(old, new, prefix=""):
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = {}
        for key in {**old, **new}:
            pairs |= leaves(old.get(key), new.get(key), f"{prefix}.{key}".lstrip("."))
        return pairs
    return {prefix: (old, new)}


def test_vary_takes_numpy_numbers_and_whole_maps():
    base = load("small")

    assert base.vary("deployment.max_num_seqs", np.int64(96)).deployment.max_num_seqs == 96
    uniform = base.vary("workload.output_len", {"distribution": "uniform", "min": 2, "max": 9})
    assert uniform.workload.output_len.max == 9


def test_vary_to_nothing_brings_the_default_back():
    assert load("small").vary("variation.event", None).variation.event == 0.0


def test_a_wrong_axis_is_named_before_anything_runs():
    with pytest.raises(ScenarioError) as caught:
        load("small").vary("deployment.atn.instances", 3)

    assert str(caught.value) == (
        "deployment.atn.instances: no such key 'atn' under 'deployment' (has: type, attention, ffn, num_microbatches, "
        "max_num_seqs, gpu_memory_utilization, boundary, gap, host_overhead, gate, shared_expert, dispatch, mtp)"
    )


def test_extends_merges_maps_and_replaces_lists(tmp_path):
    write(tmp_path, "base.yaml", SMALL + "run: {seeds: [1, 2, 3]}\nname: base\n")
    child = write(
        tmp_path, "child.yaml", "extends: base.yaml\ndeployment: {attention: {instances: 3}}\nrun: {seeds: [9]}\n"
    )
    scenario = load(child)

    assert scenario.deployment.attention.instances == 3
    assert scenario.deployment.attention.gpu == "H800"
    assert scenario.run.seeds == (9,)
    assert scenario.name == "child"


def test_extends_is_relative_to_its_file_and_knows_shipped_names(tmp_path, monkeypatch):
    write(tmp_path, "deep/base.yaml", SMALL)
    child = write(tmp_path, "deep/er/child.yaml", "extends: ../base.yaml\n")
    monkeypatch.chdir("/")

    assert load(child).key == load(tmp_path / "deep/base.yaml").vary("name", "child").key
    assert load({"extends": "small", "name": "x"}).workload.num_requests == 768


def test_null_takes_an_inherited_key_away(tmp_path):
    write(tmp_path, "base.yaml", SMALL + "variation: {event: 0.3}\n")

    assert load(write(tmp_path, "child.yaml", "extends: base.yaml\nvariation: {event: null}\n")).variation.event == 0.0


def test_extends_in_a_circle_is_refused_where_it_is_written(tmp_path):
    a = write(tmp_path, "a.yaml", "extends: b.yaml\n")
    b = write(tmp_path, "b.yaml", "extends: a.yaml\n")
    with pytest.raises(ScenarioError) as caught:
        load(a)

    assert str(caught.value) == f"{b}:1:10: extends: goes in a circle: a.yaml -> b.yaml -> a.yaml"


def test_an_inherited_fault_is_reported_in_the_file_that_has_it(tmp_path):
    base = write(tmp_path, "base.yaml", SMALL.replace("max_num_seqs: 48", "max_num_seqs: 0"))
    child = write(tmp_path, "child.yaml", "extends: base.yaml\nrun: {seeds: [-1]}\n")
    with pytest.raises(ScenarioError) as caught:
        load(child)

    assert str(caught.value).splitlines() == [
        f"{base}:6:17: deployment.max_num_seqs: must be a whole number >= 1 (got 0)",
        f"{child}:2:15: run.seeds[0]: must be a whole number >= 0 (got -1)",
    ]


def test_overrides_are_yaml_and_apply_in_order(small_file):
    scenario = load(
        small_file,
        overrides=[
            "run.seeds=[1, 2]",
            "variation.straggler.attention[0]=1.2",
            "deployment.max_num_seqs=5",
            "deployment.max_num_seqs=6",
        ],
    )

    assert scenario.run.seeds == (1, 2)
    assert scenario.variation.straggler == {"attention[0]": 1.2}
    assert scenario.deployment.max_num_seqs == 6


def test_a_late_post_needs_a_deployment_that_posts():
    late = {"probability": 0.1, "seconds": "1ms", "where": "link"}
    engine = {"type": "tensor_parallel", "gpu": "H800", "gpus": 8, "max_num_seqs": 4}
    tensor = load("small").given() | {"deployment": engine}

    assert load("step3_ep32").vary("variation.spike", late).variation.spike.where == "link"
    with pytest.raises(ScenarioError) as caught:
        load(tensor | {"variation": {"spike": late}})
    assert str(caught.value) == (
        "variation.spike.where: a tensor_parallel deployment posts nothing: use 'where: compute'"
    )


def test_the_name_of_a_nic_is_one_key(small_file):
    share = load(small_file, overrides=["network.degraded.ffn[0].nic[3]=0.5"]).vary("network.degraded.ffn[0]", 0.75)

    assert share.network.degraded == {"ffn[0].nic[3]": 0.5, "ffn[0]": 0.75}
    assert load(share.resolved()).key == share.key


def test_a_number_of_nics_is_that_of_both_sides(small_file):
    line = ["network.link.bandwidth=400Gbps"]
    four, both = (
        load(small_file, overrides=[*line, f"network.nics_per_instance={n}"]) for n in ("4", "{attention: 4, ffn: 4}")
    )

    assert four.network.nics_per_instance == both.network.nics_per_instance
    assert four.key == both.key == load(four.resolved()).key


def test_an_override_reaches_into_a_shorthand(small_file):
    assert load(small_file, overrides=["workload.input_len.value=9"]).workload.input_len.value == 9


def test_paths_start_at_the_file_and_at_the_working_directory_in_overrides(tmp_path, monkeypatch):
    recorded = trace(tmp_path / "data")
    file = write(tmp_path, "data/replay.yaml", "extends: azure_conversation\nworkload: {trace: {path: t.csv}}\n")
    monkeypatch.chdir(tmp_path)

    assert load(file).workload.trace.path == str(recorded)
    assert load("azure_conversation", overrides=["workload.trace.path=data/t.csv"]).workload.trace.path == str(recorded)
    assert load(file).vary("workload.trace.start", "1s").workload.trace.path == str(recorded)


def test_where_gives_the_nearest_position(small_file):
    scenario = load(small_file, overrides=["network.post=2us"])

    assert scenario.where("deployment.max_num_seqs") == f"{small_file}:6:17"
    assert scenario.where("deployment.attention.parallelism.dp") == f"{small_file}:4:14"
    assert scenario.where("network.post") == "--set network.post=2us"
    assert load(scenario.resolved()).where("deployment.max_num_seqs") == ""


def test_parallelism_completes_itself():
    def parallelism(pool, **given):
        changes = {"extends": "small", "deployment": {pool: {"parallelism": given}}}
        return load(changes).resolved()["deployment"][pool]["parallelism"]

    assert parallelism("attention", tp=2) == {"dp": 4, "tp": 2}
    assert parallelism("attention", dp=2) == {"dp": 2, "tp": 4}
    assert parallelism("ffn", ep=2) == {"ep": 2, "tp": 4}
    assert parallelism("ffn", tp=4) == {"ep": 2, "tp": 4}


def test_either_of_core_attention_and_its_cache_decides_both():
    def formats(*overrides):
        return load("step3_2a2f_4k", overrides=overrides).resolved()["precision"]

    bf16 = {"attention": "bf16", "ffn": "fp8", "kv_cache": "bf16"}
    assert formats() == {"attention": "fp8", "ffn": "fp8", "kv_cache": "fp8"}
    assert formats("precision.attention=bf16") == formats("precision.kv_cache=bf16") == bf16
    assert formats("precision.kv_cache=bf16", "precision.attention=bf16") == bf16
    assert formats("precision={attention: null, kv_cache: bf16}") == bf16


@pytest.mark.parametrize("key", ["attention", "kv_cache"])
def test_a_resolved_scenario_loads_again_and_says_what_its_core_is_in(key):
    scenario = load("step3_2a2f_4k", overrides=[f"precision.{key}=bf16"])

    assert load(scenario.resolved()).key == scenario.key
    with pytest.raises(ScenarioError, match=r"precision\.attention: .*set one of them"):
        load(scenario.resolved(), overrides=[f"precision.{key}=fp8"])


def test_scenarios_are_frozen_and_travel_to_workers(small):
    with pytest.raises(ValueError, match="frozen"):
        small.deployment.max_num_seqs = 3
    copy = pickle.loads(pickle.dumps(small))

    assert copy.key == small.key
    assert copy.vary("run.seeds", [3]).where("deployment.max_num_seqs") == small.where("deployment.max_num_seqs")


def test_gamma_shape_comes_from_either_word():
    arrival = {"process": "gamma", "request_rate": "5 req/s"}

    assert load("small").vary("workload.arrival", {**arrival, "cv": 2.0}).workload.arrival.shape == 0.25
    assert load("small").vary("workload.arrival", {**arrival, "burstiness": 0.5}).workload.arrival.shape == 0.5


def test_the_schema_describes_every_key():
    text = schema()

    assert set(text["properties"]) == {"extends", *Scenario.model_fields}
    assert text["$defs"]["Afd"]["properties"]["max_num_seqs"]["description"].startswith("Sequences in flight")
    assert text["$defs"]["Link"]["properties"]["latency"]["examples"] == ["20us"]
    json.dumps(text, allow_nan=False)


def test_streams_are_keyed_by_seed_kind_and_step():
    draws = {
        (seed, kind, step): stream(seed, kind, step).standard_normal(4).tobytes()
        for seed in (0, 1)
        for kind in Kind
        for step in (0, 1, 2**40)
    }

    assert len(set(draws.values())) == len(draws)
    assert stream(1, "link_out", 2**40).standard_normal(4).tobytes() == draws[1, Kind.link_out, 2**40]
    assert np.array_equal(stream(0, "arrivals").random(9)[:3], stream(0, "arrivals").random(3))


def test_the_package_imports_nothing_until_asked():
    heavy = "numpy pandas simpy pydantic networkx matplotlib ruamel.yaml numba pyarrow"
    code = f"import afdsim, sys; print([m for m in '{heavy}'.split() if m in sys.modules], afdsim.load.__name__)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout == "[] load\n"


def test_every_public_name_is_there_and_sorted():
    assert sorted(afdsim.__all__, key=lambda name: (name == "__version__" or name.islower(), name)) == afdsim.__all__
    assert all(getattr(afdsim, name) for name in afdsim.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = afdsim.nothing


def test_reading_a_folder_or_a_locked_file_is_a_scenario_error(tmp_path):
    with pytest.raises(ScenarioError, match="is a folder"):
        load(tmp_path)
    if os.geteuid():
        locked = write(tmp_path, "locked.yaml", SMALL)
        locked.chmod(0)
        with pytest.raises(ScenarioError, match="cannot be read"):
            load(locked)
