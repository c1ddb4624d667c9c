"""docs/hyperv-simulator.md lists every option of the simulator's command."""

from __future__ import annotations

import re

import pytest

from hvdrivers.hyperv.simulator.__main__ import main
from tests.unit.docs.page import DOCS


def test_every_option_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    known = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}
    page = (DOCS / "hyperv-simulator.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `(--[a-z]+)", page, re.MULTILINE))
    assert documented == known
