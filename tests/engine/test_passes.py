"""Work of a rank's pass, of which theory and bounds are made."""

from collections import defaultdict

import pytest

from afdsim.engine import passes
from afdsim.engine.lowering import deployment
from afdsim.scenario.document import load

BATCH, CONTEXT, PROMPT, ENDED = 64.0, 4096.0, 500.0, 3.0


def asked(name, *prompts, batch=BATCH):
    """FLOPs and bytes of a pass by operator."""
    found = defaultdict(lambda: (0.0, 0.0))
    for count, operator in passes.attention(deployment(load(name)), 1, batch, CONTEXT, *prompts):
        flops, nbytes = found[operator.name]
        found[operator.name] = (flops + count * operator.flops, nbytes + count * operator.bytes)
    return dict(found)


@pytest.mark.parametrize("name", ["step3_2a2f_4k", "step3_ep32"])
def test_prompts_add_rows_but_no_core_attention_and_a_head_where_they_end(name):
    alone, beside = asked(name), asked(name, (PROMPT, ENDED))
    with_rows, with_ends = asked(name, batch=BATCH + PROMPT), asked(name, batch=BATCH + ENDED)
    cores = {key for key in alone if "core" in key}
    head = {"lm head", "final norm", "embedding", "sampling"} & set(alone)

    assert cores
    assert "lm head" in head
    assert {key: beside[key] for key in cores} == {key: alone[key] for key in cores}
    assert {key: beside[key] for key in head} == {key: with_ends[key] for key in head}
    assert {k: v for k, v in beside.items() if k not in cores | head} == {
        k: v for k, v in with_rows.items() if k not in cores | head
    }
    assert asked(name, (0.0, 0.0)) == alone
