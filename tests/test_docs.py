"""The texts of docs/architecture.md are what graphc prints."""

import re
from pathlib import Path

import pytest

from graphc.cli import main

PAGE = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text()
SECTION = PAGE[PAGE.index("## One op on its way down") : PAGE.index("## Who imports whom")]


@pytest.mark.parametrize(("stage", "begins"), [("graph", "graph @block"), ("schedule", "schedule @block")])
def test_one_op_on_its_way_down(stage, begins, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network, *texts = re.findall(r"```(?:python)?\n(.*?)```", SECTION, re.DOTALL)
    Path("net.py").write_text(network)
    (command,) = re.findall(r"`graphc (show .*?)`", SECTION)
    assert main([*command.split(), "--stage", stage]) == 0
    assert capsys.readouterr().out == next(t for t in texts if t.startswith(begins))
