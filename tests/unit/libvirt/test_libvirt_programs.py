"""What a guest's agent says of a program that has ended."""

from __future__ import annotations

import pytest

from hvdrivers.contract.errors import OutcomeUnknown
from hvdrivers.libvirt.programs import result_of


@pytest.mark.parametrize("code", [0, 255, -1, (1 << 32) - 1])
def test_exit_codes(code: int) -> None:
    assert result_of({"exited": True, "exitcode": code}).exit_code == code
    assert result_of({"exited": True, "signal": 9}).exit_code == 128 + 9


@pytest.mark.parametrize(
    "said", [{"exitcode": 10**20}, {"exitcode": -(10**20)}, {"signal": 10**20}]
)
def test_what_is_no_exit_code(said: dict[str, int]) -> None:
    with pytest.raises(OutcomeUnknown):
        result_of({"exited": True, **said})
