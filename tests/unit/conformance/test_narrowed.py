"""A fake that lacks several capabilities at once, as a small hypervisor does, run as a target."""

from __future__ import annotations

import pytest

from hvdrivers.conformance.engine.report import BAD, Status
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.contract.capabilities import Capability
from hvdrivers.fake.conformance import FakeTarget

LACKING = {
    "no storage of its own": {
        Capability.HOST_VOLUMES,
        Capability.STORAGE_MIGRATION,
        Capability.SNAPSHOTS,
        Capability.IMAGE_CACHE,
    },
    "nothing stands still": {
        Capability.PAUSE,
        Capability.START_PAUSED,
        Capability.SUSPEND,
        Capability.DETACH_PAUSED,
        Capability.NMI_PAUSED,
    },
    "plain machines": {
        Capability.UEFI,
        Capability.VTPM,
        Capability.CONFIG_DRIVE,
        Capability.USER_DATA,
        Capability.EPHEMERAL_DISK,
        Capability.SWAP_DISK,
        Capability.CONSOLE_LOG,
        Capability.RESCUE,
    },
}


@pytest.mark.parametrize("name", LACKING)
def test_a_narrowed_driver_keeps_the_rest_of_the_contract(name: str) -> None:
    target = FakeTarget(without=dict.fromkeys(LACKING[name], name))
    with Session(target, seed=1) as session:
        wanted = [each for each in selected() if not each.clause.id.startswith(("FAULT", "CONC"))]
        results = session.run(wanted)
    assert [(each.check, each.message) for each in results if each.status in BAD] == []
    refused = {each.check for each in results if each.status is Status.REFUSED}
    assert refused, "nothing was refused as declared"
