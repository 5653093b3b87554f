"""The columns of blame are where the books look for them."""

from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine import culprits
from afdsim.engine.books import BUSY, HOST, NETWORK, OUTAGE, OWN, UNCUT
from afdsim.engine.cell import Cell
from afdsim.engine.lowering import lower
from afdsim.engine.schedule import GATHER
from tests.cases import tiny
from tests.laws.test_colocated import engines, tensors
from tests.laws.test_equivalence import deployments


def step_is_late(cell: Cell) -> bool:
    """Whether posts may be late."""
    return cell.variation.spike is not None and cell.variation.spike.late


@given(st.one_of(deployments(), engines(), tensors()))
def test_every_column_that_the_books_may_charge_is_the_culprit_that_it_should_be(scenario):
    cell = lower(scenario, seed=0)
    step, lines, accounts = cell.schedule, culprits.lines(cell), list(culprits.accounts(cell))
    for pool, units in enumerate(step.pools):
        account = accounts[units.start]
        assert [account.culprits[each].kind for each in (HOST, OWN, OUTAGE)] == ["host", "port", "outage"]
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
                if len(awaited.senders) > 1:
                    alone, behind = (account.culprits[int(at[way]) + rank] for at in (lines.alone, lines.behind))
                    assert (alone.kind, alone.unit, alone.cause) == ("peer", sender, awaited.between)
                    assert (behind.kind, behind.unit, behind.cause) == ("peer", sender, NETWORK)
                if step_is_late(cell):
                    host = account.culprits[int(lines.hosts[way]) + rank]
                    assert (host.kind, host.unit, host.stage) == ("host", sender, "post")
                port = account.culprits[int(lines.ports[way]) + rank]
                assert (port.kind, port.unit, port.direction) == ("port", sender, "egress")
                if awaited.after != awaited.sent:
                    scatter = account.culprits[int(lines.scatters[way]) + rank]
                    assert (scatter.kind, scatter.unit, scatter.stage) == ("nvlink", sender, "scatter")
            early, late = (account.culprits[int(at[way])] for at in (lines.early, lines.late))
            assert (early.kind, early.unit, early.cause) == ("pool", awaited.senders.start, awaited.before)
            assert (late.kind, late.unit, late.cause) == ("pool", awaited.senders.start, awaited.between)
            own = account.culprits[int(lines.ports[way]) + len(awaited.senders)]
            assert (own.unit, own.direction) == (units.start, "ingress")
            if cell.wiring.servers:
                assert account.culprits[int(lines.uplink[way])].kind == "uplink"
            assert account.culprits[int(lines.path[way])].kind == "path"
            before = step.turns[turn.after]
            gathers = getattr(before, "resource", None) == GATHER
            assert account.culprits[int(lines.rest[way])].kind == ("nvlink" if gathers else "host")


def test_kinds_of_layers_are_told_by_what_differs():
    cell = lower(tiny(3, attention=2), seed=0)
    kinds = {part.kind for account in culprits.accounts(cell) for part in account.parts}

    assert kinds == {"boundary", "moe"}
