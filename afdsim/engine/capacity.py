"""What a deployment offers to requests, and which of them could ever have it."""

from __future__ import annotations

import numpy as np

from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd
from afdsim.engine.cell import Array, Cell
from afdsim.engine.seats import UNBOUNDED, Places
from afdsim.errors import CapacityError
from afdsim.units import show_bytes


def places(cell: Cell) -> Places:
    """What the deployment offers to requests; KV bytes are affine in the context as far as each window goes."""
    windows = [UNBOUNDED if window is None else window for window in cell.windows]
    fixed, per_token = cell.deployment.kv_cache.law(cell.windows)
    return Places(
        micro_batches=cell.micro_batches,
        ranks=cell.ranks,
        scale=cell.scale,
        slots=np.array(cell.deployment.micro_batch_slots),
        windows=np.array(windows, dtype=np.int64),
        kv_budget=float(np.floor(cell.deployment.kv_budget)),
        kv_fixed=fixed,
        kv_per_token=np.array(per_token),
        keeping=cell.keeping,
        prompting=cell.prompting,
    )


def fits(places: Places, context: Array) -> Array:
    """Mark the contexts that a rank could hold alone, as `seats.need` has it (request,)."""
    total, block = np.full(len(context), places.kv_fixed), places.keeping.block
    for per_token, window in zip(places.kv_per_token, places.windows, strict=True):
        total += per_token * (-(np.minimum(context, window) // -block) * block)
    return np.asarray(total <= places.kv_budget)


def too_long(deployment: Afd | Colocated, context: int) -> CapacityError:
    """No request of a closed loop fits; `context` is the need of one of them."""
    return CapacityError(
        f"no request fits: {context:,} tokens need {show_bytes(deployment.kv_cache.reserved(context))} of KV cache, "
        f"an attention rank has {show_bytes(deployment.kv_budget)}",
        path="workload.input_len",
        tokens=context,
    )
