"""The figures of one result, as its methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from afdsim.results import metrics

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class Simulated(Protocol):
    """What all figures together need of a result; `afdsim.Result` is one."""

    @property
    def run(self) -> metrics.Run:
        """Its columns."""

    @property
    def operators(self) -> pd.DataFrame:
        """What one layer computes."""


@dataclass(frozen=True, slots=True)
class Plots:
    """The figures of `afdsim.plot` with the data of one result filled in; each returns matplotlib Axes."""

    result: Simulated

    def tpot_histogram(self, ax: Axes | None = None, *, bins: metrics.Bins = "auto") -> Axes:
        """Draw the share of requests by TPOT, with p50, p99 and the SLA."""
        from afdsim.results import plot

        return plot.tpot_histogram(self.result, ax, bins=bins)

    def tpot_cdf(self, ax: Axes | None = None, *, tail: bool = False) -> Axes:
        """Draw the share of requests at or below every TPOT; `tail` draws those above, on a log axis."""
        from afdsim.results import plot

        return plot.tpot_cdf(self.result, ax, tail=tail)

    def ttft_histogram(self, ax: Axes | None = None, *, bins: metrics.Bins = "auto") -> Axes:
        """Draw the share of requests by TTFT, with p50, p99 and the SLA."""
        from afdsim.results import plot

        return plot.ttft_histogram(self.result, ax, bins=bins)

    def ttft_cdf(self, ax: Axes | None = None, *, tail: bool = False) -> Axes:
        """Draw the share of requests at or below every TTFT; `tail` draws those above, on a log axis."""
        from afdsim.results import plot

        return plot.ttft_cdf(self.result, ax, tail=tail)

    def itl_histogram(self, ax: Axes | None = None, *, bins: metrics.Bins = 40) -> Axes:
        """Draw the share of all gaps between two tokens by length, with p50 and p99."""
        from afdsim.results import plot

        return plot.itl_histogram(self.result, ax, bins=bins)

    def causes(self, ax: Axes | None = None) -> Axes:
        """Draw the GPU time of every pool by cause."""
        from afdsim.results import plot

        return plot.causes(self.result, ax)

    def throughput(self, ax: Axes | None = None, *, bins: int = 100) -> Axes:
        """Draw output tokens per second over simulated time."""
        from afdsim.results import plot

        return plot.throughput(self.result, ax, bins=bins)

    def utilization(self, ax: Axes | None = None) -> Axes:
        """Draw the busy share of every GPU over simulated time."""
        from afdsim.results import plot_time

        return plot_time.utilization(self.result, ax)

    def queue(self, ax: Axes | None = None) -> Axes:
        """Draw the sequences in flight and the requests that wait over simulated time."""
        from afdsim.results import plot_time

        return plot_time.queue(self.result, ax)

    def gantt(self, ax: Axes | None = None) -> Axes:
        """Draw three layers of a step: who worked on which micro-batch, and why others stood still."""
        from afdsim.results import plot_time

        return plot_time.gantt(self.result, ax)

    def blame(self, ax: Axes | None = None, *, most: int = 10) -> Axes:
        """Draw whom the GPUs waited for, the worst first."""
        from afdsim.results import plot_accounts

        return plot_accounts.blame(self.result, ax, most=most)

    def cost(self, ax: Axes | None = None) -> Axes:
        """Draw what a million output tokens cost, and how much of it is waiting."""
        from afdsim.results import plot_accounts

        return plot_accounts.cost(self.result, ax)

    def roofline(self, ax: Axes | None = None) -> Axes:
        """Draw what every operator of a step reaches, under the roofs of its GPU."""
        from afdsim.results import plot_accounts

        return plot_accounts.roofline(self.result.operators, ax)
