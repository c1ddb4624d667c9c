"""Changes of which libvirt has made one half: what the caller is told where taking them back fails,
and what another client has done meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.domains import Moved
from hvdrivers.libvirt.halves import put_back, second_half, whole
from hvdrivers.libvirt.unplug import Plugging
from hvdrivers.models.state import InstanceState

CODE = "VIR_ERR_SYSTEM_ERROR/ENOSPC"


def _unwritten() -> errors.InsufficientResources:
    return errors.InsufficientResources("no space", vendor_code=CODE)


def _raises(error: Exception) -> Callable[..., Any]:
    def call(*_arguments: object) -> Any:
        raise error

    return call


def _whole(take_back: Callable[[], bool], error: errors.HypervisorError | None = None) -> None:
    with whole(take_back):
        raise error or _unwritten()


@pytest.mark.parametrize("gone", [errors.ConnectionFailed("cut"), errors.OperationTimeout("late")])
def test_a_host_that_is_away_while_it_is_taken_back(gone: errors.HypervisorError) -> None:
    with pytest.raises(errors.OutcomeUnknown, match="a part had been done"):
        _whole(_raises(gone))


def test_a_machine_that_is_gone_when_it_is_taken_back() -> None:
    with pytest.raises(errors.InstanceNotFound):
        _whole(_raises(errors.InstanceNotFound("destroyed")))


def test_what_cannot_be_taken_back() -> None:
    with pytest.raises(errors.OutcomeUnknown, match=r"until its power goes.*: it is in use"):
        _whole(_raises(errors.DeviceBusy("it is in use")))


def test_where_there_was_nothing_to_take_back() -> None:
    with pytest.raises(errors.InsufficientResources, match=r"^no space"):
        _whole(lambda: False)


def test_what_says_nothing_of_the_definition() -> None:
    """It is not taken back: the change may be another client's."""
    for error in (
        errors.DeviceBusy("of another kind", vendor_code="VIR_ERR_OPERATION_FAILED"),
        errors.InvalidRequest("without a code"),
    ):
        with pytest.raises(type(error)) as caught:
            _whole(_raises(AssertionError()), error)
        assert caught.value is error


def test_what_cannot_be_put_back_in_the_file_either() -> None:
    """The daemon shows it all the same."""
    assert put_back(_raises(_unwritten()))
    with pytest.raises(errors.DeviceBusy):
        put_back(_raises(errors.DeviceBusy("of another kind")))


def test_a_host_that_is_away_after_the_second_half() -> None:
    domain: Any = SimpleNamespace(isActive=_raises(errors.ConnectionFailed("cut")))
    with pytest.raises(errors.OutcomeUnknown, match="a part had been done"), second_half(domain):
        raise _unwritten()


def test_what_the_daemon_shows_is_put_back_before_it_is_told() -> None:
    put: list[str] = []
    for running, kind in ((True, errors.OutcomeUnknown), (False, errors.InsufficientResources)):
        domain: Any = SimpleNamespace(isActive=lambda: running)  # noqa: B023 - used in the loop
        with (
            pytest.raises(kind) as caught,
            second_half(domain, lambda: put.append("before")),
        ):
            raise _unwritten()
        assert "call again" in (caught.value.hint or "")
    assert put == ["before"] * 2


class Plugged:
    """A machine with a disk, its definition, and the guest that is asked for the disk."""

    def __init__(self, live: bool, stored: bool, *, state: InstanceState = InstanceState.RUNNING):
        self.live, self.stored, self.at = live, stored, state
        self.asked = 0
        self.meanwhile: Callable[[], None] = lambda: None
        """What another client does while the guest lets go."""

    def XMLDesc(self, flags: int) -> str:
        has = self.stored if flags & libvirt.VIR_DOMAIN_XML_INACTIVE else self.live
        disk = "<devices><disk><alias name='ua-volume-v'/></disk></devices>" if has else ""
        return f"<domain>{disk}</domain>"

    def UUIDString(self) -> str:
        return "6f0e2c2e-8f0b-4b6e-9d9a-2f3b1c5d7e90"

    def state(self, _domain: object) -> InstanceState:
        return self.at

    def unplug(self, *_arguments: object) -> None:
        self.asked += 1
        self.live = False
        self.meanwhile()


def _taken_back(machine: Any) -> bool:
    plugging = object.__new__(Plugging)
    plugging._domains = machine
    plugging._unplug = machine.unplug  # type: ignore[method-assign]
    return plugging.take_back(machine, lambda xml: xml.find("devices/disk"))


def test_a_device_that_is_taken_back() -> None:
    machine = Plugged(live=True, stored=False)
    assert _taken_back(machine)
    assert machine.asked == 1
    for live, stored in ((False, False), (False, True), (True, True)):
        machine = Plugged(live, stored)
        assert not _taken_back(machine)  # there is none, or it is another client's by now
        assert not machine.asked


def test_a_paused_guest_is_not_asked_for_it() -> None:
    machine = Plugged(live=True, stored=False, state=InstanceState.PAUSED)
    with pytest.raises(errors.DeviceBusy, match="paused"):
        _taken_back(machine)
    assert not machine.asked


def test_a_device_that_another_client_writes_while_it_is_taken_back() -> None:
    machine = Plugged(live=True, stored=False)

    def written() -> None:
        machine.stored = True

    machine.meanwhile = written
    with pytest.raises(Moved):
        _taken_back(machine)


def test_a_device_that_was_written_down_is_still_there() -> None:
    plugging, found = object.__new__(Plugging), lambda xml: xml.find("devices/disk")
    plugging._unheard = {}
    there: Any = Plugged(live=True, stored=True)
    plugging.require_kept(there, found)
    taken_back: Any = Plugged(live=False, stored=True)
    with pytest.raises(Moved):
        plugging.require_kept(taken_back, found)
    away: Any = SimpleNamespace(XMLDesc=_raises(errors.ConnectionFailed("cut")))
    with pytest.raises(errors.OutcomeUnknown, match="a part had been done"):
        plugging.require_kept(away, found)
