"""Columns of a run."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.engine.books import CAUSES
from afdsim.results.result import Result, pooled
from tests.cases import fewer, tiny, tiny_model


def test_a_very_short_run_with_drafts_has_columns_though_its_mean_batch_seems_larger_than_the_slots():
    result = afdsim.simulate(
        {
            "model": tiny_model(1),
            "deployment": {
                "type": "colocated",
                "gpu": "H800",
                "instances": 1,
                "gpus_per_instance": 1,
                "max_num_seqs": 3,
                "mtp": {"draft": 1, "acceptance": 0.6},
            },
            "variation": {"link": 0},
            "workload": {
                "arrival": {"process": "closed_loop"},
                "input_len": {"distribution": "lognormal", "mean": 300, "cv": 1.0, "max": 3000},
                "output_len": {"distribution": "constant", "value": 3},
                "num_requests": 1,
            },
        }
    )

    assert (result.gpus[["busy", "imbalance"]].to_numpy() >= 0).all()


# ranks ---------------------------------------------------------------------------------------------------------------


class Reads:
    """A cost model where core attention takes the time of its bytes at 1 TB/s, experts 1 us and nothing else any."""

    def seconds(self, operator, gpu):
        del gpu
        known = {"grouped_gemm": 1e-6}
        return operator.bytes / 1e12 if operator.kernel.startswith("core") else known.get(operator.kernel, 0.0)


def uneven(kind, **changes):
    """Ranks that hold as many sequences of different lengths: two servers of two, on nothing but attention."""
    server = {"gpu": "H800", "instances": 2, "gpus_per_instance": 2}
    engine = {"type": "colocated", **server} if kind == "colocated" else {"type": "afd", "attention": server}
    more = {} if kind == "colocated" else {"ffn": server, "num_microbatches": 1}
    scenario = afdsim.load(
        {
            "model": tiny_model(3),
            "deployment": {**engine, **more, "max_num_seqs": 3},
            "variation": {"link": 0},
            "workload": {
                "arrival": {"process": "closed_loop"},
                "input_len": {"distribution": "lognormal", "mean": 1_000_000, "cv": 1.0, "max": 9_000_000},
                "output_len": 12,
                "num_requests": 120,
            },
        }
    )
    return scenario.varied({path.replace("__", "."): value for path, value in changes.items()})


@pytest.mark.parametrize("kind", ["afd", "colocated"])
def test_a_rank_is_busy_as_long_inside_an_instance_as_on_its_own(kind):
    """What it has less to do than the slowest rank of its instance is its imbalance there."""
    found = [afdsim.simulate(uneven(kind, run__granularity=each), cost=Reads()).gpus for each in ("instance", "gpu")]
    together, alone = (frame[frame["pool"] != "ffn"] for frame in found)

    busy = [frame["busy"] / frame["busy"].sum() for frame in (together, alone)]
    # `own` begins with the first boundary of the window: one step of some 120 is another
    assert busy[0].to_numpy() == pytest.approx(busy[1].to_numpy(), rel=0.01)
    assert together["imbalance"].max() > 0.1 * together["busy"].max()


@pytest.mark.parametrize("granularity", ["instance", "gpu"])
@pytest.mark.parametrize("kind", ["afd", "colocated"])
def test_the_busiest_and_the_idlest_rank_are_told_with_what_they_had_to_do(kind, granularity):
    result = afdsim.simulate(uneven(kind, run__granularity=granularity))
    ranks = next(iter(result.summary["afdsim"]["pools"].values()))["ranks"]
    frame = result.gpus[result.gpus["pool"] != "ffn"]
    shares = (frame["busy"] / frame[list(CAUSES)].sum(axis=1)).tolist()

    assert [ranks[end]["busy"] for end in ("busiest", "idlest")] == [max(shares), min(shares)]
    for end in ("busiest", "idlest"):
        assert shares[2 * ranks[end]["instance"] + ranks[end]["rank"]] == ranks[end]["busy"]
        assert ranks[end]["sequences"] == pytest.approx(3.0, rel=0.05)
    assert ranks["spread"] == max(shares) / min(shares)
    assert ranks["busiest"]["context"] > ranks["idlest"]["context"]


def test_ranks_of_several_gpus_count_once():
    wide = uneven("colocated", deployment__parallelism={"dp": 1, "tp": 2})
    ranks = afdsim.simulate(wide, cost=Reads(), seed=1).summary["afdsim"]["pools"]["colocated"]["ranks"]

    assert [(ranks[end]["instance"], ranks[end]["rank"]) for end in ("busiest", "idlest")] == [(1, 0), (0, 0)]


def test_ranks_that_are_alike_are_not_told():
    alike = uneven("afd", workload__input_len=3000)

    assert "ranks" not in afdsim.simulate(alike).summary["afdsim"]["pools"]["attention"]


def test_of_several_seeds_the_ranks_that_lie_furthest_apart_are_told():
    every = [afdsim.simulate(uneven("afd"), seed=seed) for seed in (0, 1, 2)]
    each = [result.summary["afdsim"]["pools"]["attention"]["ranks"] for result in every]
    together = pooled(every)["afdsim"]["pools"]["attention"]["ranks"]

    assert together == max(each, key=lambda ranks: ranks["spread"])


def test_ranks_are_kept_in_the_run_folder(tmp_path):
    result = afdsim.simulate(uneven("afd"))

    assert Result.load(result.save(tmp_path / "run")).summary == result.summary


def test_a_rank_that_never_worked_has_no_spread():
    lonely = uneven("afd", workload__arrival={"process": "closed_loop", "concurrency": 1})
    ranks = afdsim.simulate(lonely).summary["afdsim"]["pools"]["attention"]["ranks"]

    assert ranks["idlest"] == {"instance": 1, "rank": 0, "busy": 0.0, "sequences": 0.0, "context": 0.0}
    assert "spread" not in ranks


# windows ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32))
@fewer(2)
def test_no_share_of_a_closed_loop_is_above_one_however_short_its_window(seed):
    rng = random.Random(seed)
    drawn = tiny(
        attention=rng.choice([1, 2]),
        deployment__num_microbatches=rng.choice([1, 2, 3]),
        deployment__max_num_seqs=rng.choice([3, 8, 50]),
        workload__output_len={"distribution": "constant", "value": rng.choice([1, 2, 3])},
        workload__num_requests=rng.choice([1, 2, 3, 5]),
        variation={"event": 0.3, "step": 0.3},
    )
    own = afdsim.simulate(drawn, seed=seed % 1000).summary["afdsim"]

    shares = [pool.get(kind, 0.0) for pool in own["pools"].values() for kind in ("mfu", "mbu", *CAUSES)]
    assert all(0.0 <= share <= 1.0 + 1e-9 for share in shares)
    assert own.get("tgs", 0.0) < 1e6


def test_a_window_within_a_step_gives_no_rates_and_says_why():
    from afdsim.results import steady
    from afdsim.results.terminal import terminal

    moments, lanes = [1.0, 1.1, 2.0, 2.1, 3.0, 3.1], [[0, 1] * 3]
    assert steady.brief(moments, lanes, (2.0, 2.1))
    assert not steady.brief(moments, lanes, (2.0, 3.0))
    assert not steady.brief([], [[]], (0.0, 0.0))

    late = {"event": 0.3, "step": 0.3}
    short = {"deployment__num_microbatches": 1, "deployment__max_num_seqs": 8, "workload__num_requests": 1}
    found = afdsim.simulate(tiny(attention=2, **short, workload__output_len__value=1, variation=late))
    assert "tgs" not in found.summary["afdsim"]
    assert "Output    n/a: the window is shorter than a step" in terminal([found], summary=found.summary)
