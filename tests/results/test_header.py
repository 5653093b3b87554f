"""Lines that head a report."""

from pathlib import Path

import pytest

from afdsim.results.header import WIDTH, deployment_line, hanging, memory_lines, model_name, network_line
from afdsim.scenario.document import load


def test_a_file_is_named_from_the_working_directory_on_or_with_its_folder(tmp_path, monkeypatch):
    file = tmp_path / "models" / "qwen" / "config.json"
    away = model_name(str(file))
    monkeypatch.chdir(tmp_path)

    assert away == str(Path("qwen/config.json"))
    assert model_name(str(file)) == str(Path("models/qwen/config.json"))
    assert model_name("step3") == "step3"


def test_no_line_ends_at_a_hyphen():
    lines = hanging("Note ", "all-to-all " * 40)

    assert all(line.endswith("all-to-all") for line in lines)
    assert max(map(len, lines)) <= WIDTH


def test_two_rates_of_nics_fit_the_page():
    two = {"deployment.attention.gpu": "RTX PRO 6000", "deployment.ffn.gpu": "H20-141GB"}
    lines = network_line(load("small").varied(two))

    assert max(map(len, lines)) <= WIDTH
    assert "(catalog, RTX PRO 6000) and 200 Gb/s (catalog, H20-141GB) x 0.8 achieved" in " ".join(
        " ".join(lines).split()
    )


CABLED = {
    "network.uplinks": {"oversubscription": 2, "latency": "1us"},
    "network.link": {"bandwidth": "400Gbps", "latency": "9us", "ports": 2, "split": False},
    "network.nics_per_instance": {"attention": 4},
    "network.degraded": {"attention[0]": 0.5, "ffn[0].nic[3]": 0.25},
}


def test_what_lies_between_the_pools_is_told():
    told = " ".join(" ".join(network_line(load("small").varied(CABLED))).split())

    assert told.endswith(
        "x 0.8 achieved, path 9.00 us, 4 NICs per attention instance, 2 bonded ports, a queue pair on one of them, "
        "uplinks 2:1 and 1.00 us more, degraded attention[0] to 50% and ffn[0].nic[3] to 25%"
    )
    assert "uplinks of 1600 Gb/s per rail" in " ".join(
        " ".join(network_line(load("small").vary("network.uplinks", {"bandwidth": "1.6Tbps"}))).split()
    )


@pytest.mark.parametrize(("gpus", "words"), [(1, "(1 GPU)"), (2, "(2 GPUs)")])
def test_one_is_no_plural(gpus, words):
    deployment = {"type": "colocated", "gpu": "H800", "instances": 1, "gpus_per_instance": gpus, "max_num_seqs": 1}
    scenario = load("small").varied({"deployment": deployment})

    assert words in deployment_line(scenario)


def test_one_sequence_is_no_plural(small):
    from afdsim.engine.lowering import deployment

    afd = deployment(small)
    most = max(length for length in range(2_000_000, 40_000_000, 50_000) if afd.kv_cache.sequences(length) == 1)

    assert f" 1 sequence of {most:,} tokens" in "".join(memory_lines(afd, most))
