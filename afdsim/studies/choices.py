"""What a plan chooses: cells that are best together, alone or behind prefill servers, and what they give."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from afdsim.studies.candidates import Trial
from afdsim.studies.choosing import Offer
from afdsim.studies.pods import Pod


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A cell that was chosen."""

    trial: Trial
    replicas: int

    @property
    def label(self) -> str:
        """``2 x EP16 H800``."""
        return f"{self.replicas} x {self.trial.layout.label}" if self.replicas > 1 else self.trial.layout.label

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"replicas": self.replicas, **row(self.trial)}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Cells that are best together."""

    picks: tuple[Pick, ...]
    pod: Pod | None = None
    """The cells behind their prefill servers, where there are any."""

    @property
    def label(self) -> str:
        """``1 x EP64 H800 and 4 x TP8 H20``."""
        cells = " and ".join(pick.label for pick in self.picks)
        return cells if self.pod is None else f"{cells} behind {self.pod.label}"

    @property
    def short(self) -> str:
        """``EP64 H800 and 4 x TP8 H20``, without the details of the cells."""
        words = [f"{pick.replicas} x " * (pick.replicas > 1) + pick.trial.layout.short for pick in self.picks]
        cells = " and ".join(words)
        return cells if self.pod is None else f"{cells} behind {self.pod.label}"

    @property
    def offer(self) -> Offer:
        """What they give together; the slowest cell counts for a user."""
        every = [(pick.trial.offer, pick.replicas) for pick in self.picks if pick.trial.offer is not None]
        gpus: Counter[str] = Counter()
        for offer, count in every:
            gpus.update({kind: count * number for kind, number in offer.gpus.items()})
        prices = [offer.usd for offer, _ in every]
        usd = None if None in prices else sum(count * (offer.usd or 0.0) for offer, count in every)
        rate = sum(count * offer.rate for offer, count in every)
        if self.pod is not None:
            rate = self.pod.tokens
            gpus[self.pod.servers.gpu] += self.pod.gpus
            price = self.pod.servers.usd
            usd = None if usd is None or price is None else usd + self.pod.gpus * price
        return Offer(dict(gpus), rate, usd, min((offer.speed for offer, _ in every), default=0.0))

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data; what is not known is absent."""
        ahead = {} if self.pod is None else {"prefill": self.pod.to_dict()}
        return {"cells": [pick.to_dict() for pick in self.picks], **ahead, **figures(self.offer)}


def figures(offer: Offer) -> dict[str, Any]:
    """What cells give, as plain data; what is not known is absent."""
    found: dict[str, Any] = {"gpus": dict(offer.gpus), "output_throughput": offer.rate, "tgs": offer.rate / offer.total}
    found["tokens_per_s_per_user"] = offer.speed
    if offer.usd is not None:
        found["usd_per_hour"] = offer.usd
        found["usd_per_1m_output_tokens"] = offer.usd / offer.rate / 3600.0 * 1e6
    return found


def tgs(trial: Trial) -> float:
    """Tokens per GPU and second that a layout stands for; 0 where it is out."""
    return trial.offer.rate / trial.layout.count if trial.offer is not None else 0.0


def row(trial: Trial) -> dict[str, Any]:
    """What is known of a layout, as plain data; what is not is absent."""
    row: dict[str, Any] = {"family": trial.layout.family, "deployment": trial.layout.label, "standing": trial.standing}
    if trial.offer is None:
        return row | {"gpus": dict(trial.layout.gpus), "why": trial.why}
    row |= {"max_num_seqs": trial.batch, **figures(trial.offer), "mean_tpot_ms": 1e3 / trial.offer.speed}
    missed = {"sla_missed_in": "; ".join(trial.missed)} if trial.missed else {}
    return row | missed | {"tgs_at_most": trial.bound, "binds": trial.binding}
