"""Moves in steps beside people who delete, hosts that do not answer, and saved memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.models.instance import Firmware
from hvdrivers.models.migration import Move, MovePhase
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.conftest import residue
from tests.integration.libvirt.test_moves import (
    _AFTER,
    _BEFORE,
    Moved,
    here,
    moved,
    other_peer,
    there,
)

__all__ = ["here", "moved", "other_peer", "there"]


@contextmanager
def deaf(moved: Moved, *, dead: bool) -> Iterator[None]:
    """The destination's daemon is gone, or stands still."""
    other = moved.peers[1]
    (other.stop if dead else other.sigstop)()
    try:
        yield
    finally:
        (other.start if dead else other.sigcont)()


def prepared(moved: Moved) -> Move:
    moved.spawn()
    return moved.here.prepare_move(moved.uuid, moved.destination, flavor=_AFTER)


@pytest.mark.parametrize("by", ["rm", "virsh"])
@pytest.mark.parametrize("role", ["root", "ephemeral", "nvram"])
def test_a_copy_that_somebody_has_made_less(moved: Moved, role: str, by: str) -> None:
    """Nobody may finish such a move: confirm_move() would remove the last whole instance."""
    if role == "nvram":
        moved.spawn(firmware=Firmware.UEFI)
        moved.here.power_on(moved.uuid)
        moved.here.power_off(moved.uuid)
        moved.settled()
        move = moved.here.prepare_move(moved.uuid, moved.destination, flavor=_AFTER)
    else:
        move = prepared(moved)
    info = moved.here.get_instance(moved.uuid)
    other, pool = moved.peers[1], "/var/lib/libvirt/hvdrivers/disks"
    names = {path.name for path in other.path(pool).iterdir() if str(moved.uuid) in path.name}
    (name,) = (each for each in names if role in each)
    if by == "rm":
        other.inside("rm", f"{pool}/{name}")
    else:
        other.virsh("vol-delete", name, "--pool", "hvdrivers")
    with pytest.raises(errors.InstanceNotFound, match="nothing has been prepared"):
        moved.there.finish_move(move)
    with pytest.raises(errors.InvalidState, match="not finished"):
        moved.here.confirm_move(moved.uuid)
    moved.here.revert_move(moved.uuid)
    assert moved.here.get_instance(moved.uuid) == info.model_copy(update={"move": None})


@pytest.mark.parametrize("dead", [True, False], ids=["gone", "standing still"])
def test_destroy_of_a_source_whose_destination_does_not_answer(moved: Moved, dead: bool) -> None:
    """However short its time is. What was prepared goes by destroy() there."""
    move = prepared(moved)
    with deaf(moved, dead=dead):
        if dead:  # else it takes a connection's longest time
            with pytest.raises(errors.ConnectionFailed, match="does not answer"):
                moved.here.confirm_move(moved.uuid)
            with pytest.raises(errors.ConnectionFailed, match="does not answer"):
                moved.here.revert_move(moved.uuid)
        guarded(moved.here).destroy(moved.uuid, timeout=10)
        with pytest.raises(errors.InstanceNotFound):
            moved.here.get_instance(moved.uuid)
        assert residue(moved.peers[0]) == moved.before[0]
    with pytest.raises(errors.InstanceNotFound):
        moved.there.get_instance(moved.uuid)
    assert residue(moved.peers[1]) > moved.before[1]
    moved.there.destroy(moved.uuid)
    assert moved.residue() == moved.before
    with pytest.raises(errors.InstanceNotFound, match="nothing has been prepared"):
        moved.there.finish_move(move)


def test_a_source_that_is_gone_has_done_nothing(moved: Moved) -> None:
    """So the errors say: not even the turn could be taken, and there is none to give up."""
    info = moved.spawn()
    here, uuid = moved.here, moved.uuid
    moved.peers[0].stop()
    try:
        with pytest.raises(errors.ConnectionFailed):
            here.ping()  # so the driver knows it
        for step in (
            lambda: here.prepare_move(uuid, flavor=_AFTER),
            lambda: here.revert_move(uuid),
            lambda: here.create_snapshot(uuid, "s"),
        ):
            with pytest.raises(errors.ConnectionFailed):
                step()
    finally:
        moved.peers[0].start()
    moved.is_source(info)


def test_confirmed_while_it_is_suspended(moved: Moved) -> None:
    """The mark beside the saved memory goes too: the machine would come back with it."""
    moved.spawn()
    here, uuid = moved.here, moved.uuid
    here.finish_move(here.prepare_move(uuid, flavor=_BEFORE))
    here.power_on(uuid)
    here.suspend(uuid)
    assert here.get_instance(uuid).move is MovePhase.FINISHED
    here.confirm_move(uuid)
    found = here.get_instance(uuid)
    assert (found.state, found.move) == (InstanceState.SUSPENDED, None)
    here.resume(uuid)
    found = here.get_instance(uuid)
    assert (found.state, found.move) == (InstanceState.RUNNING, None)
    here.power_off(uuid)
    assert here.get_instance(uuid).move is None
    here.revert_move(uuid)  # it has not moved
