"""A step as a static list of turns: what it says, who comes when, and where everything stands in a trace."""

import numpy as np
import pytest
from hypothesis import given

from afdsim.engine import schedule as columns
from afdsim.engine.books import IMBALANCE, UNCUT, WAIT_PEER
from afdsim.engine.lowering import lower
from afdsim.engine.schedule import (
    ALL_TO_ALL,
    COMPUTE,
    GATHER,
    NO_TURN,
    SCATTER,
    Boundary,
    Compute,
    Exchange,
    Schedule,
    Source,
)
from tests.cases import place, tiny
from tests.laws.test_colocated import colocated
from tests.laws.test_equivalence import deployments


def scheduled(scenario) -> Schedule:
    return lower(scenario, seed=0).schedule


def shown(text: str) -> str:
    return "\n".join(line[8:] for line in text.splitlines() if line.strip())


def test_a_schedule_of_afd_reads_like_its_pipeline():
    two = {"deployment__num_microbatches": 2, "deployment__max_num_seqs": 2}

    assert str(scheduled(tiny(2, attention=2, ffn=1, **two))) == shown("""
         0  boundary   0..1   micro-batch 0
         1  attention  0..1   layer 0  micro-batch 0
         2  boundary   0..1   micro-batch 1
         3  attention  0..1   layer 0  micro-batch 1
         4  exchange   0..1 to 2..2   after 1
         5  gather     2..2   layer 0  micro-batch 0  after 4
         6  ffn        2..2   layer 0  micro-batch 0  after 5
         7  scatter    2..2   layer 0  micro-batch 0  after 6
         8  exchange   2..2 to 0..1   after 7
         9  exchange   0..1 to 2..2   after 3
        10  gather     2..2   layer 0  micro-batch 1  after 9
        11  ffn        2..2   layer 0  micro-batch 1  after 10
        12  scatter    2..2   layer 0  micro-batch 1  after 11
        13  exchange   2..2 to 0..1   after 12
        14  attention  0..1   layer 1  micro-batch 0  after 8
        15  exchange   0..1 to 2..2   after 14
        16  gather     2..2   layer 1  micro-batch 0  after 15
        17  ffn        2..2   layer 1  micro-batch 0  after 16
        18  scatter    2..2   layer 1  micro-batch 0  after 17
        19  exchange   2..2 to 0..1   after 18
        20  attention  0..1   layer 1  micro-batch 1  after 13
        21  exchange   0..1 to 2..2   after 20
        22  gather     2..2   layer 1  micro-batch 1  after 21
        23  ffn        2..2   layer 1  micro-batch 1  after 22
        24  scatter    2..2   layer 1  micro-batch 1  after 23
        25  exchange   2..2 to 0..1   after 24
    """)


def test_a_colocated_schedule_sends_behind_dispatch_and_experts():
    assert str(scheduled(colocated(1))) == shown("""
         0  boundary   0..1   micro-batch 0
         1  projections 0..1   layer 0  micro-batch 0
         2  attention  0..1   layer 0  micro-batch 0
         3  dispatch   0..1   layer 0  micro-batch 0
         4  exchange   0..1 to 0..1   after 3
         5  experts    0..1   layer 0  micro-batch 0  after 4
         6  exchange   0..1 to 0..1   after 5
         7  combine    0..1   layer 0  micro-batch 0  after 6
    """)


def test_two_micro_batches_take_turns_on_a_colocated_gpu():
    step = scheduled(colocated(1, deployment__two_batch_overlap=True))
    names = [f"{'ab'[turn.micro_batch]} {turn.name}" for turn in step.turns if isinstance(turn, Compute)]

    assert names == [
        *("a projections", "a attention", "a dispatch", "b projections", "a experts"),
        *("b attention", "a combine", "b dispatch", "b experts", "b combine"),
    ]
    assert [turn.micro_batch for turn in step.turns if isinstance(turn, Boundary)] == [0, 1]
    assert step.opening == 2


def test_a_drained_step_has_all_its_boundaries_first_and_then_its_gap():
    step = scheduled(tiny(2, deployment__boundary="drain", deployment__gap="50us"))
    opening = step.turns[: step.opening]

    assert [isinstance(turn, Boundary) for turn in opening] == [True] * 3 + [False] * 3
    assert [turn.pause for turn in step.turns if isinstance(turn, Compute)] == [5e-5] + [0.0] * (len(step.turns) - 16)


def test_tensor_parallelism_exchanges_nothing():
    asked = {"type": "tensor_parallel", "gpu": "H800", "gpus": 2, "max_num_seqs": 4}
    step = scheduled(colocated(2, deployment=asked))

    assert step.exchanges == {}
    assert not step.all_to_all


def test_attention_groups_share_the_ffn_pool_in_order():
    step = scheduled(tiny(2, attention=2, deployment__attention__groups=2))
    ffn = [turn.batch for turn in step.turns if isinstance(turn, Compute) and turn.name == "ffn"]
    attention = [
        (turn.units, turn.batch) for turn in step.turns if isinstance(turn, Compute) and turn.name == "attention"
    ]

    assert ffn == [0, 1, 2, 3, 4, 5] * 2
    assert attention[:6] == [(range(1), batch) for batch in range(3)] + [(range(1, 2), batch) for batch in (3, 4, 5)]
    assert step.pools == (range(1), range(1, 2), range(2, 3))


# laws ----------------------------------------------------------------------------------------------------------------


@given(deployments())
def test_every_operation_has_one_place_in_a_trace(scenario):
    step = scheduled(scenario)
    places = [
        place(
            step,
            "boundary" if isinstance(turn, Boundary) else turn.name,
            layer=0 if isinstance(turn, Boundary) else turn.layer,
            micro_batch=turn.micro_batch,
            unit=unit,
        )
        for turn in step.turns
        if not isinstance(turn, Exchange)
        for unit in turn.units
    ]

    assert places == list(range(step.at[-1]))


@given(deployments())
def test_a_turn_waits_for_what_stands_before_it_or_for_the_step_before(scenario):
    step = scheduled(scenario)
    for number, turn in enumerate(step.turns):
        if isinstance(turn, Boundary):
            assert turn.after == NO_TURN or isinstance(step.turns[turn.after], Exchange)
        elif turn.after != NO_TURN:
            assert turn.after < number
            before = step.turns[turn.after]
            if isinstance(before, Exchange):
                assert set(turn.units) <= set(before.receivers)
            else:
                assert before.units == (turn.senders if isinstance(turn, Exchange) else turn.units)


@given(deployments())
def test_units_of_a_pool_do_everything_on_one_of_three_resources(scenario):
    step = scheduled(scenario)
    found = [
        number for units in step.pools for resource in (COMPUTE, GATHER, SCATTER) for number in step.of(units, resource)
    ]

    assert sorted([*found, *step.exchanges]) == list(range(len(step.turns)))
    for units in step.pools:
        assert step.of(units, COMPUTE) == sorted(step.of(units, COMPUTE))


def test_the_flat_turns_say_the_same():
    step = scheduled(tiny(3, attention=2, ffn=2, deployment__boundary="drain", deployment__gap="50us"))
    whole, real = step.flat

    for number, turn in enumerate(step.turns):
        row = whole[number]
        units = turn.senders if isinstance(turn, Exchange) else turn.units
        assert (row[columns.FIRST], row[columns.LAST]) == (units.start, units.stop)
        assert row[columns.OWN] == turn.micro_batch
        if isinstance(turn, Compute):
            assert (row[columns.WORK], row[columns.WORK + 1]) == turn.work
            assert real[number].tolist() == [turn.slow, turn.share, turn.pause]
            assert row[columns.AT] == step.at[number]
        elif isinstance(turn, Exchange):
            assert row[columns.AFTER] == step.at[turn.after]
            assert row[columns.NUMBER] == step.exchanges[number]
    assert whole.dtype == columns.INDEX


def test_gaps_are_cut_by_the_exchange_that_was_waited_for():
    step = scheduled(tiny(2, attention=2))
    found = {number: step.booked(number) for number in range(len(step.turns)) if number not in step.exchanges}
    named = {
        (turn.name, turn.layer, turn.micro_batch): found[number]
        for number, turn in enumerate(step.turns)
        if isinstance(turn, Compute)
    }

    # the first layer follows its boundary at once, a boundary the results of the step before
    assert named["attention", 0, 0][1] == UNCUT
    assert found[0][1:3] == (step.exchanges[len(step.turns) - 13], 1)
    # until the fastest attention instance has sent an FFN instance waits for its peers, then for the slowest
    assert named["ffn", 0, 0][1:] == (0, 0, WAIT_PEER, IMBALANCE)
    assert named["attention", 1, 0][1:] == (1, 0, WAIT_PEER, WAIT_PEER)


def test_lines_hold_the_compute_turns_of_every_unit_in_order():
    step = scheduled(tiny(2, attention=2, ffn=2))
    places, starts, opening = step.line

    assert len(starts) == step.units + 1
    for unit in range(step.units):
        mine = places[starts[unit] : starts[unit + 1]].tolist()
        assert mine == [
            n
            for n in range(len(step.turns))
            if n not in step.exchanges and unit in step.turns[n].units and n in step.of(step.turns[n].units)
        ]
    assert opening.tolist() == [6, 6, 0, 0]


def test_a_schedule_is_made_by_hand_and_printed():
    pool = range(3)
    step = Schedule(
        turns=(
            Boundary(units=pool),
            Compute(name="work", units=pool, work=Source(columns.ROWS, 0)),
            Exchange(
                senders=pool, receivers=pool, pattern=ALL_TO_ALL, after=1, sent=1, out=Source(), into=Source(), draw=0
            ),
            Compute(name="rest", units=pool, after=2),
        ),
        opening=1,
        micro_batches=1,
    )

    assert str(step).splitlines()[2] == " 2  exchange   0..2 to 0..2   after 1"
    assert step.at == (0, 3, 6, 6, 9)
    assert step.posts == {1: 2}
    assert step.units == 3
    assert np.array_equal(step.line[0], [0, 1, 3] * 3)


def test_place_refuses_what_is_not_there():
    with pytest.raises(ValueError, match="not enough values"):
        place(scheduled(tiny(2)), "attention", layer=2)
