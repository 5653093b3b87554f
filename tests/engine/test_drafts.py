import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine.drafts import MOST, Drafts
from afdsim.errors import ScenarioError
from afdsim.scenario.streams import stream


class Hasty(Drafts):
    """Drafts that expect to be done with the fewest draws, eight."""

    mean = 1e9


def walked(random, draft, acceptance, tokens):
    """Steps until so many tokens are there, drawn one by one: a step yields one, and the drafts up to the first refused."""
    steps = 0
    while tokens > 0:
        kept = (random.random(draft) < acceptance).tolist()
        tokens -= 1 + (kept.index(False) if False in kept else draft)
        steps += 1
    return steps


@given(st.integers(1, 4), st.sampled_from([0.0, 0.2, 0.7, 0.95, 1.0]), st.integers(1, 300), st.integers(0, 99))
def test_steps_are_those_of_a_walk_step_by_step_however_many_are_drawn_at_a_time(draft, acceptance, tokens, request_):
    given_ = {"draft": draft, "acceptance": acceptance, "stream": lambda kind, at: stream(1, kind, at)}
    steps = walked(stream(1, "acceptance", request_), draft, acceptance, tokens)

    assert Drafts(**given_).steps(request_, tokens) == steps
    assert Hasty(**given_).steps(request_, tokens) == steps


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.9])
def test_a_step_yields_the_sum_of_the_powers_of_acceptance(acceptance):
    drafts = Drafts(draft=3, acceptance=acceptance, stream=lambda kind, at: stream(0, kind, at))

    assert drafts.mean == pytest.approx(1 + acceptance + acceptance**2 + acceptance**3)


def test_steps_of_an_endless_answer_are_refused_and_those_of_the_longest_are_not():
    drafts = Drafts(draft=3, acceptance=0.5, stream=lambda kind, at: stream(0, kind, at))

    with pytest.raises(ScenarioError, match=rf"at most {MOST:,} tokens with it.*got {MOST + 1:,}"):
        drafts.steps(0, MOST + 1)
    assert drafts.steps(0, MOST) < MOST
