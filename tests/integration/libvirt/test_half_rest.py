"""The folder of the definitions fills up in the middle of an operation: where it has done a part
that stays, it says so, and the same call does the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.faults import Send
from tests.integration.libvirt.machines import Host
from tests.integration.libvirt.test_half_written import (
    FOLDER,
    fill,
    room_afterwards,
    whole,
    with_little_room,
)
from tests.integration.libvirt.test_promises import PLANS

S = InstanceState


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with with_little_room(Path("/none")) as made:
        yield made


def filling(host: Host, at: str, call: Callable[[], object]) -> None:
    """Make a call; from its first request ``at`` on there is no room."""
    reached: list[str] = []

    def fault(name: str, send: Send) -> Any:
        if name == at and not reached:
            reached.append(name)
            fill(host)
        return send()

    host.raw.connection.seam = fault
    try:
        with room_afterwards(host):
            call()
    finally:
        host.raw.connection.seam = None
        assert reached


@pytest.mark.parametrize(
    ("plan", "at", "between", "then"),
    [
        ("unrescue", "Domain.destroyFlags", S.STOPPED, S.RUNNING),
        ("unrescue", "Domain.rename", S.STOPPED, S.RUNNING),
        ("unrescue", "Domain.createWithFlags", S.RUNNING, S.RUNNING),
        ("rescue", "Domain.destroyFlags", S.RUNNING, S.RESCUED),
        ("revert_snapshot", "Domain.destroyFlags", S.STOPPED, S.STOPPED),
        ("power_off, suspended", "Domain.managedSaveRemove", S.STOPPED, S.STOPPED),
    ],
)
def test_a_part_that_stays(
    host: Host, plan: str, at: str, between: InstanceState, then: InstanceState
) -> None:
    found = PLANS[plan]
    with host.empty_machine() as machine:
        found.prepare(machine)
        arguments = found.arguments(machine)

        def call() -> None:
            getattr(host.driver, found.operation)(machine.uuid, *arguments)

        with pytest.raises(errors.OutcomeUnknown, match="a part has been done") as told:
            filling(host, at, call)
        assert FOLDER in (told.value.hint or "")
        assert machine.state is between
        call()
        assert machine.state is then


def test_a_mark_that_finds_no_room(host: Host) -> None:
    """The daemon does not show it either."""
    with host.empty_machine() as machine:
        PLANS["unrescue"].prepare(machine)
        before = whole(machine)
        with pytest.raises(errors.InsufficientResources, match="taken back"):
            filling(host, "Domain.setMetadata", lambda: host.driver.unrescue(machine.uuid))
        assert whole(machine) == before
        host.driver.unrescue(machine.uuid)


@pytest.mark.parametrize("at", ["Domain.setVcpusFlags", "Domain.setMetadata"])
def test_a_size_of_which_a_part_is_written(host: Host, at: str) -> None:
    """The file has that part, and the error says so."""
    small, large = (Flavor(vcpus=n, memory_mib=64 * n) for n in (1, 2))
    with host.made_empty(flavor=small) as machine:
        resize = lambda: host.driver.resize(machine.uuid, large)  # noqa: E731
        with pytest.raises(errors.InsufficientResources) as told:
            filling(host, at, resize)
        assert any("could not be removed" in each for each in told.value.__notes__)
        resize()
        live, stored, file = whole(machine)
        assert live == stored == file
