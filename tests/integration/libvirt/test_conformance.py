"""The whole conformance suite against real guests: what docs/reports/libvirt.json was made by.

On Open vSwitch: limits of a NIC on a Linux bridge need the kernel's sfq, which not every test
machine has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvdrivers.conformance.clauses import Check, Level
from hvdrivers.conformance.engine import Session, selected
from hvdrivers.conformance.journal import PREFIX, unfinished
from hvdrivers.conformance.reaping import leftovers_on, reap
from hvdrivers.conformance.report import GOOD, ProfileVerdict, Status
from hvdrivers.libvirt.conformance import LibvirtTarget
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.volume import VolumeSpec
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.openvswitch import OvsBridge

UNTRIED = {
    "STOR-053/no_room_is_refused": "volumes take no room before they are written to",
    "IMG-005/no_room_for_an_image": "nobody fills the disk of the test machine",
    "POWER-019/no_room_for_its_memory": "nor here",
    "LIFE-023/no_room_for_a_disk[spawn]": "nor here",
    "LIFE-021/more_than_there_are_slots[volumes]": "libvirt makes a slot for each",
    "LIFE-021/more_than_there_are_slots[vifs]": "nor here",
    "EVENT-015/tells_of_a_refusal": "a guest of QEMU cannot say no: it lets go, or it does not",
}
"""Checks of SHOULD clauses that the host cannot be brought to try."""

DECLINED = {
    "NET-008/address_of_another_is_refused": "libvirt tells MAC addresses of each machine apart",
}
"""Checks of MAY clauses of what the driver does not do."""


@pytest.fixture(scope="module")
def session(
    libvirt_peer: LibvirtPeer,
    ovs_bridge: OvsBridge,
    guest_image: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Session]:
    target = LibvirtTarget(
        image=FileImage(path=guest_image, format=ImageFormat.QCOW2),
        ovs_bridge=ovs_bridge.name,
        uri=libvirt_peer.uri,
        virt_type="qemu",
    )
    with Session(target, journal=tmp_path_factory.mktemp("conformance") / "journal") as made:
        yield made


@pytest.mark.parametrize("check", selected(), ids=lambda check: check.id)
def test_check(session: Session, check: Check) -> None:
    result = session.run_check(check)
    if check.id in UNTRIED:
        assert check.clause.level is Level.SHOULD
        assert result.status is Status.PRECONDITION_MISSING, result.message
    else:
        assert (result.status is Status.DECLINED) is (check.id in DECLINED), result.message
        assert result.status in GOOD, f"{result.status}: {result.message}\n{result.detail}"


def test_what_a_killed_run_has_left_is_found(session: Session) -> None:
    driver = session.driver
    name = f"{PREFIX}killed"
    driver.create_volume(VolumeSpec(name=name, size_bytes=1 << 20))
    found = leftovers_on(driver)
    assert [(each.kind, each.id) for each in found] == [("volume", name)]
    assert [each.outcome for each in reap(driver, found)] == ["removed"]
    assert leftovers_on(driver) == []


def test_verdict(session: Session) -> None:
    """Runs last: what all the checks together come to."""
    complete = {each.check for each in session.results} == {each.id for each in selected()}
    report = session.report(complete=complete)
    assert report.leftovers == ()
    assert session.journal.path is not None
    assert list(unfinished(session.journal.path)) == []
    if complete:
        assert report.verdict is ProfileVerdict.SUCCESS
