"""How NIC ports share: every discipline by hand, and shared ports against the definition of what they do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.cluster.network import DEDICATED, DISCIPLINES, PORTS, SHARED, cross, rank, receive, send
from afdsim.results import outcome as columns
from tests.cases import run, tiny

WORK = st.floats(min_value=0.0, max_value=10.0)
TIME = st.floats(min_value=0.0, max_value=20.0)
WIRES = st.lists(WORK, min_size=1, max_size=12)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[float], list[float], list[float]]:
    """(header, tail, seconds on the receiver's port) of copies, some at once, some with nothing in them."""
    count = draw(st.integers(1, 10))
    header = draw(st.lists(TIME, min_size=count, max_size=count))
    lengths = draw(st.lists(st.one_of(st.just(0.0), st.floats(0.01, 10.0)), min_size=count, max_size=count))
    into = draw(st.lists(WORK, min_size=count, max_size=count))
    return header, [begin + length for begin, length in zip(header, lengths, strict=True)], into


def sent(discipline: int, start: float, wire: list[float], lag: float = 0.0) -> tuple[list[float], list[float], float]:
    """Header and tail of every copy, and when the port is free."""
    header, tail = [math.nan] * len(wire), [math.nan] * len(wire)
    free = send(discipline, start, lag, wire, (header, tail, [0] * len(wire)), (0, len(wire)))
    return header, tail, free


def received(discipline: int, free: float, header: list[float], tail: list[float], into: list[float]) -> float:
    """When a port has received some copies."""
    count = len(into)
    return receive(discipline, free, into, (header, tail, [0] * count), list(range(count)), (0, count))


# by hand -------------------------------------------------------------------------------------------------------------


def test_the_ladder_of_disciplines():
    assert DISCIPLINES == ("dedicated", "ports", "shared")
    assert [DISCIPLINES[each] for each in (DEDICATED, PORTS, SHARED)] == list(DISCIPLINES)


@pytest.mark.parametrize("discipline", [DEDICATED, PORTS])
def test_copies_leave_one_after_the_other_in_index_order(discipline):
    assert sent(discipline, 10.0, [3.0, 1.0, 2.0], lag=1.0) == ([11.0, 14.0, 15.0], [14.0, 15.0, 17.0], 16.0)


def test_copies_that_share_a_port_leave_together_and_the_shorter_ones_end_first():
    # a third each until the shortest is through at 13, half each until 15, then the longest alone
    assert sent(SHARED, 10.0, [3.0, 1.0, 2.0], lag=1.0) == ([11.0, 11.0, 11.0], [17.0, 14.0, 16.0], 16.0)


def test_a_dedicated_wire_has_received_when_the_last_tail_is_there():
    assert received(DEDICATED, 0.0, [1.0, 2.0], [5.0, 4.0], [100.0, 100.0]) == 5.0
    assert received(DEDICATED, 7.0, [1.0, 2.0], [5.0, 4.0], [1.0, 1.0]) == 7.0


def test_a_port_receives_in_the_order_of_headers_and_never_ahead_of_a_tail():
    # the second comes first: 2 to 4, the first waits until 4, takes until 7, and its tail comes at 9
    assert received(PORTS, 0.0, [3.0, 2.0], [9.0, 3.0], [3.0, 2.0]) == 9.0
    assert received(PORTS, 0.0, [3.0, 2.0], [4.0, 3.0], [3.0, 2.0]) == 7.0
    assert received(PORTS, 5.0, [3.0, 2.0], [4.0, 3.0], [3.0, 2.0]) == 10.0


def test_a_shared_port_serves_whatever_has_arrived():
    # 2 s of work from 0 to 4 and 3 s from 2 to 4: at rate 1/2, then 2; at 2 all is served, 4 s come until 4
    assert received(SHARED, 0.0, [0.0, 2.0], [4.0, 4.0], [2.0, 3.0]) == 6.0
    # a port that was busy until 3 has all five seconds before it
    assert received(SHARED, 3.0, [0.0, 2.0], [4.0, 4.0], [2.0, 3.0]) == 8.0
    # a slow sender governs
    assert received(SHARED, 0.0, [0.0], [9.0], [2.0]) == 9.0


def test_only_the_named_places_are_touched():
    header, tail, free = [-1.0] * 5, [-1.0] * 5, 0.0
    for discipline in (DEDICATED, PORTS, SHARED):
        free = send(discipline, free, 0.0, [1.0] * 5, (header, tail, [0] * 5), (1, 4))
        assert [header[0], header[4], tail[0], tail[4]] == [-1.0] * 4


# shared ports are what they say --------------------------------------------------------------------------------------


@given(TIME, WIRES, st.floats(0.0, 3.0))
def test_a_copy_ends_when_every_other_has_had_as_much_as_it(start, wire, lag):
    header, tail, free = sent(SHARED, start, wire, lag)

    expected = [start + lag + sum(min(other, own) for other in wire) for own in wire]
    assert tail == pytest.approx(expected, rel=1e-12)
    assert header == [start + lag] * len(wire)
    assert free + lag == pytest.approx(max(tail), rel=1e-15)
    assert free == pytest.approx(start + sum(wire), rel=1e-12)


@given(TIME, st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.7]), min_size=1, max_size=12))
def test_equal_copies_end_together(start, wire):
    _, tail, _ = sent(SHARED, start, wire)

    for size in set(wire):
        ends = [end for end, own in zip(tail, wire, strict=True) if own == size]
        assert ends == pytest.approx([ends[0]] * len(ends), rel=1e-15)


@given(TIME, WIRES, st.data())
def test_no_copy_ends_earlier_where_one_is_longer(start, wire, data):
    x, more = data.draw(st.integers(0, len(wire) - 1)), data.draw(WORK)
    longer = [own + more * (place == x) for place, own in enumerate(wire)]
    before, after = (sent(SHARED, start, each) for each in (wire, longer))

    assert all(late >= early * (1 - 1e-12) for early, late in zip(before[1], after[1], strict=True))
    assert after[2] >= before[2] * (1 - 1e-12)


def done(free: float, header: list[float], tail: list[float], into: list[float]) -> float:
    """When a work-conserving server is done, by definition: from the last moment at which it was idle, or from `free`."""

    def still_to_come(t: float) -> float:
        """Work that arrives at t and later, at a constant rate from header to tail."""
        total = 0.0
        for begin, end, seconds in zip(header, tail, into, strict=True):
            if begin >= t:
                total += seconds
            elif end > t:
                total += seconds * (end - t) / (end - begin)
        return total

    return max(free + sum(into), *(t + still_to_come(t) for t in (*header, *tail)))


@given(TIME, arrivals())
def test_a_shared_port_is_done_as_late_as_some_moment_and_all_that_comes_after_it(free, copies):
    assert received(SHARED, free, *copies) == pytest.approx(done(free, *copies), rel=1e-9)


@given(TIME, arrivals())
def test_a_shared_port_neither_loses_work_nor_makes_any(free, copies):
    header, tail, into = copies
    end = received(SHARED, free, *copies)

    assert end >= (free + sum(into)) * (1 - 1e-12)
    assert end >= max(tail) * (1 - 1e-12)
    assert end <= (max(free, *tail) + sum(into)) * (1 + 1e-12)
    # as one port that has all at once is done when it has worked all of it
    at_once = [max(header)] * len(header)
    assert received(SHARED, free, at_once, at_once, into) == pytest.approx(max(free, *at_once) + sum(into), rel=1e-12)


@given(TIME, arrivals(), st.data())
def test_a_shared_port_is_never_done_earlier_with_more_to_do(free, copies, data):
    header, tail, into = copies
    x, more = data.draw(st.integers(0, len(into) - 1)), data.draw(WORK)
    longer = [own + more * (place == x) for place, own in enumerate(into)]

    before = received(SHARED, free, *copies)
    assert received(SHARED, free, header, tail, longer) >= before * (1 - 1e-9)
    assert received(SHARED, free + more, *copies) >= before * (1 - 1e-9)


@given(TIME, arrivals(), st.randoms())
def test_the_order_of_a_turn_ago_changes_nothing(free, copies, random):
    header, tail, into = copies
    places = list(range(len(into)))
    random.shuffle(places)
    for discipline in (DEDICATED, PORTS, SHARED):
        shuffled = receive(discipline, free, into, (header, tail, [0] * len(into)), list(places), (0, len(into)))
        assert shuffled == pytest.approx(received(discipline, free, *copies), rel=1e-12)


@given(WIRES)
def test_places_are_sorted_by_key_and_then_by_place(keys):
    order = list(range(len(keys)))
    rank(order, keys, 0, len(keys))

    assert order == sorted(range(len(keys)), key=lambda place: (keys[place], place))


class Counted(list):
    """A list that counts how often it is read."""

    reads = 0

    def __getitem__(self, place):
        self.reads += 1
        return super().__getitem__(place)


KEYS = {
    "rising": lambda count: [float(x) for x in range(count)],
    "falling": lambda count: [float(-x) for x in range(count)],
    "equal": lambda count: [1.0] * count,
    "at random": lambda count: np.random.default_rng(0).random(count).tolist(),
    "two runs": lambda count: [float(x % (count // 2)) for x in range(count)],
}


@pytest.mark.parametrize("keys", KEYS)
def test_comparisons_grow_as_n_log_n(keys):
    """A heap sort compares twice a level, and a comparison reads two keys, or four of a tie."""
    for count in (64, 512):
        wire = Counted(1.0 + each for each in KEYS[keys](count))
        send(SHARED, 0.0, 0.0, wire, ([0.0] * count, [0.0] * count, [0] * count), (0, count))
        assert wire.reads < 3 * 4 * count * math.log2(count)

        tail = Counted(KEYS[keys](count))
        header = Counted(end - 1.0 for end in tail)
        receive(SHARED, 0.0, [0.1] * count, (header, tail, [0] * count), list(range(count)), (0, count))
        assert max(header.reads, tail.reads) < 3 * 4 * count * math.log2(count)


# a hop between two switches -------------------------------------------------------------------------------------------


def crossed(
    free: float, header: list[float], tail: list[float], work: list[float], lag: float = 0.0
) -> tuple[list[float], list[float], float]:
    """Headers and tails behind an uplink, and when it is free."""
    count, header, tail = len(work), list(header), list(tail)
    end = cross(free, lag, list(work), (header, tail, [0] * count), list(range(count)), (0, count))
    return header, tail, end


def leaves(free: float, header: list[float], tail: list[float], work: list[float], now: float) -> float:
    """When a first-come, first-served fluid server lets go what arrives at `now`, by definition."""

    def arrives(since: float) -> float:
        """Work that arrives from `since` to `now`, at a constant rate from header to tail."""
        total = 0.0
        for begin, end, seconds in zip(header, tail, work, strict=True):
            if begin == end:
                total += seconds * (since <= begin <= now)
            else:
                total += seconds * max(0.0, min(end, now) - max(begin, since)) / (end - begin)
        return total

    return max(free + arrives(-math.inf), *(t + arrives(t) for t in (*header, *tail) if t <= now))


def test_copies_cross_an_uplink_as_fast_as_it_serves_them():
    # 2 s of work from 0 to 4 and 3 s from 2 to 4: half of the rate until 2, then twice it: at 4, 2 s are still to do
    assert crossed(0.0, [0.0, 2.0], [4.0, 4.0], [2.0, 3.0]) == ([0.0, 2.0], [6.0, 6.0], 6.0)
    # busy until 3: what came first leaves then, what came at 2 after the second of work before it
    assert crossed(3.0, [0.0, 2.0], [4.0, 4.0], [2.0, 3.0]) == ([3.0, 4.0], [8.0, 8.0], 8.0)
    # a second apart, after 1 s of way: the second copy waits for the first
    assert crossed(0.0, [0.0, 2.0], [2.0, 4.0], [3.0, 1.0], lag=1.0) == ([1.0, 4.0], [4.0, 5.0], 5.0)


def test_a_message_of_no_length_is_served_where_it_stands_in_line():
    assert crossed(0.0, [1.0, 1.0, 2.0], [1.0, 1.0, 4.0], [2.0, 0.0, 1.0]) == ([3.0, 3.0, 3.0], [3.0, 3.0, 4.0], 4.0)


def test_an_uplink_touches_only_the_places_that_are_named():
    header, tail, scratch = [-1.0, 0.0, 1.0, -1.0], [-1.0, 1.0, 2.0, -1.0], [0] * 4
    cross(0.0, 0.0, [9.0, 2.0, 2.0, 9.0], (header, tail, scratch), [0, 1, 2, 3], (1, 3))

    assert (header, tail) == ([-1.0, 0.0, 2.0, -1.0], [-1.0, 2.0, 4.0, -1.0])


@given(TIME, arrivals())
def test_what_crosses_an_uplink_leaves_when_the_definition_says(free, copies):
    header, tail, _ = copies
    found = crossed(free, *copies)

    assert found[0] == pytest.approx([leaves(free, *copies, now) for now in header], rel=1e-9, abs=1e-9)
    assert found[1] == pytest.approx([leaves(free, *copies, now) for now in tail], rel=1e-9, abs=1e-9)
    assert found[2] == max(found[1])


@given(TIME, arrivals())
def test_an_uplink_neither_loses_work_nor_makes_any(free, copies):
    """It is done when a port would be that takes in everything at its own rate."""
    assert crossed(free, *copies)[2] == pytest.approx(done(free, *copies), rel=1e-9)


@given(TIME, arrivals())
def test_nothing_leaves_an_uplink_earlier_than_it_comes_or_out_of_order(free, copies):
    header, tail, end = crossed(free, *copies)
    before, after = (*copies[0], *copies[1]), (*header, *tail)
    order = sorted(range(len(before)), key=before.__getitem__)

    assert all(late >= early for early, late in zip(before, after, strict=True))
    assert [after[x] for x in order] == sorted(after)
    assert min(after) >= free
    assert end == max(after)


@given(arrivals(), st.floats(0.01, 0.99))
def test_an_uplink_that_carries_all_that_arrives_is_no_hop(copies, share):
    header, tail, _ = copies
    rates = [share / len(header)] * len(header)  # of the uplink's own
    work = [rate * (end - begin) for rate, begin, end in zip(rates, header, tail, strict=True)]

    assert crossed(min(header), header, tail, work)[:2] == (header, tail)


@given(TIME, arrivals(), st.floats(1.0, 5.0))
def test_nothing_leaves_a_slower_uplink_earlier(free, copies, slower):
    header, tail, work = copies
    fast, slow = crossed(free, *copies), crossed(free, header, tail, [slower * each for each in work])

    for early, late in zip((*fast[0], *fast[1]), (*slow[0], *slow[1]), strict=True):
        assert late >= early - 1e-9 * max(early, 1.0)


@given(TIME, arrivals(), st.randoms())
def test_the_order_of_a_turn_ago_changes_nothing_on_an_uplink(free, copies, random):
    header, tail, work = (list(column) for column in copies)
    places = list(range(len(work)))
    random.shuffle(places)
    end = cross(free, 0.0, work, (header, tail, [0] * len(work)), places, (0, len(work)))

    assert (header, tail, end) == crossed(free, *copies)


@pytest.mark.parametrize("keys", KEYS)
def test_an_uplink_compares_as_often_as_n_log_n(keys):
    for count in (64, 512):
        tail = Counted(KEYS[keys](count))
        header = Counted(end - 1.0 for end in tail)
        cross(0.0, 0.0, [0.1] * count, (header, tail, [0] * count), list(range(count)), (0, count))
        assert max(header.reads, tail.reads) < 3 * 4 * count * math.log2(count)


# a whole run ---------------------------------------------------------------------------------------------------------

SLOW = {"bandwidth": "2Gbps", "latency": "4us"}
NOISE = {"variation__event": 0.2, "variation__link": 0.2}
ENGINES = pytest.mark.parametrize("engine", ["processes", "kernel"])


@ENGINES
def test_one_sender_and_one_receiver_share_with_nobody(engine):
    ports, shared = (run(tiny(network__type=each, network__link=SLOW, **NOISE), engine) for each in ("ports", "shared"))

    assert shared.record.requests.finish == pytest.approx(ports.record.requests.finish, rel=1e-9, nan_ok=True)
    assert shared.record.causes == pytest.approx(ports.record.causes, rel=1e-6, abs=1e-9)


@ENGINES
def test_equal_rows_to_one_ffn_instance_arrive_as_they_do_one_by_one(engine):
    """There all headers come at once; on the way back the last of the ports' results comes when all shared ones do."""
    alone = {"deployment__num_microbatches": 1, "deployment__max_num_seqs": 1}
    ports, shared = (
        run(tiny(attention=3, network__type=each, network__link=SLOW, **alone), engine) for each in ("ports", "shared")
    )
    gathered = [each.span(0, "gather", unit=3) for each in (ports, shared)]
    assert gathered[0] == pytest.approx(gathered[1], rel=1e-12)

    back = [[each.span(0, "attention", layer=1, unit=unit)[0] for unit in range(3)] for each in (ports, shared)]
    assert back[1] == pytest.approx([back[1][0]] * 3, rel=1e-12)
    assert back[0][0] < back[0][1] < back[0][2] == pytest.approx(back[1][2], rel=1e-12)


@ENGINES
def test_shared_ports_conserve_bytes_and_seconds(engine):
    scenario = tiny(5, attention=3, ffn=2, network__type="shared", network__link=SLOW, **NOISE)
    outcome = run(scenario, engine)
    begin, end = outcome.record.window
    links, gpus = columns.links(outcome.record, outcome.cell), columns.gpus(outcome.record, outcome.cell)
    way = {each: links["bytes"][links["direction"] == each].sum() for each in ("egress", "ingress")}
    causes = np.array([gpus[cause] for cause in ("busy", "wait_peer", "network", "imbalance", "no_work", "down")])

    assert way["egress"] > 0
    assert way["egress"] == pytest.approx(way["ingress"])
    assert causes.min() >= -1e-12
    assert causes.sum(axis=0) == pytest.approx(np.full(causes.shape[1], end - begin), rel=1e-9)
    if engine == "processes":
        counted = {each: sum(row[1] for port, row in outcome.record.traffic.items() if port[3] == each) for each in way}
        assert counted == pytest.approx(way)
