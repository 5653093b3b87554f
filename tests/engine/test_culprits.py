"""The columns of blame are where the books look for them."""

from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine import culprits
from afdsim.engine.books import BUSY, HOST, OWN, UNCUT
from afdsim.engine.lowering import lower
from afdsim.engine.schedule import GATHER
from tests.cases import tiny
from tests.laws.test_colocated import engines, tensors
from tests.laws.test_equivalence import deployments


@given(st.one_of(deployments(), engines(), tensors()))
def test_every_column_that_the_books_may_charge_is_the_culprit_that_it_should_be(scenario):
    cell = lower(scenario, seed=0)
    step, lines, accounts = cell.schedule, culprits.lines(cell), list(culprits.accounts(cell))
    for pool, units in enumerate(step.pools):
        account = accounts[units.start]
        assert (account.culprits[HOST].kind, account.culprits[OWN].kind) == ("host", "port")
        for place, number in zip(range(lines.start[pool], lines.start[pool + 1]), step.of(units), strict=True):
            turn, awaited = step.turns[number], step.awaited(number)
            part = account.parts[int(lines.part[place]) - len(account.culprits) + 1]
            assert part.micro_batch == turn.micro_batch
            assert int(lines.part[place]) - BUSY < len(account.culprits) + len(account.parts)
            if awaited is None:
                assert lines.cut[place] == UNCUT
                continue
            way = int(lines.way[place])
            for rank, sender in enumerate(awaited.senders):
                first, last = (account.culprits[int(at[way]) + rank] for at in (lines.peers, lines.others))
                port = account.culprits[int(lines.ports[way]) + rank]
                assert (first.kind, first.unit, first.cause) == ("peer", sender, awaited.before)
                assert (last.kind, last.unit, last.cause) == ("peer", sender, awaited.between)
                assert (port.kind, port.unit, port.direction) == ("port", sender, "egress")
                if awaited.after != awaited.sent:
                    scatter = account.culprits[int(lines.scatters[way]) + rank]
                    assert (scatter.kind, scatter.unit, scatter.stage) == ("nvlink", sender, "scatter")
            own = account.culprits[int(lines.ports[way]) + len(awaited.senders)]
            assert (own.unit, own.direction) == (units.start, "ingress")
            assert account.culprits[int(lines.path[way])].kind == "path"
            before = step.turns[turn.after]
            gathers = getattr(before, "resource", None) == GATHER
            assert account.culprits[int(lines.rest[way])].kind == ("nvlink" if gathers else "host")


def test_kinds_of_layers_are_told_by_what_differs():
    cell = lower(tiny(3, attention=2), seed=0)
    kinds = {part.kind for account in culprits.accounts(cell) for part in account.parts}

    assert kinds == {"boundary", "moe"}
