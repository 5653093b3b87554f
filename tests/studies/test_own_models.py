"""Sweeps and comparisons under models of the caller's: never answered from the points of another model."""

import subprocess
import sys
import textwrap

import pytest

import afdsim
from afdsim.studies import points
from tests.studies.models import Delay, Slower
from tests.studies.test_sweeps import TINY, same

OVER = {"deployment.ffn.instances": [1, 2]}


def swept(cache, **given):
    return afdsim.sweep(TINY, OVER, seeds=1, progress=False, cache=cache, **given)


def tpot(frame):
    return frame["mean_tpot_ms"].tolist()


def test_a_sweep_gives_what_simulate_gives_under_the_same_models(tmp_path):
    given = {"cost": Slower(3.0), "network": Delay(1e-4)}
    alone = [afdsim.simulate(afdsim.load(TINY).vary(*OVER, n), seed=0, **given).summary for n in (1, 2)]

    assert tpot(swept(tmp_path, **given)) == [each["mean_tpot_ms"] for each in alone]


def test_every_model_has_its_own_points(tmp_path):
    ways = ({}, {"cost": Slower(2.0)}, {"cost": Slower(3.0)}, {"network": Delay(1e-4)}, {"network": Delay(2e-4)})
    fresh = [swept(tmp_path / str(place), **given) for place, given in enumerate(ways)]
    shared = [swept(tmp_path / "shared", **given) for given in ways]

    assert all(same(one, other) for one, other in zip(fresh, shared, strict=True))
    assert len({each for frame in shared for each in frame["point"]}) == 10
    assert len(list((tmp_path / "shared").rglob("*.json"))) == 10
    assert shared[0]["provenance.coefficients"].str.startswith("sha256:").all()
    assert shared[1]["provenance.coefficients"].str.contains(r"studies\.models\.Slower sha256:").all()
    assert shared[3]["provenance.network"].str.contains(r"studies\.models\.Delay sha256:").all()


def test_points_of_a_model_are_found_again(tmp_path, monkeypatch):
    first = swept(tmp_path, cost=Slower(2.0))
    monkeypatch.setattr(points, "outcome", None)

    assert same(swept(tmp_path, cost=Slower(2.0)), first)


def test_points_of_a_model_without_a_digest_are_not_kept_and_a_warning_says_so(tmp_path):
    class Local(Slower):
        pass

    with pytest.warns(UserWarning, match=r"points are not kept: cost=Local has no digest: .* inside a function"):
        frame = swept(tmp_path, cost=Local(2.0))

    assert tpot(frame) == tpot(swept(tmp_path / "kept", cost=Slower(2.0)))
    assert not (tmp_path / "results").exists()
    assert not [file for file in tmp_path.rglob("*.json") if "kept" not in file.parts]


def test_worker_processes_use_the_models_too(tmp_path):
    assert same(swept(tmp_path / "two", workers=2, cost=Slower(2.0)), swept(tmp_path / "one", cost=Slower(2.0)))


def test_a_model_that_no_worker_can_receive_is_told(tmp_path):
    class Local(Slower):
        pass

    message = r"cost=Local: it cannot be sent to a worker process \(.*\); define it in a module, or use workers=1"
    with pytest.warns(UserWarning, match="not kept"), pytest.raises(afdsim.ModelError, match=message):
        swept(tmp_path, workers=2, cost=Local(2.0))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_that_answers_nonsense_ends_the_sweep_with_one_error(tmp_path, workers):
    with pytest.raises(afdsim.ModelError, match="cost=Slower: seconds must return finite seconds >= 0"):
        swept(tmp_path, workers=workers, cost=Slower(-1.0))

    assert not list(tmp_path.rglob("*.json"))


SCRIPT = """
import sys
import afdsim
from afdsim.cost.roofline import Roofline
from tests.studies.test_sweeps import TINY

class Mine:
    def seconds(self, operator, gpu):
        return 2 * Roofline().seconds(operator, gpu)

print(len(afdsim.sweep(TINY, progress=False, cache=sys.argv[1], cost=Mine())))
try:
    afdsim.sweep(TINY, progress=False, cache=sys.argv[1], cost=Mine(), workers=2)
except afdsim.ModelError as error:
    print(error)
"""


def test_a_model_in_a_script_runs_there_but_is_not_kept_nor_sent(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(file), str(tmp_path / "points")]
    env = {"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)}

    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)

    assert done.stdout.splitlines()[0] == "1", done.stderr
    assert "cost=Mine: it is defined in a script or notebook, which no worker process imports" in done.stdout
    assert "points are not kept: cost=Mine has no digest" in done.stderr
    assert not list(tmp_path.rglob("*.json"))


def test_compare_uses_the_models_for_every_deployment():
    plain, given = (afdsim.compare(TINY, TINY, cost=cost, tune=False).summaries for cost in (None, Slower(3.0)))

    for name in plain:
        assert given[name]["mean_tpot_ms"] > 1.5 * plain[name]["mean_tpot_ms"]
        assert "Slower sha256:" in given[name]["afdsim"]["provenance"]["coefficients"]
