"""The turns that are known to come, as a heap and a list of openings, against a sorted list."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine import sessions

MOST = 40
"""Turns that come back; sessions are turns from here on."""


def book(opens):
    """Sessions that open at these times, and room for as many turns as come back."""
    starts = MOST + np.arange(len(opens))
    heap = {"times": np.zeros(MOST), "turns": np.zeros(MOST, dtype=np.int64)}
    return sessions.blank(1)._replace(opens=np.array(sorted(opens), dtype=float), starts=starts, **heap)


TIMES = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0])


@given(st.lists(TIMES, max_size=6), st.lists(st.one_of(st.none(), TIMES), max_size=MOST))
def test_turns_come_in_order_of_time_and_of_number(opens, asked):
    """`asked`: a turn that comes back at a time, or the next one is taken."""
    here = book(opens)
    waiting = [(time, MOST + number) for number, time in enumerate(sorted(opens))]
    for turn, time in enumerate(asked):
        if time is not None:
            sessions.push(here, time, turn)
            waiting.append((time, turn))
        elif waiting:
            assert sessions.upcoming(here) == min(waiting)[0]
            assert sessions.take_next(here) == min(waiting)[1]
            waiting.remove(min(waiting))
    for time, turn in sorted(waiting):
        assert (sessions.upcoming(here), sessions.take_next(here)) == (time, turn)
    assert sessions.upcoming(here) == sessions.NEVER
