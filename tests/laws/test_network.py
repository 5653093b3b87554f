"""Laws of the network: disciplines against one another and against line rates, and what lies between the pools.

Numbers I6, I11 and I20 are those of the identities in the project's notes (afd_mechanics d.8).
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.cluster.network import PORTS, SHARED, receive, send
from afdsim.engine.lowering import lower
from afdsim.results import outcome as columns
from tests.cases import Outcome, Stages, run, tiny
from tests.laws.test_equivalence import assert_same, deployments
from tests.laws.test_theory import ENGINES, TIMES, pipeline
from tests.results.test_bottleneck import every, excess, found

ROUNDING = 1e-9
"""Sums in another order."""
SLOW = {"bandwidth": "10Mbps", "latency": "100us"}
"""A row of 280 bytes takes 224 us to an FFN instance at line rate, one of 512 bytes 409.6 us back."""
OUT, BACK = 280 * 8 / 10e6, 512 * 8 / 10e6


def networked(attention: int = 2, ffn: int = 2, *, stages=(3e-3, 2e-3), engine="kernel", **changes: object) -> Outcome:
    """A run of equal stages (attention, FFN) on NICs that reach their line rate and share it."""
    plain = {"network__type": "shared", "network__link": SLOW, "network__efficiency": 1.0}
    few = {"workload__num_requests": 6 * attention, "workload__output_len__value": 12}
    scenario = tiny(4, attention, ffn, **(plain | few | changes))
    return run(scenario, engine, cost=Stages(attention=stages[0], ffn=stages[1]))


def step(outcome: Outcome) -> float:
    """Seconds of a step that has fallen into line."""
    return float(outcome.step_times[-1])


# disciplines ---------------------------------------------------------------------------------------------------------


@given(
    bandwidth=st.sampled_from(["400Gbps", "2Gbps", "50Mbps"]),
    boundary=st.sampled_from(["stream", "drain"]),
    m=st.integers(1, 4),
    noise=st.sampled_from([{}, {"variation__event": 0.2, "variation__link": 0.2}]),
)
def test_shared_ports_are_dedicated_wires_where_no_two_flows_meet(bandwidth, boundary, m, noise):
    changes = {"deployment__num_microbatches": m, "deployment__max_num_seqs": m, "deployment__boundary": boundary}
    link = {"bandwidth": bandwidth, "latency": "5us"}
    shared, dedicated = (
        run(tiny(network__type=each, network__link=link, **changes, **noise)) for each in ("shared", "dedicated")
    )

    expected = dedicated.record.requests.finish
    assert shared.record.requests.finish == pytest.approx(expected, rel=ROUNDING, nan_ok=True)


def test_two_flows_that_meet_share_a_line():
    shared, dedicated = (networked(2, 1, stages=(1e-4, 1e-4), network__type=each) for each in ("shared", "dedicated"))

    assert step(shared) > 1.01 * step(dedicated)


def exchanged(discipline: int, senders: int, receivers: int, *, rotated: bool = False) -> float:
    """When the last of equal copies of a second, from every sender to every receiver at once, has come in."""
    copies = [(a, b) for a in range(senders) for b in range(receivers)]
    header, tail = [0.0] * len(copies), [0.0] * len(copies)
    for a in range(senders):
        turn = a if rotated else 0
        places = [a * receivers + (b + turn) % receivers for b in range(receivers)]
        own, ends = [0.0] * receivers, [0.0] * receivers
        send(discipline, 0.0, 0.0, [1.0] * receivers, (own, ends, [0] * receivers), (0, receivers))
        for place, begin, end in zip(places, own, ends, strict=True):
            header[place], tail[place] = begin, end
    done = 0.0
    for b in range(receivers):
        mine = [x for x, (_, to) in enumerate(copies) if to == b]
        times = ([header[x] for x in mine], [tail[x] for x in mine], [0] * len(mine))
        done = max(done, receive(discipline, 0.0, [1.0] * len(mine), times, list(range(len(mine))), (0, len(mine))))
    return done


@pytest.mark.parametrize("senders", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("receivers", [1, 2, 3, 4, 8])
def test_sharing_takes_as_long_as_copies_in_a_rotated_order(senders, receivers):
    """Equal copies from all senders at once: a Latin square where every sender begins with another receiver."""
    most = max(senders, receivers)

    assert exchanged(SHARED, senders, receivers) == pytest.approx(most, rel=ROUNDING)
    assert exchanged(PORTS, senders, receivers, rotated=True) == pytest.approx(most, rel=ROUNDING)
    assert exchanged(PORTS, senders, receivers) == pytest.approx(senders + receivers - 1, rel=ROUNDING)


@given(a=TIMES, f=TIMES, out=TIMES, back=TIMES, m=st.integers(1, 5))
def test_full_duplex_is_never_slower_than_half_duplex_could_be(a, f, out, back, m):
    """I6: one link for both directions takes at least this long; ports here have both at once."""
    half = 6 * max(m * a, m * f, m * (out + back), a + f + out + back)
    for network in ("ports", "shared"):
        full = pipeline((a, f, out, back), m=m, network__type=network)

        assert full.step_times[-1] <= half * (1 + ROUNDING)


# line rates ----------------------------------------------------------------------------------------------------------

CABLES = st.fixed_dictionaries(
    {
        "network__uplinks": st.sampled_from(
            [None, {"oversubscription": 1}, {"oversubscription": 3, "latency": "200us"}, {"bandwidth": "8Mbps"}]
        ),
        "network__degraded": st.sampled_from([{}, {"attention[0]": 0.5}, {"ffn[0].nic[0]": 0.3}]),
        "network__link": st.sampled_from([SLOW, SLOW | {"ports": 2}, SLOW | {"ports": 2, "split": False}]),
    }
)
EQUAL = {"network__degraded": {}, "network__link": SLOW}
SHAPES = st.fixed_dictionaries(
    {
        "attention": st.integers(1, 4),
        "ffn": st.sampled_from([1, 2, 4]),
        "network__type": st.sampled_from(["ports", "shared"]),
    }
)
SECONDS = st.tuples(st.floats(2e-4, 4e-3), st.floats(2e-4, 4e-3))


@given(shape=SHAPES, cables=CABLES, m=st.integers(1, 4), stages=SECONDS)
def test_no_step_is_faster_than_line_rate_allows(shape, cables, m, stages):
    changes = {"deployment__num_microbatches": m, "deployment__max_num_seqs": m, "workload__output_len__value": 40}
    done = networked(stages=stages, **shape, **cables, **changes)

    assert excess(*found(done)) == {}


def test_a_bound_of_a_slower_uplink_would_be_noticed():
    fast, slow = (networked(network__uplinks={"oversubscription": ratio}, stages=(1e-4, 1e-4)) for ratio in (4, 4.05))

    assert "ffn uplink" in excess(found(slow)[0], found(fast)[1])


@given(shape=SHAPES, cables=CABLES, stages=SECONDS)
def test_with_one_micro_batch_and_equal_nics_the_round_trip_is_the_step(shape, cables, stages):
    """Of shared ports: one that receives message by message is idle while another one's rows arrive between them."""
    alone = {"deployment__num_microbatches": 1, "deployment__max_num_seqs": 1, "network__type": "shared"}
    limits, measured = found(networked(stages=stages, **(shape | cables | EQUAL | alone)))

    assert math.fsum(limits.round_trip.values()) == pytest.approx(measured, rel=ROUNDING)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ratio", [1, 2, 4])
@pytest.mark.parametrize(("attention", "ffn"), [(1, 1), (2, 2), (4, 2), (1, 4)])
def test_an_exchange_takes_as_long_as_its_slowest_hop(engine, ratio, attention, ffn):
    """Everything is cut through: of sender's port, uplink, downlink and receiver's port the longest."""
    alone = {"deployment__num_microbatches": 1, "deployment__max_num_seqs": 1}
    uplinks = {"oversubscription": ratio, "latency": "300us"}
    done = networked(attention, ffn, network__uplinks=uplinks, engine=engine, **alone)

    pairs = attention * ffn
    ways = [
        max(ffn * row, attention * row, pairs * row * ratio / attention, pairs * row * ratio / ffn)
        for row in (OUT, BACK)
    ]
    assert step(done) == pytest.approx(4 * (3e-3 + 2e-3 + sum(ways) + 2 * (100e-6 + 300e-6)), rel=ROUNDING)


@given(a=st.floats(4e-3, 2e-2), less=st.floats(0.05, 0.9))
def test_twice_the_bandwidth_halves_the_wires_and_leaves_a_compute_bound_step_alone(a, less):
    """I20."""
    stages = (a, a * less)
    one, two = (networked(stages=stages, network__link__bandwidth=rate) for rate in ("10Mbps", "20Mbps"))

    assert two.cell.tables.rows == pytest.approx(one.cell.tables.rows / 2, rel=ROUNDING)
    assert step(one) == pytest.approx(4 * 3 * stages[0], rel=ROUNDING)
    assert step(two) == pytest.approx(step(one), rel=ROUNDING)


# what more of something does -----------------------------------------------------------------------------------------


@given(
    shape=SHAPES,
    stages=SECONDS,
    ratio=st.floats(1.0, 8.0),
    rates=st.tuples(st.floats(2.0, 20.0), st.floats(1.0, 4.0)),
    m=st.integers(1, 4),
)
def test_no_step_gets_longer_with_faster_nics_or_uplinks(shape, stages, ratio, rates, m):
    changes = {"deployment__num_microbatches": m, "deployment__max_num_seqs": m}
    slower, faster = f"{rates[0]:.6f}Mbps", f"{rates[0] * rates[1]:.6f}Mbps"

    def took(**network: object) -> float:
        return step(networked(stages=stages, **shape, **changes, **network))

    base = took(network__link__bandwidth=slower)
    over = took(network__link__bandwidth=slower, network__uplinks={"oversubscription": ratio})
    stated = took(network__link__bandwidth=slower, network__uplinks={"bandwidth": slower})
    most = 1 + ROUNDING

    assert took(network__link__bandwidth=faster) <= base * most
    assert base <= over * most
    assert over <= took(network__link__bandwidth=slower, network__uplinks={"oversubscription": ratio * rates[1]}) * most
    assert base <= stated * most
    assert took(network__link__bandwidth=slower, network__uplinks={"bandwidth": faster}) <= stated * most


@given(shape=SHAPES, stages=SECONDS, share=st.floats(0.1, 1.0), target=st.sampled_from(["attention[0]", "ffn[0]"]))
def test_no_step_gets_shorter_with_a_sick_nic(shape, stages, share, target):
    whole = step(networked(stages=stages, **shape))

    assert step(networked(stages=stages, **shape, network__degraded={target: share})) >= whole * (1 - ROUNDING)
    assert step(networked(stages=stages, **shape, network__degraded={target: 1.0})) == whole


def test_a_sick_nic_is_the_port_with_most_to_do():
    limits, _ = found(networked(4, 2, network__degraded={"attention[2]": 0.2}))
    ports = {name: seconds for name, seconds in every(limits).items() if "port" in name}

    assert max(ports, key=ports.__getitem__) == "attention[2] port in"


@pytest.mark.parametrize("network", ["ports", "shared"])
def test_messages_cut_over_both_ports_of_a_nic_are_those_of_one_port(network):
    one, both = (networked(network__type=network, network__link=SLOW | {"ports": n}) for n in (1, 2))

    assert_same(one, both)


@pytest.mark.parametrize(("attention", "ffn"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)])
def test_a_queue_pair_on_one_port_of_two_has_half_the_rate(attention, ffn):
    """What goes to one receiver reaches one of its ports; what leaves for several leaves by both."""
    alone = {"deployment__num_microbatches": 1, "deployment__max_num_seqs": 1}
    pinned = networked(attention, ffn, network__link=SLOW | {"ports": 2, "split": False}, **alone)
    out = 2 * OUT * max(attention, math.ceil(ffn / 2))
    back = 2 * BACK * max(ffn, math.ceil(attention / 2))

    assert step(pinned) == pytest.approx(4 * (5e-3 + out + back + 2 * 100e-6), rel=ROUNDING)


# GPUs that share a NIC -----------------------------------------------------------------------------------------------


def sharing(granularity: str, nics: object, engine="kernel", **changes: object) -> Outcome:
    """Two instances of four GPUs on each side, a sequence per GPU."""
    four = {"deployment__attention__gpus_per_instance": 4, "deployment__ffn__gpus_per_instance": 4}
    more = {"network__nics_per_instance": nics, "run__granularity": granularity, "workload__num_requests": 60}
    return networked(engine=engine, stages=(2e-4, 1e-4), **(four | more | changes))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("nics", [None, 2, 1, {"attention": 2}, {"ffn": 2}, {"attention": 1, "ffn": 2}])
@pytest.mark.parametrize("uplinks", [None, {"oversubscription": 4}])
def test_equal_ranks_take_as_long_at_either_granularity(engine, nics, uplinks):
    parts = [sharing(each, nics, engine, network__uplinks=uplinks) for each in ("instance", "gpu")]

    assert step(parts[0]) == pytest.approx(step(parts[1]), rel=ROUNDING)


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("ffn", [1, 2, 4])
def test_ranks_of_several_gpus_take_as_long_at_either_granularity(tp, ffn):
    cut = {
        "deployment__attention": {"gpu": "H800", "instances": 2, "gpus_per_instance": 4, "parallelism": {"tp": tp}},
        "deployment__ffn__gpus_per_instance": ffn,
        "deployment__max_num_seqs": 12,
        "network__type": "shared",
        "network__link": SLOW,
        "variation": {"link": 0},
        "workload__num_requests": 96,
    }
    parts = [run(tiny(4, **cut, run__granularity=each), cost=Stages(attention=1e-3)) for each in ("instance", "gpu")]

    assert step(parts[0]) == pytest.approx(step(parts[1]), rel=ROUNDING)


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("sides", [("attention", "ffn"), ("attention",), ("ffn",)])
def test_half_the_nics_are_nics_of_half_the_rate(sides, m):
    """Rows of two GPUs through one NIC take as long as those of one through half a NIC; with one micro-batch both ways."""
    one = {"deployment__num_microbatches": m}
    few = sharing("instance", dict.fromkeys(sides, 2), **one)
    sick = {f"{side}[{i}]": 0.5 for side in sides for i in range(2)}
    half = sharing("instance", None, network__degraded=sick, **one)

    assert step(few) == pytest.approx(step(half), rel=ROUNDING)


@pytest.mark.parametrize("engine", ENGINES)
def test_ranks_that_share_a_nic_queue_in_the_order_in_which_they_post(engine):
    one = {"deployment__num_microbatches": 1, "deployment__max_num_seqs": 1, "variation__event": 0.3}
    sides = {f"deployment__{side}__gpus_per_instance": 2 for side in ("attention", "ffn")}
    done = networked(
        1, 1, engine=engine, **sides, **one, network__nics_per_instance={"attention": 1}, run__granularity="gpu"
    )
    seen = set()
    for number in list(done.traces)[2:8]:
        posts = [done.span(number, "attention", layer=1, unit=unit)[1] for unit in (0, 1)]
        first, last = sorted(posts)
        seen.add(posts[0] < posts[1])
        # each rank has an FFN NIC of its own, and has waited for the other at the one of the attention instance
        assert done.span(number, "gather", layer=1, unit=2)[0] == pytest.approx(
            max(first + 2 * OUT, last + OUT) + 100e-6, rel=ROUNDING
        )
    assert seen == {True, False}


@pytest.mark.parametrize("granularity", ["instance", "gpu"])
@pytest.mark.parametrize("nics", [2, {"attention": 2}, {"ffn": 1}, {"attention": 1, "ffn": 2}])
@pytest.mark.parametrize("m", [1, 3])
def test_no_step_through_shared_nics_is_faster_than_line_rate_allows(granularity, nics, m):
    batches = {"deployment__num_microbatches": m, "deployment__max_num_seqs": m, "workload__output_len__value": 40}
    limits, measured = found(sharing(granularity, nics, network__uplinks={"oversubscription": 4}, **batches))

    assert excess(limits, measured) == {}
    if m == 1:
        assert math.fsum(limits.round_trip.values()) == pytest.approx(measured, rel=ROUNDING)


# bytes ---------------------------------------------------------------------------------------------------------------

FABRICS = {
    "ports": {"network__type": "ports"},
    "shared": {},
    "uplinks": {"network__uplinks": {"oversubscription": 3}},
    "degraded": {"network__degraded": {"attention[0]": 0.5, "ffn[1].nic[1]": 0.25}},
    "bonded": {"network__link": SLOW | {"ports": 2, "split": False}},
    "two NICs": {"network__nics_per_instance": 2},
    "two and four NICs": {"network__nics_per_instance": {"attention": 2}},
    "one NIC": {"network__nics_per_instance": {"attention": 4, "ffn": 1}},
}


@pytest.mark.parametrize("granularity", ["instance", "gpu"])
@pytest.mark.parametrize("fabric", FABRICS)
def test_every_fabric_brings_what_it_took(fabric, granularity):
    """I11: bytes sent are bytes received, and the rows of every GPU times the bytes of a row."""
    done = sharing(granularity, None, "processes", **FABRICS[fabric])
    links = columns.links(done.record, done.cell)
    way = {
        (pool, to): links["bytes"][(links["pool"] == pool) & (links["direction"] == to)].sum()
        for pool in ("attention", "ffn")
        for to in ("egress", "ingress")
    }
    counted = dict.fromkeys(way, 0.0)
    for (pool, _, _, to), (_, nbytes) in done.record.traffic.items():
        counted[pool, to] += nbytes
    tokens = done.record.boundaries.batch[done.record.boundaries.step <= done.record.steps_run[-1]].sum()

    assert way["attention", "egress"] == pytest.approx(way["ffn", "ingress"])
    assert way["ffn", "egress"] == pytest.approx(way["attention", "ingress"])
    assert counted == pytest.approx(way)
    assert way["attention", "ingress"] / way["attention", "egress"] == pytest.approx(512 / 280)
    assert way["attention", "egress"] == pytest.approx(tokens * 4 * 2 * 280, rel=0.1)  # but for the last step's


def test_a_nic_counts_what_its_gpus_send_and_receive():
    own, shared = (sharing("instance", nics) for nics in (None, {"attention": 2, "ffn": 1}))
    per_gpu, per_nic = (columns.links(each.record, each.cell) for each in (own, shared))

    def nics(links, side, to):
        mine = (links["pool"] == side) & (links["direction"] == to) & (links["instance"] == 0)
        return links["rail"][mine].tolist(), links["bytes"][mine], links["messages"][mine]

    for to in ("egress", "ingress"):
        gpus, two, one = nics(per_gpu, "attention", to), nics(per_nic, "attention", to), nics(per_nic, "ffn", to)
        assert (gpus[0], two[0], one[0]) == ([0, 1, 2, 3], [0, 1], [0])
        assert two[1] == pytest.approx(gpus[1].reshape(2, 2).sum(axis=1))
        assert two[2].tolist() == gpus[2].reshape(2, 2).sum(axis=1).tolist()
        assert one[1].sum() == pytest.approx(nics(per_gpu, "ffn", to)[1].sum())


# nothing is free that is asked for, and nothing costs that is not ------------------------------------------------------


@given(deployments())
def test_a_fabric_that_is_not_asked_for_has_no_tables(scenario):
    plain = {"network.uplinks": None, "network.degraded": {}, "network.nics_per_instance": None}
    wiring = lower(scenario.varied(plain), seed=0).wiring

    assert (len(wiring.slow), len(wiring.crossings), len(wiring.across), wiring.servers, wiring.queued) == (
        0,
        0,
        0,
        0,
        False,
    )
    assert np.array_equal(wiring.routes[:, 4:], np.zeros_like(wiring.routes[:, 4:]))


@pytest.mark.parametrize("fabric", [name for name in FABRICS if name not in ("ports", "shared")])
def test_a_fabric_that_is_asked_for_changes_the_run(fabric):
    before, after = sharing("gpu", None), sharing("gpu", None, **FABRICS[fabric])

    assert step(before) != step(after)
