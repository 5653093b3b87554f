"""Where the seconds of a step went: gaps are cut where the senders had finished, rows add up, and somebody is to blame."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine.blank import blank_trace
from afdsim.engine.books import (
    BLOCK,
    BUSY,
    CAUSES,
    IMBALANCE,
    NETWORK,
    UNCUT,
    WAIT_PEER,
    WIDTH,
    Ledger,
    Lines,
    Trace,
    close,
    settle,
)
from afdsim.engine.desk import Desk
from afdsim.engine.lowering import lower
from afdsim.engine.watch import FINEST, Watch
from afdsim.simulation import demanded
from tests.cases import tiny

ALWAYS = 0.0
"""A window that opens at once."""
COLUMNS = (
    "host",
    "own ports",
    "outage",
    "first",
    "others",
    "alone",
    "behind",
    "scatter",
    "post",
    "egress",
    "ingress",
    "uplink",
    "path",
    "gather",
    "wait",
    "network",
    "late",
)
"""Of the only unit: its culprits, of which every kind has one, and the causes of the only part."""
WAY = ("first", "others", "alone", "behind", "scatter", "post", "egress", "uplink", "path", "gather")
PART = COLUMNS.index("wait") - WAIT_PEER
FLIGHT = 0.25
"""Seconds of the path."""


def line(*cuts: tuple[int, int, int, int]) -> Lines:
    """One unit whose turns have (exchange, whether of the step before, cause before, cause between)."""
    cut, earlier, before, between = (list(column) for column in zip(*cuts, strict=True))
    places, kept = len(cuts), sorted({x for x, back in zip(cut, earlier, strict=True) if back and x != UNCUT})
    columns = [[COLUMNS.index(name)] for name in WAY]
    reach, exchanges = [max(x, 0) for x in cut], max(*cut, 0) + 1
    several = [0] * places, [PART] * places
    whole = ([0, 1], [0, places], list(range(places)), cut, earlier, before, between, reach, *several, *columns)
    return Lines(*whole, [FLIGHT], kept, list(range(exchanges + 1)))


def ledger(units: int = 1, exchanges: int = 1, edges: tuple[float, ...] = (0.0, np.inf)) -> Ledger:
    row, run = np.zeros((units, WIDTH)), np.zeros((units, WIDTH))
    slices = np.zeros((len(edges) - 1, units, WIDTH))
    times, width = [0.0] * units, units * len(COLUMNS)
    past = Trace([], [], [], [], *([0] * exchanges for _ in range(9)), [])
    blame = np.zeros(width), np.zeros(width), np.zeros((-(-len(slices) // BLOCK), width))
    return Ledger(
        *(times, past, list(times), list(times), row, run, list(edges), slices, [0] * units),
        *(list(range(0, width + 1, len(COLUMNS))), *blame),
        Watch(np.full(1, FINEST), np.zeros((0, units))),
    )


def trace(*spans: tuple[float, float], held=(), first=(0.0,), last=(0.0,), **sent) -> Trace:
    """Unless `sent` says more, senders post at their end, and nobody is held back behind that."""
    start, finish = (list(column) for column in zip(*spans, strict=True))
    who = {"sender": [0] * len(last), "poster": [0] * len(last), "bound": [0] * len(last)}
    when = {"second": list(last), "posted": list(last), "ended": list(sent.get("posted", last)), "arrived": list(last)}
    more = who | when | {"crossed": []} | sent
    return Trace(start, finish, list(held), [0.0] * len(held), list(first), list(last), **more)


def booked(lines: Lines, step: Trace, idle: int = 0) -> dict[str, float]:
    """The row of the only unit, without zeros."""
    kept = ledger()
    close(lines, step, kept, [idle], ALWAYS)
    return {cause: seconds for cause, seconds in zip(CAUSES, kept.row[0].tolist(), strict=True) if seconds}


def charged(lines: Lines, step: Trace, idle: int = 0) -> dict[str, float]:
    """The blame of the only unit, without zeros; that by part left out, which must add up to the same."""
    kept = ledger()
    close(lines, step, kept, [idle], ALWAYS)
    found = dict(zip(COLUMNS, kept.charged.tolist(), strict=True))
    parts = [found.pop(name) for name in ("wait", "network", "late")]

    assert parts == pytest.approx(kept.row[0, [WAIT_PEER, NETWORK, IMBALANCE]].tolist())
    assert sum(found.values()) == pytest.approx(sum(parts))
    return {name: seconds for name, seconds in found.items() if seconds}


FREE = (UNCUT, 0, WAIT_PEER, WAIT_PEER)


def test_a_gap_is_cut_at_the_first_and_at_the_last_sender():
    lines = line(FREE, (0, 0, WAIT_PEER, IMBALANCE))

    # idle from 1 to 5: until 2 nobody had sent, until 3 not everybody, then it flew
    found = booked(lines, trace((0.0, 1.0), (5.0, 7.0), first=[2.0], last=[3.0]))
    assert found == {"busy": 3.0, "wait_peer": 1.0, "imbalance": 1.0, "network": 2.0}


def test_what_was_sent_while_the_unit_worked_only_flew():
    found = booked(line(FREE, (0, 0, WAIT_PEER, IMBALANCE)), trace((0.0, 4.0), (5.0, 7.0), first=[2.0], last=[3.0]))

    assert found == {"busy": 6.0, "network": 1.0}


def test_a_gap_with_one_cause_is_not_cut_at_the_first_sender():
    found = booked(line(FREE, (0, 0, WAIT_PEER, WAIT_PEER)), trace((0.0, 1.0), (5.0, 7.0), first=[2.0], last=[3.0]))
    assert found == {"busy": 3.0, "wait_peer": 2.0, "network": 2.0}

    found = booked(line(FREE, (0, 0, IMBALANCE, IMBALANCE)), trace((0.0, 1.0), (5.0, 7.0), first=[2.0], last=[3.0]))
    assert found == {"busy": 3.0, "imbalance": 2.0, "network": 2.0}


def test_a_gap_without_message_is_a_pause():
    assert booked(line(FREE, FREE), trace((0.0, 1.0), (1.5, 2.0))) == {"busy": 1.5, "wait_peer": 0.5}


def test_gaps_of_a_unit_without_sequences_are_no_work():
    found = booked(line(FREE, (0, 0, WAIT_PEER, IMBALANCE)), trace((0.0, 1.0), (5.0, 7.0), first=[2.0], last=[3.0]), 1)

    assert found == {"busy": 3.0, "no_work": 4.0}


def test_communication_that_holds_the_sms_is_network():
    assert booked(line(FREE), trace((0.0, 2.0), held=[0.5])) == {"busy": 1.5, "network": 0.5}


def test_a_boundary_looks_at_the_senders_of_the_step_before():
    lines, kept = line((0, 1, WAIT_PEER, WAIT_PEER)), ledger()
    close(lines, trace((0.0, 1.0), last=[3.0]), kept, [0], ALWAYS)
    close(lines, trace((4.0, 5.0), last=[9.0]), kept, [0], ALWAYS)

    # from 1 to 4: the last sender of the step before had finished at 3
    assert kept.row[0, [BUSY, WAIT_PEER]].tolist() == [1.0, 2.0]
    assert (kept.begin[0], kept.end[0]) == (1.0, 5.0)


# whom to blame -------------------------------------------------------------------------------------------------------

ONE = (0, 0, WAIT_PEER, IMBALANCE)


def test_a_gap_is_charged_to_those_it_waited_for_in_order_of_time():
    # idle from 1 to 9: first and last sender at 2 and 3, posted at 4, 0.25 of path, arrived at 7, gathered at 9
    step = trace((0.0, 1.0), (9.0, 9.5), first=[2.0], last=[3.0], posted=[4.0], arrived=[7.0])

    assert charged(line(FREE, ONE), step) == {
        "first": 1.0,
        "others": 1.0,
        "scatter": 1.0,
        "path": 0.25,
        "egress": 2.75,
        "gather": 2.0,
    }
    assert charged(line(FREE, ONE), step, idle=1) == {}


def test_the_receivers_own_port_is_blamed_if_it_was_done_only_after_the_last_copy():
    step = trace((0.0, 1.0), (9.0, 9.5), first=[2.0], last=[3.0], arrived=[9.0], bound=[1])

    assert charged(line(FREE, ONE), step) == {"first": 1.0, "others": 1.0, "path": 0.25, "ingress": 5.75}


@pytest.mark.parametrize(
    ("begin", "second", "blamed"),
    [
        (1.0, 2.5, {"first": 1.0, "others": 0.5, "alone": 0.5, "scatter": 1.0, "path": 0.25, "egress": 2.75}),
        (2.75, 2.5, {"alone": 0.25, "behind": 0.25, "scatter": 0.75, "path": 0.25, "egress": 2.75}),
        (3.5, 2.0, {"behind": 1.0, "egress": 2.5}),
        (6.5, 2.0, {"behind": 0.5}),
    ],
)
def test_what_the_last_sender_was_late_is_charged_to_it_alone_even_while_its_rows_fly(begin, second, blamed):
    step = trace((0.0, begin), (7.0, 9.5), first=[2.0], second=[second], last=[3.0], posted=[4.0], arrived=[7.0])

    assert charged(line(FREE, ONE), step) == blamed


def test_a_late_post_is_the_hosts_and_what_uplinks_held_back_is_theirs():
    step = trace((0.0, 3.5), (7.0, 9.5), last=[3.0], ended=[3.75], posted=[4.0], arrived=[7.0], crossed=[2.0])

    assert charged(line(FREE, ONE), step) == {
        "scatter": 0.25,
        "post": 0.25,
        "path": 0.25,
        "uplink": 2.0,
        "egress": 0.75,
    }


@pytest.mark.parametrize(
    ("begin", "blamed"),
    [
        (3.5, {"scatter": 0.5, "path": 0.25, "egress": 2.75, "gather": 2.0}),
        (4.125, {"path": 0.125, "egress": 2.75, "gather": 2.0}),
        (6.0, {"egress": 1.0, "gather": 2.0}),
        (8.0, {"gather": 1.0}),
    ],
)
def test_nobody_is_blamed_for_the_time_in_which_the_unit_worked(begin, blamed):
    step = trace((0.0, begin), (9.0, 9.5), first=[2.0], last=[3.0], posted=[4.0], arrived=[7.0])

    assert charged(line(FREE, ONE), step) == blamed


def test_pauses_are_the_hosts_and_held_seconds_the_units_own_ports():
    assert charged(line(FREE, FREE), trace((0.0, 1.0), (1.5, 2.0), held=[0.0, 0.125])) == {
        "host": 0.5,
        "own ports": 0.125,
    }


def test_the_blame_of_a_boundary_is_that_of_the_step_before():
    lines, kept = line((0, 1, WAIT_PEER, WAIT_PEER)), ledger()
    close(lines, trace((0.0, 1.0), last=[3.0], arrived=[3.75]), kept, [0], ALWAYS)
    close(lines, trace((4.0, 5.0), last=[9.0], arrived=[9.5]), kept, [0], ALWAYS)
    found = dict(zip(COLUMNS, kept.charged.tolist(), strict=True))

    assert {name: found[name] for name in ("others", "path", "egress", "gather")} == {
        "others": 2.0,
        "path": 0.25,
        "egress": 0.5,
        "gather": 0.25,
    }


# rows and slices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("opens", "share"), [(0.0, 1.0), (4.0, 0.6), (10.0, 0.0), (12.0, 0.0)])
def test_a_row_that_the_window_cuts_counts_in_proportion(opens, share):
    kept = ledger(edges=(opens, np.inf))
    kept.end[0], kept.row[0, BUSY] = 10.0, 8.0
    settle(kept, 0)

    assert kept.run[0, BUSY] == 8.0
    assert kept.slices[0, 0, BUSY] == pytest.approx(8.0 * share)


@given(
    ends=st.lists(st.floats(0.1, 30.0), min_size=1, max_size=8).map(sorted),
    edges=st.lists(st.floats(0.0, 40.0), min_size=2, max_size=30, unique=True).map(sorted),
)
def test_slices_share_out_every_row_between_the_edges(ends, edges):
    kept = ledger(edges=tuple(edges))
    for begin, end in pairwise([0.0, *ends]):
        kept.begin[0], kept.end[0], kept.row[0, BUSY] = begin, end, end - begin
        kept.charged[COLUMNS.index("path")] = end - begin
        settle(kept, 0)

    covered = [max(min(high, ends[-1]) - low, 0.0) for low, high in pairwise(edges)]
    assert kept.slices[:, 0, BUSY] == pytest.approx(covered, abs=1e-9)
    blocks = [sum(covered[place : place + BLOCK]) for place in range(0, len(covered), BLOCK)]
    assert kept.blocks[:, COLUMNS.index("path")] == pytest.approx(blocks, abs=1e-9)
    assert kept.charges[COLUMNS.index("path")] == pytest.approx(ends[-1])
    assert kept.run[0, BUSY] == pytest.approx(ends[-1])


@st.composite
def steps(draw: st.DrawFn) -> tuple[Lines, list[Trace], list[int]]:
    """Any lines of one unit, any traces in order, and in which steps it is idle."""
    turns, exchanges = draw(st.integers(1, 5)), 2
    causes = st.sampled_from([WAIT_PEER, IMBALANCE])
    exchange = st.sampled_from([UNCUT, 0, 1])
    # of the step before only the last senders are known, so that such a gap has one cause
    cut = st.one_of(
        st.tuples(exchange, st.just(0), causes, causes),
        st.tuples(exchange, causes).map(lambda drawn: (drawn[0], 1, drawn[1], drawn[1])),
    )
    lines = line(*draw(st.lists(cut, min_size=turns, max_size=turns)))
    now, traces, length = 0.0, [], st.floats(0.0, 5.0)
    for _ in range(draw(st.integers(1, 4))):
        spans, held = [], []
        for _ in range(turns):
            begin = now + draw(length)
            now = begin + draw(length)
            spans.append((begin, now))
            held.append((now - begin) * draw(st.sampled_from([0.0, 0.5, 1.0])))
        sent = [sorted((draw(st.floats(0.0, now + 1.0)), draw(st.floats(0.0, now + 1.0)))) for _ in range(exchanges)]
        first, last = zip(*sent, strict=True)
        sent_by = {"second": [draw(st.floats(a, b)) for a, b in sent]}
        after = [sorted((end, draw(st.floats(0.0, now + 1.0)), draw(st.floats(0.0, now + 1.0)))) for end in last]
        sent = sent_by | {"posted": [max(end, mid) for end, (_, mid, _) in zip(last, after, strict=True)]}
        sent["arrived"] = [max(post, far[2]) + FLIGHT for post, far in zip(sent["posted"], after, strict=True)]
        sent["bound"] = draw(st.lists(st.integers(0, 1), min_size=exchanges, max_size=exchanges))
        traces.append(trace(*spans, held=held, first=first, last=last, **sent))
    return lines, traces, draw(st.lists(st.integers(0, 1), min_size=len(traces), max_size=len(traces)))


@given(steps())
def test_rows_adjoin_and_add_up_to_the_time_they_cover(drawn):
    lines, traces, idle = drawn
    kept = ledger(exchanges=2)
    for step, rests in zip(traces, idle, strict=True):
        before = kept.booked[0]
        close(lines, step, kept, [rests], ALWAYS)
        row = kept.row[0]

        assert (kept.begin[0], kept.end[0]) == (before, step.finish[-1])
        assert row.min() >= -1e-12
        assert row.sum() == pytest.approx(kept.end[0] - kept.begin[0], rel=1e-9, abs=1e-12)
        culprits, parts = np.split(kept.charged, [COLUMNS.index("wait")])
        assert kept.charged.min() >= -1e-12
        assert parts == pytest.approx(row[[WAIT_PEER, NETWORK, IMBALANCE]], rel=1e-9, abs=1e-12)
        assert culprits.sum() == pytest.approx(parts.sum(), rel=1e-9, abs=1e-12)
    settle(kept, 0)
    assert kept.run.sum() == pytest.approx(traces[-1].finish[-1], rel=1e-9, abs=1e-12)
    assert np.array_equal(kept.run, kept.slices[0])


def test_seconds_of_boundaries_are_the_same_bits_from_lists_and_from_arrays():
    """The processes have lists, the kernel arrays, and since Python 3.12 the sum of a list is rounded otherwise."""
    cell = lower(tiny(2), seed=0)
    desk, trace = Desk(cell, demanded(tiny(2), cell, 0)), blank_trace(cell)
    for place, finish in zip(desk._boundaries[0], (1e16, 1.0, 1.0), strict=True):
        trace.finish[place], trace.start[place] = finish, -finish / 3
    arrays = Trace(*map(np.array, trace))

    assert desk._heads(trace, 0) == desk._heads(arrays, 0)
