"""The sweep that the documentation shows crowns a deployment that carries its load."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "sweeps.md"


@pytest.mark.slow
def test_the_sweep_of_the_documentation_crowns_a_deployment_that_carries_its_load(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(
        r"^```python slow\n(.*?afd\.sweep\(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    names = {}

    exec(compile(text.replace("workers=8", "workers=2"), "sweeps.md", "exec"), names)

    df, axes, best = names["df"], list(names["axes"]), names["best"]
    crowned = df.set_index(axes).loc[best.index[0]]
    overloaded = df[df["load"] == "OVERLOADED"]
    assert len(text.splitlines()) <= 14
    assert len(crowned) == 5
    assert (crowned["load"] == "STABLE").all()
    assert crowned["sla.met"].all()
    assert len(overloaded)
    assert not overloaded["sla.met"].any()
    assert str(int(best["mean"].iloc[0])) in capsys.readouterr().out
    assert (tmp_path / "pareto.png").is_file()
