"""The same scenario and seed give the same bytes: twice, in another process, after other runs, and on every engine."""

import json
import os
import subprocess
import sys

import pytest

import afdsim
from afdsim.results.result import to_json
from tests.cases import tiny

RUN = """
import hashlib, pickle
import afdsim
from afdsim.results.result import to_json
result = afdsim.simulate("small")
columns = [(name, column.tobytes()) for part in (result.run.requests, result.run.tokens, result.run.gpus, result.run.links)
           for name, column in part.items() if column.dtype != object]
print(to_json(result.summary), len(columns), hashlib.sha256(pickle.dumps(columns)).hexdigest())
"""

OPEN = {
    "deployment__max_num_seqs": 7,
    "variation__event": 0.2,
    "variation__link": 0.1,
    "run__granularity": "gpu",
    "workload__arrival": {"process": "poisson", "request_rate": "4000 req/s"},
    "workload__output_len": {"distribution": "lognormal", "mean": 9, "cv": 0.7},
    "workload__num_requests": 60,
}


def test_two_processes_with_different_hashes_give_the_same_bits():
    printed = [
        subprocess.run(
            [sys.executable, "-c", RUN], check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    ]

    assert printed[0] == printed[1]
    assert b"mean_tpot_ms" in printed[0]


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
