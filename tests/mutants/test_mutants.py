"""The changes that mutation testing makes, and that it tells a test that notices from one that does not."""

import ast
import os
import types

import pytest

from tests.mutants.__main__ import told
from tests.mutants.changes import changes, put_in_place
from tests.mutants.trial import forked

TEXT = '''
from functools import cache

@cache
def f(a, b=1):
    """Say nothing."""
    if a < b:
        return max(a, b) + 1
    a += 2
    return g(a, b, strict=True)

def g(one, other, strict=True):
    return one and not other

class C:
    @property
    def p(self):
        return [n for n in range(3) if n is not None]
'''


def loaded():
    module = types.ModuleType("changed")
    module.__file__ = __file__
    exec(compile(TEXT, __file__, "exec"), vars(module))
    return module


def test_every_operator_has_its_changes():
    found = [(each.function, each.before, each.after) for each in changes(ast.parse(TEXT))]

    assert found == [
        ("f", "a < b", "a <= b"),
        ("f", "a < b", "a >= b"),
        ("f", "return max(a, b) + 1", "pass"),
        ("f", "max(a, b) + 1", "max(a, b) - 1"),
        ("f", "max(a, b)", "min(a, b)"),
        ("f", "1", "2"),
        ("f", "1", "0"),
        ("f", "a += 2", "pass"),
        ("f", "a += 2", "a -= 2"),
        ("f", "2", "3"),
        ("f", "2", "1"),
        ("f", "g(a, b, strict=True)", "g(b, a, strict=True)"),
        ("g", "one and (not other)", "one or not other"),
        ("g", "not other", "other"),
        ("C.p", "3", "4"),
        ("C.p", "3", "2"),
        ("C.p", "n is not None", "n is None"),
    ]


@pytest.mark.parametrize(
    ("number", "asked", "before", "after"),
    [
        (0, lambda module: module.f(5, 5), False, 6),
        (3, lambda module: module.f(3, 5), 6, 4),
        (11, lambda module: module.f(-2, -5), False, True),
        (12, lambda module: module.g(1, 1), False, 1),
        (14, lambda module: len(module.C().p), 3, 4),
    ],
)
def test_a_change_is_seen_by_whoever_holds_the_function(number, asked, before, after):
    module, tree = loaded(), ast.parse(TEXT)
    held = module.f, module.g, module.C
    assert asked(module) == before
    vars(module)["f"].cache_clear()
    put_in_place(module, tree, list(changes(tree))[number])

    assert asked(module) == after
    assert held == (module.f, module.g, module.C)


def test_a_change_that_hangs_or_dies_has_no_answer():
    assert forked(lambda: b"-", limit=5.0) == b"-"
    assert forked(lambda: os._exit(1), limit=5.0) is None
    assert forked(endless, limit=1.0) is None


def endless():
    while True:
        pass


def test_a_score_has_the_interval_of_wilson():
    verdicts = [True] * 9 + [False, None]

    assert told("room", verdicts) == "room: 9 of 10 killed, 90.0% (59.6% to 98.2%), 1 that no test calls"
    assert told("room", [None]) == "room: none tried, 1 that no test calls"
