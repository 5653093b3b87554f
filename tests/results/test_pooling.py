"""Notes of several seeds as one list."""

from hypothesis import given
from hypothesis import strategies as st

from afdsim.results.pooling import notes

LONG = "{} of 96 requests are longer than the 4,096 tokens that llama was made for, the longest {:,}"


def test_notes_that_differ_in_numbers_only_are_one_and_say_whose_it_is():
    every = [[LONG.format(3, 5000)], [LONG.format(20, 4500)], [LONG.format(3, 9000)]]

    assert notes(every, [4, 5, 6]) == [f"{LONG.format(20, 4500)} (in seed 5, the most of 3 seeds)"]


def test_a_note_that_some_seeds_have_says_which():
    every = [["refused", "kept"], ["kept"], ["kept", "late"], ["kept", "late"]]

    assert notes(every, [0, 1, 2, 3]) == ["refused (in seed 0)", "kept", "late (in 2 of 4 seeds)"]


def test_names_with_digits_stay_apart():
    every = [["times assumed on H100", "times assumed on H800"], ["times assumed on H800", "times assumed on H100"]]

    assert notes(every, [0, 1]) == ["times assumed on H100", "times assumed on H800"]


@given(own=st.lists(st.text(alphabet="ab 0123456789.,", max_size=12)), seeds=st.integers(min_value=1, max_value=4))
def test_what_every_seed_notes_stays_as_it_is(own, seeds):
    assert notes([own] * seeds, range(seeds)) == own
