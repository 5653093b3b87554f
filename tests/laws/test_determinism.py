"""The same scenario and seed give the same bytes: twice, in another process, after other runs, and on every engine."""

import json
import subprocess
import sys

import pytest

import afdsim
from afdsim.result import to_json
from tests.cases import tiny

RUN = "from afdsim.cli import main; main(['run', 'small', '--quiet', '-o', {!r}], standalone_mode=False)"

OPEN = {
    "deployment__max_num_seqs": 7,
    "variation__event": 0.2,
    "variation__link": 0.1,
    "run__granularity": "gpu",
    "workload__arrival": {"process": "poisson", "request_rate": "4000 req/s"},
    "workload__output_len": {"distribution": "lognormal", "mean": 9, "cv": 0.7},
    "workload__num_requests": 60,
}


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.log")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_two_processes_write_the_same_run_folder(tmp_path):
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", RUN.format(str(tmp_path / name))], check=True, capture_output=True)

    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) > 10


@pytest.mark.parametrize("network", ["ports", "dedicated"])
def test_runs_do_not_hear_of_each_other(network):
    scenario = tiny(4, attention=2, network__type=network, **OPEN)
    first = to_json(afdsim.simulate(scenario, seed=5).summary)
    afdsim.simulate(scenario, seed=6)
    afdsim.simulate(tiny(3))

    assert to_json(afdsim.simulate(scenario, seed=5).summary) == first
    assert to_json(afdsim.simulate(scenario, seed=6).summary) != first


@pytest.mark.parametrize("network", ["ports", "dedicated"])
def test_engines_write_the_same_result_but_for_their_name_and_events(network):
    scenario = tiny(4, attention=2, network__type=network, **OPEN)
    summaries = []
    for engine in ("processes", "kernel"):
        summary = json.loads(to_json(afdsim.simulate(scenario.vary("run.engine", engine)).summary))
        own = summary["afdsim"]
        assert own["engine"].pop("name") == engine
        del own["engine"]["events"]
        for key in ("engine", "engine_requested", "key"):  # the key is that of the scenario, engine included
            del own["provenance"][key]
        summaries.append(to_json(summary))

    assert summaries[0] == summaries[1]
