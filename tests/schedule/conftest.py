"""`golden`: text compared with a file that is kept under tests/schedule/golden."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "golden"


@pytest.fixture
def golden(request):
    """`golden(name, text)`: the text is that of `golden/<name>.txt`; `--update-goldens` writes the file instead."""

    def check(name: str, text: str) -> None:
        path = FOLDER / f"{name}.txt"
        if request.config.getoption("--update-goldens"):
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        if not path.exists():
            pytest.fail(f"{path} is missing; write it with `pytest --update-goldens` and read what it says")
        assert text == path.read_text(encoding="utf-8"), "not as it was: if it should be, pytest --update-goldens"

    return check
