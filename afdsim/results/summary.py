"""A run as one tree of numbers: vLLM's flat keys, ours under "afdsim". What is not known is absent: no NaN, no null.

Rates and what follows from them are absent where an open loop was not steady ("load" is "n/a").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np

from afdsim.results import blame, bottleneck, metrics, mixed, prefilled
from afdsim.results.intervals import Interval, half_width, ratio_interval
from afdsim.results.metrics import Floats, Run, Samples, Verdict, column, completed, counted, enough, ratio
from afdsim.results.steady import BINS, Level, Load

STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99")
"""Of latencies, with intervals."""
SURE: Final = ("ttft", "prefill_queue", "tpot", "queue", "e2el")
"""Latencies that are one number per request."""


def summary(run: Run) -> dict[str, Any]:
    """Return the summary of a run."""
    samples = metrics.latencies(run)
    done = completed(run.requests)
    flat: dict[str, Any] = {
        "completed": int(done.sum()),
        "duration": run.duration,
        "total_input_tokens": int(column(run.requests, "input_len")[done].sum()),
        "total_output_tokens": int(column(run.requests, "output_len")[done].sum()),
        **_rates(run),
    }
    for metric, values in samples.items():
        flat |= _in_milliseconds(metric, values)
    return flat | {"afdsim": known(_own(run, samples))}


def _rates(run: Run) -> dict[str, float]:
    if not run.steady:
        return {}
    found = {
        "request_throughput": metrics.request_throughput(run.requests, run.window),
        "output_throughput": metrics.output_throughput(run.tokens, run.window),
    }
    if run.prefilled:
        found["total_token_throughput"] = prefilled.prompt_throughput(run) + found["output_throughput"]
    return found if run.sla is None else found | {"request_goodput": metrics.goodput(run, run.sla)}


def _in_milliseconds(metric: str, samples: Samples) -> dict[str, float]:
    """Keys such as p99_tpot_ms; p99.9 only where there are enough samples for it."""
    left_out = {"min", "p50"} | ({"p99.9"} if not enough(samples.count, 99.9) else set())
    found = metrics.describe(samples)
    return {f"{name}_{metric}_ms": value * 1e3 for name, value in found.items() if name not in left_out}


def _own(run: Run, samples: Mapping[str, Samples]) -> dict[str, Any]:
    step = metrics.mean(samples["itl"]) if samples["itl"].count else None
    per_token = metrics.mean(samples["tpot"]) if samples["tpot"].count else step
    throughput = metrics.output_throughput(run.tokens, run.window) if run.steady else 0.0
    intervals = dict(_intervals(run, samples))
    return {
        "gpus": run.gpu_count,
        "tgs": throughput / run.gpu_count if run.steady else None,
        "tgs_ci": intervals.get("tgs"),
        "step_ms": step and step * 1e3,
        "tokens_per_s_per_user": 1 / per_token if per_token else None,
        "usd_per_1m_output_tokens": metrics.usd_per_1m_output_tokens(run.pools, throughput),
        "pools": _pools(run),
        "bottleneck": run.bounds and bottleneck.told(run.bounds, step),
        "blame": blame.told([run]),
        "load": None if run.load is None else run.load.level,
        "saturation": None if run.load is None else saturation(run.load),
        "sla": _sla(run, samples, intervals),
        **_classes(run),
        "ci": intervals or None,
        "too_few": list(_too_few(samples)) or None,
        "failures": run.failures,
        "prefill": run.mixed,
        "kv_cache": run.kv_cache,
        "sessions": run.sessions,
        "cells": [dict(cell) for cell in run.cells] or None,
        **_fates(run),
        "engine": {"name": run.engine.name, "steps": run.engine.steps, "events": run.engine.events},
        "itl_method": "exact",
        "definitions": {**metrics.DEFINITIONS, **_more(run)},
    }


def _more(run: Run) -> Mapping[str, str]:
    """Return what more the definitions say of whoever computes prompts."""
    if run.mixed is not None:
        return mixed.DEFINITIONS
    return prefilled.DEFINITIONS if run.prefilled else {}


def _pools(run: Run) -> dict[str, Any]:
    shares = metrics.causes(run.gpus)
    found: dict[str, Any] = {
        name: {"gpu": pool.gpu, "gpus": pool.gpus, **shares.get(name, {}), "mfu": pool.mfu, "mbu": pool.mbu}
        for name, pool in run.pools.items()
    }
    if run.ranks is not None:
        spread = {"spread": run.ranks.spread} if math.isfinite(run.ranks.spread) else {}
        found[next(iter(found))]["ranks"] = asdict(run.ranks) | spread
    return found


def _too_few(samples: Mapping[str, Samples]) -> Iterator[str]:
    """Name the percentiles that have fewer than ten samples beyond them: read them as n/a."""
    for metric, values in samples.items():
        for name in ("p90", "p95", "p99"):
            if values.count and not enough(values.count, float(name[1:])):
                yield f"{name}_{metric}_ms"


def _fates(run: Run) -> dict[str, int]:
    """Count the requests that did not finish: refused for ever, ended by a crash, or not done when the run ended."""
    asked, status = counted(run.requests), np.asarray(run.requests["status"])
    refused, lost = asked & (status == "refused"), asked & (status == "lost")
    unfinished = asked & ~refused & ~lost & ~completed(run.requests)
    crashed = {} if run.failures is None else {"lost": int(lost.sum())}
    return {"refused": int(refused.sum()), **crashed, "unfinished": int(unfinished.sum())}


# classes ------------------------------------------------------------------------------------------------------------


def _classes(run: Run) -> dict[str, Any]:
    if not run.classes:
        return {}
    found = {name: known(_of_class(_limited(metrics.of_class(run, name)))) for name in run.classes}
    return {"classes": found, "worst_class": worst_class(found)}


def _limited(part: Run) -> Run:
    """Leave TPOT out of the limits of a class whose answers are all one token: no request of it can have one."""
    answers = column(part.requests, "output_len")[counted(part.requests)]
    if part.sla is None or not len(answers) or (answers > 1).any():
        return part
    limits = {metric: limit for metric, limit in part.sla.limits.items() if metric != "tpot"}
    return replace(part, sla=replace(part.sla, limits=limits) if limits else None)


def _of_class(part: Run) -> dict[str, Any]:
    """Return what a class got: counts, latencies, and its SLA."""
    samples, done = metrics.latencies(part), completed(part.requests)
    flat: dict[str, Any] = {
        "completed": int(done.sum()),
        "total_input_tokens": int(column(part.requests, "input_len")[done].sum()),
        "total_output_tokens": int(column(part.requests, "output_len")[done].sum()),
        **_fates(part),
    }
    if part.steady:
        flat["request_throughput"] = metrics.request_throughput(part.requests, part.window)
    for metric, values in samples.items():
        flat |= _in_milliseconds(metric, values)
    return flat | {"sla": _sla(part, samples, {}), "too_few": list(_too_few(samples)) or None}


_GRAVE: Final = ("PASS", "MARGINAL", "n/a", "FAIL")


def worst_class(classes: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Name the class whose SLA is missed most, or met least; None where no class has an SLA."""

    def grave(name: str) -> tuple[int, float]:
        sla = classes[name]["sla"]
        return _GRAVE.index(sla["verdict"]), sla.get("value_ms", 0.0) / sla["limit_ms"]

    limited = [name for name in classes if "sla" in classes[name]]
    return max(limited, key=grave) if limited else None


def met(summary: Mapping[str, Any]) -> bool:
    """Whether every SLA of a summary is met, that of all requests and those of classes; true where there is none."""
    own = summary["afdsim"]
    return all(part.get("sla", {}).get("met", True) for part in (own, *own.get("classes", {}).values()))


# the SLA and the load -----------------------------------------------------------------------------------------------


def _sla(run: Run, samples: Mapping[str, Samples], intervals: Mapping[str, list[float]]) -> dict[str, Any] | None:
    found = metrics.verdicts(run, samples)
    if run.sla is None or not found:
        return None
    level = None if run.load is None else run.load.level
    kept, limits = metrics.good(run.requests, run.sla), {each.metric: limit(each, level) for each in found}
    return {
        **limits[found[0].metric],
        "met": run.carried and all(each.met for each in found),
        "metric": found[0].metric,
        "percentile": run.sla.percentile,
        "verdict": metrics.overall([each.word for each in found], level),
        "goodput": metrics.goodput(run, run.sla) if run.steady else None,
        "goodput_ci": intervals.get("request_goodput"),
        "goodput_share": ratio(float(kept.sum()), float(metrics.decided(run, run.sla).sum())),
        "limits": limits if len(found) > 1 else None,
    }


def limit(each: Verdict, level: Level | None) -> dict[str, Any]:
    """Return one limit with what was found; no verdict while the load is not known, as over all limits."""
    return {
        "limit_ms": each.limit * 1e3,
        "value_ms": None if each.value is None else each.value * 1e3,
        "ci_ms": bounds(each.interval, 1e3),
        "verdict": "n/a" if level == "n/a" else each.word,
    }


def saturation(load: Load) -> dict[str, Any]:
    """Return how an open loop stood."""
    return {
        "level": load.level,
        "offered": load.offered,
        "offered_ci": bounds(load.offered_interval),
        "served": load.served,
        "served_ci": bounds(load.served_interval),
        "queue_growth": load.growth,
        "queue_growth_ci": bounds(load.growth_interval),
        "why": load.why or None,
        "wants_s": load.wants,
        "ended_s": load.ended,
    }


# intervals ----------------------------------------------------------------------------------------------------------


def _intervals(run: Run, samples: Mapping[str, Samples]) -> Iterator[tuple[str, list[float]]]:
    """Yield the 95 % intervals by the key of their figure, where there are data enough."""
    for metric in filter(samples.__contains__, SURE):
        values = samples[metric].values
        for name in STATISTICS:
            if name == "mean" or enough(len(values), float(name[1:])):
                key = f"{'median' if name == 'p50' else name}_{metric}_ms"
                yield from _pair(key, metrics.interval_of(samples[metric], name), 1e3)
    if run.steady:
        yield from _of_rates(run)


def _of_rates(run: Run) -> Iterator[tuple[str, list[float]]]:
    """Yield the intervals of tokens, requests, good requests and money."""
    whole = ratio_interval(*metrics.steps(run.tokens, run.window))
    rate = metrics.output_throughput(run.tokens, run.window)
    half = max((whole.high - whole.low) / 2, rate * _doubt(run.load))
    tokens = Interval.around(rate, half).positive
    yield from _pair("output_throughput", tokens, 1.0)
    yield from _pair("tgs", tokens, 1 / run.gpu_count)
    price = metrics.usd_per_1m_output_tokens(run.pools, rate)
    if price is not None and tokens.low > 0:
        yield from _pair("usd_per_1m_output_tokens", Interval(price * rate / tokens.high, price * rate / tokens.low), 1)
    yield from _of_requests(run)


def _doubt(load: Load | None) -> float:
    """Relative half-width of the arrivals: the output of a cluster that carries its load is known no better."""
    if load is None or load.level != "STABLE":
        return 0.0
    return (load.offered_interval.high - load.offered) / load.offered


def _of_requests(run: Run) -> Iterator[tuple[str, list[float]]]:
    rate = metrics.request_throughput(run.requests, run.window)
    half = _of_ends(run, column(run.requests, "finish_s"))
    yield from _pair("request_throughput", Interval.around(rate, half).positive, 1.0)
    if run.sla is not None and run.load is not None:
        good, half = metrics.goodput(run, run.sla), _of_ends(run, metrics.good_ends(run, run.sla))
        yield from _pair("request_goodput", Interval.around(good, half).positive, 1.0)
    elif run.sla is not None:
        share = metrics.good(run.requests, run.sla)[counted(run.requests)].astype(float)
        if len(share) > 1:
            spread = math.hypot(half * float(share.mean()), half_width(share) * rate)
            good = metrics.goodput(run, run.sla)
            yield from _pair("request_goodput", Interval.around(good, spread).positive, 1.0)


def _of_ends(run: Run, ends: Floats) -> float:
    """Half-width of the rate at which requests end in the window."""
    counts = np.histogram(ends[~np.isnan(ends)], np.linspace(*run.window, BINS + 1))[0]
    return half_width(counts * BINS / run.duration) if run.duration else math.inf


def _pair(key: str, interval: Interval, scale: float) -> Iterator[tuple[str, list[float]]]:
    found = bounds(interval, scale)
    if found is not None:
        yield key, found


def bounds(interval: Interval, scale: float = 1.0) -> list[float] | None:
    """Return both ends, or None where one is not known."""
    return [bound * scale for bound in interval] if all(map(math.isfinite, interval)) else None


def known(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None, at any depth."""
    return {key: _known(value) for key, value in tree.items() if value is not None}


def _known(value: Any) -> Any:
    if isinstance(value, list):
        return [_known(item) for item in value]
    return known(value) if isinstance(value, Mapping) else value
