"""Prefill in front of a deployment: free, it changes nothing but the first token; otherwise it only delays.

Free means that steps and transfers take no time. A request of `input_len` and `output_len` tokens then is to decode what
one of `input_len` + 1 and `output_len` - 1 tokens is without prefill, bit for bit; its first token is out at its arrival.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.engine.books import CAUSES
from afdsim.engine.handover import handed, joined, served
from afdsim.engine.lowering import lower
from afdsim.engine.prefill import Queue
from afdsim.engine.prompts import Prices, Step
from afdsim.engine.servers import lower_prefill
from afdsim.results import outcome, prefilled
from afdsim.results.intervals import half_width
from afdsim.scenario.document import load
from afdsim.simulation import demanded, execute
from afdsim.workload.laws import RequestSource, Trace
from tests.cases import fewer, tiny_model

POISSON = {"process": "poisson", "request_rate": "4000 req/s"}
KINDS = {
    "afd": {
        "type": "afd",
        "attention": {"gpu": "H800", "instances": 2, "gpus_per_instance": 2},
        "ffn": {"gpu": "H800", "instances": 1, "gpus_per_instance": 2},
        "num_microbatches": 2,
        "max_num_seqs": 6,
    },
    "colocated": {"type": "colocated", "gpu": "H800", "instances": 2, "gpus_per_instance": 2, "max_num_seqs": 6},
    "tensor_parallel": {"type": "tensor_parallel", "gpu": "H800", "gpus": 2, "max_num_seqs": 12},
}
SERVERS = {"gpu": "H20", "instances": 2, "gpus_per_instance": 2}


def scenario(kind, *, prefill=SERVERS, lengths=(300, 9), **more):
    inputs, outputs = lengths
    data = {
        "model": tiny_model(4),
        "deployment": KINDS[kind],
        "workload": {
            "arrival": POISSON,
            "input_len": {"distribution": "uniform", "min": inputs, "max": 2 * inputs},
            "output_len": {"distribution": "uniform", "min": outputs, "max": 2 * outputs},
            "num_requests": 150,
        },
        **({} if prefill is None else {"prefill": prefill}),
        **more,
    }
    return load(data)


class Nothing(Prices):
    """Steps that take no time."""

    def step(self, ranks, finished):
        return Step(0.0, (0.0,) * len(ranks), 0.0, 0.0, 0.0)


def free(pool):
    prices = Nothing(prefill=pool.prices.prefill, cost=pool.prices.cost)
    return replace(pool, prices=prices, wire=replace(pool.wire, per_byte=0.0, latency=0.0))


def run(asked, engine, change=lambda pool: pool):
    """The record of prompts through a pool that `change` gives and of decode."""
    cell = lower(asked, seed=0)
    demand = replace(demanded(asked, cell, 0), overloaded=None)
    done = served(change(lower_prefill(asked, cell)), demand)
    return cell, joined(execute(cell, handed(demand, done), engine), demand, done)


def alone(kind, engine):
    """The record of decode without prefill, of requests with a token more before and one less to come."""
    asked = scenario(kind, prefill=None)
    cell = lower(asked, seed=0)
    demand = replace(demanded(asked, cell, 0), overloaded=None)
    arrival, (inputs, outputs) = demand.source.times(150), demand.source.columns(150)
    trace = Trace(arrival=arrival, input_len=inputs + 1, output_len=outputs - 1)
    source = RequestSource(trace, None, None, lambda _: np.random.default_rng(0))
    return execute(cell, replace(demand, source=source), engine)


def equal(one, other):
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


@pytest.mark.parametrize("engine", ["kernel", "processes"])
@pytest.mark.parametrize("kind", KINDS)
def test_free_prefill_gives_the_decode_only_run(kind, engine):
    _, record = run(scenario(kind), engine, free)
    other = alone(kind, engine)
    table, bare = record.requests, other.requests

    for name in ("arrival", "admitted", "finish", "joined", "seat", "context"):
        assert equal(getattr(table, name), getattr(bare, name)), name
    for name in ("time", "batch", "gaps", "step", "unit", "micro_batch"):
        assert equal(getattr(record.boundaries, name), getattr(other.boundaries, name)), name
    assert equal(record.slices, other.slices)
    assert equal(record.edges, other.edges)
    assert equal(table.first_token, table.arrival)
    assert equal(record.prefill.decoded, bare.first_token)


def test_prefill_that_takes_time_does_not():
    _, record = run(scenario("afd"), "kernel")

    assert not equal(record.requests.admitted, alone("afd", "kernel").requests.admitted)


shapes = st.fixed_dictionaries(
    {
        "instances": st.integers(1, 3),
        "parallelism": st.sampled_from([{"dp": 1, "tp": 2}, {"dp": 2, "tp": 1}]),
        "max_batched_tokens": st.sampled_from([256, 700, 8192]),
        "overlap": st.sampled_from(["none", "layers"]),
    }
)


@fewer()
@given(st.sampled_from(sorted(KINDS)), shapes, st.sampled_from([(300, 1), (80, 2), (700, 9)]))
def test_engines_agree_bit_for_bit(kind, shape, lengths):
    asked = scenario(kind, prefill=SERVERS | shape, lengths=lengths)
    kernel, processes = (run(asked, engine)[1] for engine in ("kernel", "processes"))

    for name in kernel.requests.__slots__:
        assert equal(getattr(kernel.requests, name), getattr(processes.requests, name)), name
    assert equal(kernel.slices, processes.slices)
    assert equal(kernel.prefill.decoded, processes.prefill.decoded)


CRASH = {"events": [{"at": "15ms", "target": "ffn[0]", "repair": "5ms"}], "detection": "1ms", "restart": "1ms"}
LOST = CRASH | {"kv_cache": "lost"}
VARIANTS = {
    "every GPU a unit": {"run.granularity": "gpu"},
    "drafts": {"deployment.mtp": {"draft": 1, "acceptance": 0.7}},
    "a crash, computed again": {"failures": LOST | {"requests": "reprefill", "reprefill_rate": "1e6 tok/s"}},
    "a crash, rejected": {"failures": LOST | {"requests": "reject"}},
    "all at once": {"workload.arrival.request_rate": "inf"},
    "a warm-up": {"run.warmup": "10ms"},
    "a cache that grows": {"kv_cache": {"policy": "grow", "block": 16, "reprefill_rate": "1e6 tok/s"}},
    "jitter": {"variation": {"event": 0.1, "step": 0.05}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_engines_agree_whatever_else_is_on(variant):
    asked = scenario("afd", lengths=(300, 60)).varied(VARIANTS[variant])
    kernel, processes = (run(asked, engine)[1] for engine in ("kernel", "processes"))

    assert all(
        equal(getattr(kernel.requests, name), getattr(processes.requests, name)) for name in kernel.requests.__slots__
    )
    assert equal(kernel.stays.request, processes.stays.request)
    assert len(kernel.stays.request) > 0 or "failures" not in VARIANTS[variant]


@given(st.sampled_from(sorted(KINDS)), shapes, st.sampled_from([(300, 1), (80, 2), (700, 9)]))
def test_every_token_and_every_gap_is_counted_once(kind, shape, lengths):
    cell, record = run(scenario(kind, prefill=SERVERS | shape, lengths=lengths), "kernel")
    table = record.requests
    requests = prefilled.requests(outcome.requests(record, cell), record)
    tokens = prefilled.tokens(outcome.tokens(record, cell), requests, record)

    assert len(table) == 150
    assert (requests["status"] == "finished").all()
    assert tokens["batch"].sum() == table.output_len.sum()
    assert tokens["gaps"].sum() == (table.output_len - 1).sum()
    spans = (table.finish - table.first_token).sum()
    assert np.nansum(tokens["gaps"] * np.nan_to_num(tokens["itl_s"])) == pytest.approx(spans)


@given(st.sampled_from(sorted(KINDS)), shapes)
def test_times_of_a_request_follow_one_another(kind, shape):
    _, record = run(scenario(kind, prefill=SERVERS | shape), "kernel")
    table, own = record.requests, record.prefill
    order = (table.arrival, own.start, own.end, own.ready, table.admitted, own.decoded, table.finish)

    assert all((before <= after).all() for before, after in pairwise(order))
    assert (own.end < own.ready).all()


@given(shapes)
def test_gpu_time_of_every_rank_adds_up_to_the_window(shape):
    cell, record = run(scenario("afd", prefill=SERVERS | shape), "kernel")
    decode = outcome.gpus(record, cell)
    gpus = prefilled.gpus(decode, record)
    seconds = sum(gpus[cause] for cause in CAUSES)

    assert len(gpus["gpu"]) == len(decode["gpu"]) + 2 * shape["instances"]
    assert seconds == pytest.approx(np.full(len(seconds), record.window[1] - record.window[0]))
    assert (gpus["busy"][gpus["pool"] == "prefill"] > 0).any()


@pytest.mark.parametrize("engine", ["kernel", "processes"])
def test_an_early_end_leaves_what_had_happened(engine):
    asked = scenario("afd", run={"stop": {"max_sim_time": "20ms"}})
    _, record = run(asked, engine)
    table, own = record.requests, record.prefill
    times = np.concatenate([table.arrival, table.first_token, own.start, own.ready, table.finish])

    assert 0 < len(table) < 150
    assert np.nanmax(times) <= 0.02
    assert (np.isnan(own.end) | ~np.isnan(own.start)).all()
    assert "waiting" in table.status()


def test_layers_that_leave_early_are_never_later():
    together, early = (
        run(scenario("afd", prefill=SERVERS | {"overlap": each}), "kernel")[1].prefill for each in ("none", "layers")
    )

    assert equal(together.end, early.end)
    assert (early.ready <= together.ready + 1e-12).all()
    assert (early.ready < together.ready).any()


def test_with_more_servers_than_prompts_nobody_waits():
    _, record = run(scenario("afd", prefill=SERVERS | {"instances": 400}), "kernel")
    own = record.prefill

    assert equal(own.start, record.requests.arrival)
    assert len(own.served.steps) == 150


@pytest.mark.slow
@pytest.mark.parametrize(("trace", "count"), [("azure23_conv.csv", 19_366), ("mooncake_conversation.jsonl", 12_031)])
def test_a_whole_trace_is_accounted_for(shared, trace, count):
    servers = {"gpu": "H200", "instances": 6, "parallelism": {"dp": 4, "tp": 2}}
    asked = load("azure_conversation", overrides=[f"workload.trace.path={shared / 'traces' / trace}"])
    asked = asked.varied({"prefill": servers, "workload.trace.end": None, "deployment.max_num_seqs": 192})
    cell = lower(asked, seed=0)
    demand = demanded(asked, cell, 0)
    done = served(lower_prefill(asked, cell), demand)

    assert len(done.arrival) == count
    assert not np.isnan(done.end).any()
    assert np.isnan(done.ready).sum() == (done.output_len == 1).sum()
    assert len(done.steps) < 2 * count


def test_prompts_that_pile_up_before_prefill_end_the_run_with_the_last_of_them():
    slow = {"gpu": "H20", "instances": 1, "gpus_per_instance": 1}
    burst = {"process": "poisson", "request_rate": "30000 req/s"}
    asked = scenario("afd", prefill=slow).vary("workload.arrival", burst).vary("workload.num_requests", 2500)
    one, other = (afdsim.simulate(asked.vary("run.engine", engine)) for engine in ("kernel", "processes"))
    found = one.summary["afdsim"]

    assert found["load"] == "OVERLOADED"
    assert found["saturation"]["ended_s"] == pytest.approx(one.requests["arrival_s"].max(), rel=0.05)
    assert (one.requests["status"] != "finished").any()
    assert one.requests.equals(other.requests)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_of_equal_prompts_is_the_queue_of_theory(steps, load):
    """M/D/1: the mean wait is load x service / 2(1 - load)."""
    one = {"gpu": "H20", "instances": 1, "gpus_per_instance": 2, "max_batched_tokens": 256}
    asked = scenario("afd", prefill=one)
    queue = Queue(lower_prefill(asked, lower(asked, seed=0)))
    alone = queue.submit(0.0, 256 * steps)
    queue.advance(10.0)
    service = alone.end
    times = 10.0 + np.cumsum(np.random.default_rng(7).exponential(service / load, 6_000))
    prompts = [queue.submit(time, 256 * steps) for time in times.tolist()]
    queue.advance(np.inf)
    waits = np.array([each.start - each.arrival for each in prompts])
    half = half_width(waits)

    assert waits.mean() == pytest.approx(load * service / (2 * (1 - load)), abs=1.5 * half)
    assert half < 0.35 * waits.mean()


@pytest.mark.parametrize("load", [0.5, 0.7])
def test_one_server_of_unlike_prompts_is_the_queue_of_theory(load):
    """M/G/1 (Pollaczek and Khinchine): the mean wait is rate x mean square service / 2(1 - load)."""
    one = {"gpu": "H20", "instances": 1, "gpus_per_instance": 2, "max_batched_tokens": 256}
    asked = scenario("afd", prefill=one)
    queue = Queue(lower_prefill(asked, lower(asked, seed=0)))
    alone = [queue.submit(10.0 * place, 256 * steps) for place, steps in enumerate((1, 6))]
    queue.advance(20.0)
    services = np.array([each.end - each.start for each in alone])
    random = np.random.default_rng(11)
    kinds = random.choice(2, 8_000, p=(0.75, 0.25))
    rate = load / (services * (0.75, 0.25)).sum()
    times = 20.0 + np.cumsum(random.exponential(1.0 / rate, len(kinds)))
    prompts = [
        queue.submit(time, 256 * (1, 6)[kind]) for time, kind in zip(times.tolist(), kinds.tolist(), strict=True)
    ]
    queue.advance(np.inf)
    waits = np.array([each.start - each.arrival for each in prompts])
    half = half_width(waits)

    assert waits.mean() == pytest.approx(rate * (services**2 * (0.75, 0.25)).sum() / (2 * (1 - load)), abs=1.5 * half)
    assert half < 0.35 * waits.mean()
