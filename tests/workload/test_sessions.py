"""Plans of sessions: the same however many are drawn, and every prompt the conversation before it."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.scenario.streams import stream
from afdsim.workload.laws import Constant, Lognormal, Poisson, RequestSource, Uniform
from afdsim.workload.sessions import BLOCK, Exponential, Fixed, LognormalTime, Plan, Sessions, thought

KINDS = {"arrival": "arrivals", "input_len": "input_lengths", "output_len": "output_lengths"}


def sessions(*, most: int = 10**9, seed: int = 0, turns: int = 9, think: float = 3.0) -> Sessions:
    """Up to nine turns of any length."""
    answers = Lognormal(mean=30, cv=1.0)
    return Sessions(
        source=RequestSource(
            Poisson(rate=2.0), Uniform(min=1, max=200), answers, lambda kind: stream(seed, KINDS[kind])
        ),
        turns=Uniform(min=1, max=turns),
        user_len=Uniform(min=1, max=50),
        output_len=answers,
        think=Exponential(mean=think),
        fits=lambda context: context <= most,
        stream=partial(stream, seed),
    )


def same(one: Plan, other: Plan, turns: int) -> bool:
    return all(np.array_equal(mine[:turns], yours[:turns]) for mine, yours in zip(one[2:], other[2:], strict=True))


@given(st.integers(1, 40), st.integers(1, 3 * BLOCK), st.sampled_from([100, 400, 10**9]))
def test_the_same_session_comes_however_many_are_drawn(few, more, most):
    less, whole = sessions(most=most).plan(few), sessions(most=most).plan(few + more)

    assert same(less, whole, len(less))
    assert np.array_equal(less.first, whole.first[: few + 1])
    assert np.array_equal(less.cut, whole.cut[:few])


@given(st.integers(0, 5), st.sampled_from([100, 400, 10**9]))
def test_every_prompt_is_the_conversation_so_far_and_something_more(seed, most):
    plan = sessions(seed=seed, most=most).plan(200)
    later = np.flatnonzero(np.diff(plan.session) == 0) + 1
    said = plan.input_len[later] - plan.input_len[later - 1] - plan.output_len[later - 1]
    first = plan.first[:-1]

    assert said.min() >= 1
    assert said.max() <= 50
    assert np.array_equal(plan.input_len[first], sessions(seed=seed).source.columns(200)[0])
    assert np.array_equal(plan.output_len[first], sessions(seed=seed).source.columns(200)[1])
    assert (plan.think[first] == 0).all()
    assert (plan.input_len + plan.output_len)[later].max() <= most
    assert plan.cut.any() == (most < 10**9)


@given(st.integers(1, 3000))
def test_as_many_requests_are_planned_as_are_asked_for(requests):
    plan = sessions().first_requests(requests)

    assert len(plan) == plan.first[-1] == requests
    assert len(plan.cut) == plan.session[-1] + 1
    assert same(plan, sessions().plan(len(plan.cut)), requests)


def test_sessions_that_are_cut_have_all_turns_before():
    whole, cut = sessions().plan(300), sessions(most=150).plan(300)
    fits = whole.input_len + whole.output_len <= 150
    kept = np.bincount(whole.session[fits], minlength=300)

    assert np.array_equal(np.diff(cut.first), np.maximum(kept, 1))
    assert np.array_equal(cut.cut, np.diff(cut.first) < np.diff(whole.first))


@pytest.mark.parametrize(
    ("law", "mean", "deviation"),
    [(Fixed(seconds=2.0), 2.0, 0.0), (Exponential(mean=2.0), 2.0, 2.0), (LognormalTime(mean=2.0, cv=0.5), 2.0, 1.0)],
)
def test_people_think_as_long_as_the_law_says(law, mean, deviation):
    drawn = thought(law, np.random.default_rng(0), 100_000)

    assert drawn.mean() == pytest.approx(mean, rel=0.02)
    assert drawn.std() == pytest.approx(deviation, rel=0.02, abs=1e-12)


def test_a_source_of_several_answers_repeats_prompts_and_arrivals():
    def drawn(samples: int) -> RequestSource:
        laws = (Poisson(rate=2.0), Uniform(min=1, max=200), Uniform(min=1, max=9))
        return RequestSource(*laws, lambda kind: stream(0, KINDS[kind]), samples=samples)

    one, many = drawn(1), drawn(7)
    prompts, answers = many.columns(100)

    assert np.array_equal(prompts, np.repeat(one.columns(15)[0], 7)[:100])
    assert np.array_equal(answers, one.columns(100)[1])
    assert np.array_equal(many.times(100), np.repeat(one.times(15), 7)[:100])
    assert many.until(30.0) == 7 * one.until(30.0)
    assert many.lengths(50) == (int(prompts[50]), int(answers[50]))
    assert many.arrival(50) == many.times(51)[50]


def test_a_session_of_one_turn_is_its_first_request():
    asked = Sessions(
        source=sessions().source,
        turns=Constant(value=1),
        user_len=Constant(value=1),
        output_len=Constant(value=1),
        think=Fixed(seconds=1.0),
        fits=lambda context: context < 0,
        stream=partial(stream, 0),
    )
    plan = asked.plan(50)

    assert np.array_equal(plan.input_len, asked.source.columns(50)[0])
    assert not plan.cut.any()
