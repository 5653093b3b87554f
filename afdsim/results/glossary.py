"""Words of a report, for a reader who meets them there first; the documentation has them at length."""

from __future__ import annotations

from typing import Final

WORDS: Final = (
    ("instance, rank", "a server that plays one role; a part of it with requests of its own, mostly one GPU"),
    ("step", "one token for every sequence in flight: all layers once"),
    ("micro-batch", "a part of a rank's sequences; while one is computed, another one travels"),
    (
        "boundary",
        "end of a step and begin of the next, of one micro-batch: LM head, sampling, who leaves or joins",
    ),
    ("round trip", "the way of one micro-batch through all layers and links, with nobody else under way"),
    ("bubble", "time in which a GPU does not compute while requests are in flight: wait peer, network or imbalance"),
    ("wait peer, pool", "nobody had sent yet; the pool is blamed where all of it was late, a late peer where one was"),
    ("network", "rows were under way: in a port (egress out, ingress in), on the path, or on NVLink inside a server"),
    ("imbalance", "others of the same pool, or the slowest GPU of an operation, were not done yet"),
    ("no work, down", "no request was in flight there; the server had crashed"),
    ("critical path", "the operations that made a step as long as it was; slack is by how much another might be later"),
    ("TGS", "output tokens per GPU and second, over all GPUs"),
    ("MARGINAL", "the 95 % interval of a figure holds the limit: met or missed by its value, but not for sure"),
    (
        "STABLE, BACKLOGGED, OVERLOADED",
        "the queue empties again and again; was left or grew for a while; grows without end",
    ),
)
"""Word, meaning."""
