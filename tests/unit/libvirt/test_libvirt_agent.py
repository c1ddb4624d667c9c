"""What a guest's agent refuses, and whether it does so because its guest is frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.libvirt import agent
from hvdrivers.libvirt.agent import Refused, tell_thawed


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """What comes of a command, by what the agent says to it and of its being frozen."""

    def run(*said: object, frozen: object = False) -> object:
        left = list(said)

        def answer(*_arguments: object, **_further: object) -> object:
            return _answered(left.pop(0))

        monkeypatch.setattr(agent, "tell", answer)
        monkeypatch.setattr(agent, "is_frozen", lambda _domain: _answered(frozen))
        domain: Any = None
        try:
            return tell_thawed(domain, "guest-exec", Deadline(None), otherwise="look")
        finally:
            assert not left

    return run


def _answered(what: object) -> object:
    if isinstance(what, Exception):
        raise what
    return what


def test_a_guest_that_is_frozen(told: Callable[..., object]) -> None:
    with pytest.raises(errors.DeviceBusy, match="frozen") as caught:
        told(Refused("no"), frozen=True)
    assert "thaw()" in (caught.value.hint or "")


def test_a_guest_that_is_not(told: Callable[..., object]) -> None:
    """It is told once more, as it may have been frozen before."""
    assert told("done") == "done"
    assert told(Refused("no"), "done") == "done"
    with pytest.raises(Refused, match="the second"):
        told(Refused("the first"), Refused("the second"))


@pytest.mark.parametrize(
    "look", [errors.DeviceBusy("another client asks"), errors.GuestAgentUnavailable("late")]
)
def test_a_guest_of_which_it_is_not_known(
    told: Callable[..., object], look: errors.HypervisorError
) -> None:
    """Its agent's no stands: nothing was done."""
    with pytest.raises(Refused, match="no"):
        told(Refused("no"), frozen=look)
