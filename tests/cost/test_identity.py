"""Two objects have one digest only if they give the same answers."""

import importlib
import sys
from functools import partial
from threading import Event
from types import MappingProxyType

import numpy as np
import pytest

from afdsim.cost.identity import UnknownError, digest, label
from afdsim.cost.roofline import Roofline

MODEL = """\
from dataclasses import dataclass
from own_constants import FACTOR
import own_helper

@dataclass(frozen=True)
class Model:
    a: float = 1.0
    more: object = None

    def seconds(self, operator, gpu):
        return self.a * FACTOR + own_helper.extra()

class Plain:
    rate = 1.0

    def __init__(self, a=1.0):
        self.a = a
"""
FILES = {"own_constants": "FACTOR = 2.0\n", "own_helper": "def extra():\n    return 0.0\n", "own_model": MODEL}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the caller's with two others that it uses; `write` changes one and imports all anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    texts = dict(FILES)

    def write(fresh=True, **changes):
        texts.update(changes)
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
        for name in FILES if fresh else ():
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("own_model")

    yield write
    for name in FILES:
        sys.modules.pop(name, None)


def test_the_digest_is_that_of_class_and_data(own):
    module = own()

    assert digest(module.Model()) == digest(module.Model(a=1.0))
    digests = {
        digest(each)
        for each in (module.Model(), module.Model(a=2.0), module.Plain(), module.Plain(a=2.0), module.Plain)
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"own_model": MODEL.replace("self.a * FACTOR", "self.a / FACTOR")},
        {"own_constants": "FACTOR = 3.0\n"},
        {"own_helper": "def extra():\n    return 1.0\n"},
    ],
    ids=["method", "constant", "helper"],
)
def test_code_that_changes_changes_the_digest(own, changes):
    before = digest(own().Model())

    assert digest(own(**changes).Model()) != before
    assert digest(own(**FILES).Model()) == before


def test_constants_count_as_they_are_now(own):
    module = own()
    before = digest(module.Plain())
    module.Plain.rate = 2.0
    changed = digest(module.Plain())
    module.FACTOR = 5.0

    assert len({before, changed, digest(module.Plain())}) == 3


def test_a_file_that_was_edited_after_its_import_has_no_digest(own):
    module = own()
    own(fresh=False, own_model=MODEL.replace("self.a * FACTOR", "self.a / FACTOR"))

    with pytest.raises(UnknownError, match=r"own_model\.py has changed since it was imported"):
        digest(module.Model())


def test_what_is_defined_in_a_function_or_cannot_be_pickled_has_none(own):
    module = own()

    class Local:
        pass

    with pytest.raises(UnknownError, match=r"Local is defined inside a function or was replaced"):
        digest(Local())
    with pytest.raises(UnknownError, match=r"<lambda> is defined inside a function"):
        digest(module.Model(more=lambda: 1))
    with pytest.raises(UnknownError, match="cannot be pickled"):
        digest(module.Model(more=Event()))
    circle = []
    circle.append(circle)
    with pytest.raises(UnknownError, match="refers to itself"):
        digest(circle)
    assert label(Local()).endswith("Local")


def test_what_is_defined_in_a_script_has_none(own, monkeypatch):
    module = own()
    monkeypatch.setattr(module.Model, "__module__", "__main__")

    with pytest.raises(UnknownError, match="Model is defined in a script or notebook; put it into a module"):
        digest(module.Model())


VALUES = [
    None, True, 1, 1.0, -0.0, 0.0, "1", b"1", [1], (1,), {1: 2}, {2: 1}, {1, 2}, frozenset((1, 2)), np.float32(1.0),
    np.array([1.0]), np.array([1]), np.array([[1.0]]), MappingProxyType({1: 2}), abs, max, digest, int, sys,
    partial(max, 1), partial(max, 2), Roofline(), Roofline(backends=("cutlass",)),
]  # fmt: skip


def test_different_data_have_different_digests_and_the_same_data_the_same():
    digests = [digest(value) for value in VALUES]

    assert len(set(digests)) == len(VALUES)
    assert digests == [digest(value) for value in VALUES]
    assert label(Roofline()).startswith("afdsim.cost.roofline.Roofline sha256:")
