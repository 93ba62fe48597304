"""The texts of docs/architecture.md are what graphc prints."""

import re
from pathlib import Path

import pytest

from graphc.cli import main

PAGE = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text()
SECTION = PAGE[PAGE.index("## One op on its way down") : PAGE.index("## Who imports whom")]


@pytest.mark.parametrize(("stage", "begins"), [("graph", "graph @block"), ("schedule", "schedule @block")])
def test_one_op_on_its_way_down(stage, begins, tmp_path, monkeypatch, capsys):
    _, *texts = re.findall(r"```(?:python)?\n(.*?)```", SECTION, re.DOTALL)
    assert printed(stage, tmp_path, monkeypatch, capsys) == next(t for t in texts if t.startswith(begins))


def test_its_cuda_code_is_an_extract_of_what_is_printed(tmp_path, monkeypatch, capsys):
    lines = iter(printed("cuda", tmp_path, monkeypatch, capsys).splitlines())
    (extract,) = re.findall(r"```cuda\n(.*?)```", SECTION, re.DOTALL)
    shown = [line.partition("//")[0].strip() for line in extract.splitlines()]
    for wanted in (line for line in shown if line not in ("...", "}")):
        beginning = wanted.partition("...")[0]
        assert any(line.strip().startswith(beginning) for line in lines), f"not printed, or in another place: {wanted}"


def printed(stage, tmp_path, monkeypatch, capsys) -> str:
    """What the page's command prints for a stage."""
    monkeypatch.chdir(tmp_path)
    network, *_ = re.findall(r"```(?:python)?\n(.*?)```", SECTION, re.DOTALL)
    Path("net.py").write_text(network)
    (command,) = re.findall(r"`graphc (show .*?)`", SECTION)
    assert main([*command.split(), "--stage", stage]) == 0
    return capsys.readouterr().out
