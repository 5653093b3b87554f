"""Models that a caller brings, with every answer checked: a wrong one is told where it was given.

A cost model must answer with finite seconds >= 0 in the shape of the operator's arrays, a network with as many for the
messages that it is asked about; one number for all is an answer too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Array
from afdsim.cluster.network import Network, Wire
from afdsim.cost.operators import Operator
from afdsim.cost.roofline import CostModel, Roofline
from afdsim.errors import ModelError

LONGEST = 60
"""Characters of an answer that a message repeats."""


def checked_cost(model: CostModel | None) -> CostModel | None:
    """Return a cost model that checks its answers; afdsim's own needs no check."""
    if model is None or isinstance(model, Roofline):
        return model
    _check_method("cost", model, "operator, gpu")
    return CheckedCost(model=model)


def checked_network(model: Network | None) -> Network | None:
    """Return a network that checks its answers; afdsim's own needs no check."""
    if model is None or type(model) is Wire:
        return model
    _check_method("network", model, "nbytes, bandwidth")
    return CheckedNetwork(model=model)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedCost:
    """A cost model of the caller's."""

    model: CostModel

    def seconds(self, operator: Operator, gpu: Gpu) -> Array:
        """Return what the model answers, or raise ModelError."""
        work = [each for each in (operator.flops, operator.bytes, operator.rows) if each is not None]
        shape = np.broadcast_shapes(*map(np.shape, work))

        def asked(place: tuple[int, ...]) -> str:
            flops, moved = (np.broadcast_to(each, shape)[place] for each in (operator.flops, operator.bytes))
            what = f"'{operator.name}' ({operator.kernel}, {operator.dtype}) on {gpu.name}"
            return f"{what} of {flops:.4g} FLOP and {moved:.4g} bytes" if len(place) == len(shape) else what

        return _sound("cost", self.model, self.model.seconds(operator, gpu), shape, asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedNetwork:
    """A network of the caller's."""

    model: Network

    def seconds(self, nbytes: np.ndarray, bandwidth: float) -> np.ndarray:
        """Return what the model answers, or raise ModelError."""

        def asked(place: tuple[int, ...]) -> str:
            size = f"a message of {nbytes[place]:.4g} bytes" if len(place) == np.ndim(nbytes) else "messages"
            return f"{size} at {bandwidth:.4g} bytes/s"

        return _sound("network", self.model, self.model.seconds(nbytes, bandwidth), np.shape(nbytes), asked)


def _check_method(argument: str, model: Any, given: str) -> None:
    """Refuse what has no method `seconds` of the parameters `given`."""
    if isinstance(model, type):
        raise ModelError(f"{argument}= is the class {model.__name__}; give an object of it: {model.__name__}()")
    method = getattr(model, "seconds", None)
    if not callable(method):
        raise ModelError(f"{argument}= is of type {type(model).__name__}, which has no method seconds({given})")
    try:
        inspect.signature(method).bind(*given.split(", "))
    except TypeError as error:
        raise ModelError(f"{_called(argument, model)} must take ({given}): {error}") from None
    except ValueError:  # a compiled method shows no signature
        return


def _sound(
    argument: str, model: Any, answer: Any, shape: tuple[int, ...], asked: Callable[[tuple[int, ...]], str]
) -> np.ndarray:
    """Return an answer as numbers of a shape that fits; ModelError says what was asked and what came back."""
    who = _called(argument, model)
    try:
        seconds = np.asarray(answer)
    except ValueError:  # lists of different lengths
        seconds = np.asarray(None)
    if seconds.dtype.kind not in "fiu":
        raise ModelError(f"{who} must return seconds as numbers; asked for {asked(())}, it returned {_short(answer)}")
    try:
        fits = np.broadcast_shapes(seconds.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ModelError(
            f"{who} must return the shape that it is asked in, {shape}, or one number; "
            f"asked for {asked(())}, it returned shape {seconds.shape}"
        )
    seconds = seconds.astype(float)
    wrong = np.argwhere(np.broadcast_to(~(np.isfinite(seconds) & (seconds >= 0.0)), shape))
    if len(wrong):
        place = tuple(wrong[0].tolist())
        value = np.broadcast_to(seconds, shape)[place]
        raise ModelError(f"{who} must return finite seconds >= 0; asked for {asked(place)}, it returned {value:.4g}")
    return seconds


def _called(argument: str, model: Any) -> str:
    return f"{argument}={type(model).__name__}: seconds"


def _short(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
