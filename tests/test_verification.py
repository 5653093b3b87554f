"""The verification suite: every check agrees at its smallest size, and would differ where something were wrong."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from afdsim.errors import ScenarioError
from afdsim.results.intervals import half_width
from afdsim.results.plot_parts import new_axes
from tests.test_shape import FUNCTIONS, length
from tests.test_shape import ast as syntax
from verification import engines, flows, page, pipeline, ports, queues, suite
from verification.__main__ import main
from verification.checks import BEYOND, ROUNDING, Finding, furthest

pytest.importorskip("matplotlib")

REPOSITORY = Path(__file__).parent.parent
SMALLEST = 0.01
MODULES = sorted((REPOSITORY / "verification").glob("*.py"))
by_name = pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.name)


@by_name
def test_a_check_agrees_at_its_smallest_size(check, tmp_path):
    (row,) = suite.run([check], tmp_path, scale=SMALLEST)

    assert row.verdict == suite.AGREES or row.verdict.startswith("not run here: ")
    assert (tmp_path / suite.PICTURES / f"{check.name}.png").is_file() == (row.finding is not None)


@pytest.mark.slow
@by_name
def test_a_check_agrees(check, tmp_path):
    (row,) = suite.run([check], tmp_path)

    assert row.verdict == suite.AGREES or row.verdict.startswith("not run here: ")


# a check can fail ----------------------------------------------------------------------------------------------------


def test_waits_of_another_law_are_far_from_theory():
    equal, unlike, _ = queues.laws()
    series, unit = queues.waits(unlike, 0.5, 12_000, seed=1)
    waits = series / (unit * unlike.mean)

    assert abs(waits.mean() - queues.mean_wait(unlike, 0.5)) < BEYOND * half_width(waits)
    assert abs(waits.mean() - queues.mean_wait(equal, 0.5)) > BEYOND * half_width(waits)


def test_the_inverted_transform_is_crommelins_formula_for_equal_services():
    equal, *_ = queues.laws()
    times = np.linspace(0.2, 12, 20)
    inverted = queues.mg1_at_most(equal, 0.8, times)

    # a lattice of a fortieth of a service
    assert inverted == pytest.approx([queues.md1_at_most(0.8, time) for time in times], abs=2e-4)


def test_a_stage_that_is_a_millionth_longer_is_seen():
    cell = next(each for each in pipeline.drawn(20, seed=4) if each.slowest == each.ffn)
    longer = replace(cell, ffn=cell.ffn * (1 + 1e-6))
    found = pipeline.last_step(longer.run())

    assert furthest(np.array([found]), np.array([longer.step])) < ROUNDING
    assert furthest(np.array([found]), np.array([cell.step])) > ROUNDING


def test_by_hand_two_copies_share_a_port_and_two_arrivals_queue():
    assert ports.shared_out([1.0, 2.0], 10.0) == [12.0, 13.0]
    assert ports.served_in([ports.Arrival(0.0, 1.0, 1.0), ports.Arrival(0.0, 1.0, 1.0)], 0.0) == 2.0
    assert ports.served_in([ports.Arrival(0.0, 0.0, 1.0)], 5.0) == 6.0


def test_a_flow_through_half_the_uplink_is_half():
    full, half = (flows.maximum(flows.saturated(2, 2, ratio, {}), ratio, {}) for ratio in (1.0, 2.0))

    assert (full, half) == (2 * flows.RATE, flows.RATE)


def test_another_seed_is_not_the_same_bits():
    asked = engines.scenario("afd", prefill=None).vary("variation.event", 0.1)
    one, other = (engines.afdsim.simulate(asked, seed=seed) for seed in (0, 1))

    assert engines.unlike(one, one)[0] == 0
    assert engines.unlike(one, other)[0] > 0


# the driver and the page ---------------------------------------------------------------------------------------------


def worse(value):
    finding = Finding(statistic="error", value=value, tolerance=1.0, reason="by hand")
    return replace(suite.CHECKS[0], name="by_hand", run=lambda *_: finding)


def test_a_value_beyond_its_tolerance_differs(tmp_path):
    rows = list(suite.run([worse(1.0), worse(1.1), worse(float("nan"))], tmp_path))

    assert [row.verdict for row in rows] == [suite.AGREES, suite.DIFFERS, suite.DIFFERS]


def test_names_that_are_none_are_told_with_those_that_are(capsys):
    with pytest.raises(ScenarioError, match=r"ciww: no check; there are mean_waits, .*oracles"):
        suite.chosen(["ciww"])

    assert main(["ciww"]) == 2
    assert "ciww" in capsys.readouterr().err


def test_the_driver_prints_the_rows_that_were_asked_for(tmp_path, capsys):
    assert main(["shared_ports", "-o", str(tmp_path), "--scale", "0.05", "--json"]) == 0

    (row,) = json.loads(capsys.readouterr().out)
    assert (row["check"], row["verdict"]) == ("shared_ports", "agrees")
    assert row["value"] < row["at most"] == ROUNDING
    assert not (tmp_path / "verification.md").exists()  # a page of one check would hide the others


def test_a_picture_has_the_same_bytes_every_time(tmp_path):
    check = next(each for each in suite.CHECKS if each.name == "shared_ports")
    for folder in ("one", "other"):
        list(suite.run([check], tmp_path / folder, scale=0.05))
    one, other = ((tmp_path / folder / suite.PICTURES / "shared_ports.png") for folder in ("one", "other"))

    assert one.read_bytes() == other.read_bytes()


def test_the_page_shows_every_check():
    text = (REPOSITORY / "docs" / "verification.md").read_text(encoding="utf-8")
    for check in suite.CHECKS:
        assert f"## {check.name.replace('_', ' ')}\n" in text
        assert check.question in text

    shown = {path.stem for path in (REPOSITORY / "docs" / suite.PICTURES).glob("*.png")}
    assert {each.name for each in suite.CHECKS} >= shown
    assert all(f"]({suite.PICTURES}/{name}.png)" in text for name in shown)
    assert "differs**" not in text


def test_a_check_that_was_not_run_has_no_picture_on_the_page():
    row = suite.Row(check=worse(0.0), finding=None, why="no Ciw")

    assert "not run here: no Ciw" in page.table([row])
    assert "Not run here: no Ciw." in page.section(row)
    assert "png" not in page.section(row)


def test_every_check_names_its_axes_and_its_reading():
    for check in suite.CHECKS:
        assert all((check.compares, check.question, check.answer, check.reading))
    ax = new_axes(None)
    ports.compared(ax, SMALLEST)

    assert all((ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()))


# it stands apart -----------------------------------------------------------------------------------------------------


def test_the_package_does_not_import_it():
    sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "afdsim").rglob("*.py")]

    assert not any("import verification" in text or "from verification" in text for text in sources)


def test_its_contents_list_every_module_and_no_function_is_long():
    trees = {path.stem: syntax.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    _, _, *lines = syntax.get_docstring(trees.pop("__init__")).split("\n\n")
    listed = [line.split()[0] for line in "\n".join(lines).splitlines() if "  " in line]
    nodes = [node for tree in trees.values() for node in syntax.walk(tree) if isinstance(node, FUNCTIONS)]

    assert sorted(listed) == sorted(set(trees) - {"__main__"})
    assert [node.name for node in nodes if length(node) > 40] == []
    assert all(syntax.get_docstring(tree) for tree in trees.values())
