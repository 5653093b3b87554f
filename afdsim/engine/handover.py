"""From prompts to decode and back: what the decode engines see of requests that a prefill pool has begun.

The prompts of an open loop go through the pool first, because it never waits for decode. A request reaches decode when
its KV cache does, with one token more of context and one less to give: the first came from prefill. So a pool and a
wire that take no time give the run that decode alone has of requests with input_len + 1 and output_len - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from afdsim.engine.cell import Array
from afdsim.engine.desk import Demand
from afdsim.engine.prefill import Pool, Prefilled, Queue, Served
from afdsim.engine.record import Boundaries, Record, Requests, Stays
from afdsim.engine.seats import FOREVER, NOBODY
from afdsim.errors import SimulationError
from afdsim.workload.laws import RequestSource, Trace
from afdsim.workload.prefixes import Listed

# forth --------------------------------------------------------------------------------------------------------------


def served(pool: Pool, demand: Demand) -> Served:
    """Run the prompts of an open loop through a pool."""
    count = demand.num_requests
    arrival, (input_len, output_len) = demand.source.times(count), demand.source.columns(count)
    queue = Queue(pool)
    columns = (each.tolist() for each in (arrival, input_len, output_len, demand.groups(count)))
    for time, tokens, wanted, group in zip(*columns, strict=True):
        queue.submit(time, tokens, answered=wanted > 1, group=group)
    queue.advance(FOREVER)
    names = ("start", "end", "ready")
    start, end, ready = (np.array([getattr(each, name) for each in queue.prompts]) for name in names)
    return Served(
        pool=pool,
        arrival=arrival,
        input_len=input_len,
        output_len=output_len,
        start=start,
        end=end,
        ready=ready,
        order=np.argsort(ready, kind="stable")[: int((output_len > 1).sum())],
        prefixes=queue.reuse.tally,
        steps=tuple(queue.steps),
        blocked=tuple(queue.blocked),
    )


def handed(demand: Demand, done: Served) -> Demand:
    """Return what is asked of decode: requests whose caches arrive one by one."""
    order = done.order
    if not len(order):
        raise SimulationError(
            "every request ends with the first token, which prefill gives: decode has nothing to do; "
            "give workload.output_len above 1"
        )
    lengths = {"input_len": done.input_len[order] + 1, "output_len": done.output_len[order] - 1}
    unused = np.random.default_rng(0)  # nothing is drawn: these come one by one
    source = RequestSource(Trace(arrival=done.ready[order], **lengths), None, None, lambda _: unused)
    prefixes, judge = demand.prefixes, demand.overloaded
    if prefixes is not None:
        prefixes = Listed(groups=prefixes.first(len(done.arrival))[order])
    last = float(done.arrival[-1])
    asked = replace(demand, source=source, num_requests=len(order), last=last, prefixes=prefixes)
    if judge is None:
        return asked
    # what overloads prefill reaches decode at the pace of prefill: only both together show it
    return replace(asked, overloaded=lambda record: judge(joined(record, demand, done)))


# and back -----------------------------------------------------------------------------------------------------------


def joined(record: Record, demand: Demand, done: Served, until: float | None = None) -> Record:
    """Return the record of a decode run with the requests as they were asked for, in order of arrival.

    `until`: up to when things have happened, where the record does not say so.
    """
    until = _until(record, done) if until is None else until
    table, count = record.requests, int(np.searchsorted(done.arrival, until, side="right"))
    seated = done.order[: len(table)]
    requests = _table(table, done, seated, count)
    alone, kept = requests.output_len == 1, _prefilled(done, until, requests.first_token)
    whole = replace(
        requests,
        arrival=done.arrival[:count].copy(),
        first_token=kept.end,
        finish=np.where(alone, kept.end, requests.finish),
        counted=done.arrival[:count] >= (demand.given or 0.0),
    )
    stays = replace(record.stays, request=seated[record.stays.request])
    return replace(record, requests=whole, stays=stays, prefill=kept)


def _prefilled(done: Served, until: float, decoded: Array) -> Prefilled:
    """Return what has happened of prefill to the first prompts, of which decode gave the tokens of `decoded`."""
    times = (done.start, done.end, done.ready)
    start, end, ready = (np.where(each <= until, each, np.nan)[: len(decoded)] for each in times)
    return Prefilled(served=done, start=start, end=end, ready=ready, decoded=decoded)


def _until(record: Record, done: Served) -> float:
    """Up to when things have happened: to the end where decode has seen the last of all, else when it was stopped."""
    return FOREVER if _over(record, len(done.order)) else record.ended


def _over(record: Record, count: int) -> bool:
    """Whether decode has seen the last of so many requests."""
    table = record.requests
    return len(table) == count and bool((~np.isnan(table.finish) | table.refused | ~np.isnan(table.lost)).all())


def _table(table: Requests, done: Served, seated: Array, count: int) -> Requests:
    """Return the requests of decode in the rows of their prompts; the others have not come so far."""
    blank = {"joined": NOBODY, "seat": NOBODY, "group": NOBODY, "needs": 0, "refused": False}
    rows = {}
    for name in Requests.__slots__:
        own = getattr(table, name)
        rows[name] = np.full(count, blank.get(name, np.nan if own.dtype.kind == "f" else 0), dtype=own.dtype)
        rows[name][seated] = own
    lengths = {"input_len": done.input_len[:count], "output_len": done.output_len[:count]}
    lengths = {name: each.astype(table.input_len.dtype) for name, each in lengths.items()}
    return Requests(**(rows | lengths | {"context": lengths["input_len"] + lengths["input_len"].dtype.type(1)}))


# of several cells ---------------------------------------------------------------------------------------------------


class Divided(NamedTuple):
    """What cells behind a router leave of requests that prefill had first."""

    numbers: list[Array]
    """Of the requests in every record."""
    records: list[Record]
    """Of every cell, with its requests as they were asked for; the last one is of those that no cell has seen."""
    prefill: Prefilled
    """Of all requests."""


def divided(records: Sequence[Record], chosen: Array, demand: Demand, done: Served) -> Divided:
    """Return the records of cells with the requests as they were asked for; `chosen`: the cell of each at decode."""
    places = [done.order[: len(chosen)][chosen == cell] for cell in range(len(records))]
    over = len(chosen) == len(done.order) and all(map(_over, records, map(len, places)))
    until = FOREVER if over else records[0].ended
    unseen = np.setdiff1d(np.arange(len(done.arrival)), np.concatenate(places))
    parts = [*(_part(done, np.sort(place), place) for place in places), _part(done, unseen, unseen[:0])]
    everyone = zip((*records, _nobody(records[0])), parts, strict=True)
    whole = [joined(record, demand, part, until) for record, part in everyone]
    numbers = [np.sort(own)[: len(each.requests)] for own, each in zip((*places, unseen), whole, strict=True)]
    decoded = np.full(sum(map(len, numbers)), np.nan)
    for own, each in zip(numbers, whole, strict=True):
        assert each.prefill is not None
        decoded[own] = each.prefill.decoded
    return Divided(numbers, whole, _prefilled(done, until, decoded))


def _part(done: Served, own: Array, order: Array) -> Served:
    """Return what a pool made of some prompts, which reach decode in an order: both by number."""
    names = ("arrival", "input_len", "output_len", "start", "end", "ready")
    columns = {name: getattr(done, name)[own] for name in names}
    return replace(done, **columns, order=np.searchsorted(own, order))


def _nobody(record: Record) -> Record:
    """Return the record without anybody in it."""
    requests, rows = record.requests, record.boundaries
    return replace(
        record,
        requests=Requests(**{name: getattr(requests, name)[:0] for name in Requests.__slots__}),
        boundaries=Boundaries(**{name: getattr(rows, name)[:0] for name in Boundaries.__slots__}),
        stays=Stays.of([]),
    )
