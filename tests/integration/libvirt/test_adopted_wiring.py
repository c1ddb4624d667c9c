"""reconnect() of machines that others have made, and that adopt() has taken over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.models.vif import TapVif, UserVif, Vif
from hvdrivers.models.volume import VolumeAttachment
from tests.integration.libvirt.machines import Host, local
from tests.integration.libvirt.test_budgets import calls, numbers
from tests.integration.libvirt.theirs import Theirs, cuts, theirs

_FIRST, _SECOND, _THIRD = (f"52:54:00:0b:0b:0{number}" for number in range(1, 4))
_NICS = (
    f"<interface type='user'><mac address='{_FIRST}'/><model type='virtio'/><boot order='1'/>"
    "<rom enabled='no'/></interface>"
    f"<interface type='user'><mac address='{_SECOND}'/><model type='ne2k_pci'/></interface>"
    f"<interface type='user'><mac address='{_THIRD}'/><model type='e1000'/></interface>"
)


def _nics(machine: Theirs) -> list[tuple[str | None, ...]]:
    """What the guest sees of each, and last what it leads to."""

    def told(nic: Element, tag: str) -> str | None:
        found = nic.find(tag)
        return None if found is None else str(sorted(found.attrib.items()))

    return [
        (*(told(nic, tag) for tag in ("mac", "model", "boot", "rom", "address")), nic.get("type"))
        for nic in machine.xml("--inactive").iterfind("devices/interface")
    ]


@contextmanager
def _two(own: Host) -> Iterator[tuple[str, str]]:
    """Two files that the pools have seen."""
    with own.file() as one, own.file() as two:
        own.peer.virsh("pool-refresh", "default")
        yield one, two


def test_its_nics_and_volumes_get_other_connections(own: Host, tmp_path: Path) -> None:
    """The guest finds each as before; those that are not named, and the disks, stay."""
    driver = own.driver
    with _two(own) as (one, two), theirs(own, devices=_NICS) as machine:
        uuid = machine.uuid
        driver.adopt(uuid)
        driver.attach_volume(uuid, VolumeAttachment(volume=local(one, "v")))
        mark, before = own.raw.identity.marks()[uuid], _nics(machine)
        shown = driver.get_instance(uuid)
        vifs: list[Vif] = [TapVif(id=_FIRST, device="hvt1"), TapVif(id=_SECOND, device="hvt2")]
        volumes = [VolumeAttachment(volume=local(two, "v"))]
        driver.reconnect(uuid, volumes=volumes, vifs=vifs)
        after = _nics(machine)
        assert [each[:5] for each in after] == [each[:5] for each in before]
        assert [each[5] for each in after] == ["ethernet", "ethernet", "user"]
        now = driver.get_instance(uuid)
        assert [each.id for each in now.vifs] == [each.id for each in shown.vifs]
        assert [each.id for each in now.vifs] == [_FIRST, _SECOND, _THIRD]
        assert [each.volume_id for each in now.volumes] == ["v"]
        sources = {each.get("file") for each in machine.xml("--inactive").iter("source")}
        assert {two, f"{machine.peer.images}/{machine.files[0].name}"} <= sources
        assert one not in sources
        back: list[Vif] = [UserVif(id=_FIRST), UserVif(id=_SECOND)]
        driver.reconnect(uuid, vifs=back)
        assert _nics(machine) == before
        driver.power_on(uuid)
        driver.power_off(uuid)
        assert own.raw.identity.marks()[uuid] == mark
        driver.detach_volume(uuid, "v")


def test_each_changing_call_is_lost(own: Host) -> None:
    """All of them are connected anew, or none."""
    raw, driver, lost = own.raw, own.driver, 0
    with _two(own) as (one, two), theirs(own, devices=_NICS) as machine:
        uuid = machine.uuid
        driver.adopt(uuid)
        driver.attach_volume(uuid, VolumeAttachment(volume=local(one, "v")))

        def wired(path: str, kind: type[Vif]) -> Callable[[], object]:
            options = {} if kind is UserVif else {"device": "hvt1"}
            return lambda: guarded(raw).reconnect(
                uuid,
                volumes=[VolumeAttachment(volume=local(path, "v"))],
                vifs=[kind(id=_FIRST, **options)],
            )

        def begin() -> Callable[[], object]:
            wired(one, UserVif)()
            return wired(two, TapVif)

        begin()
        old = machine.bare("--inactive"), _nics(machine)
        wired(two, TapVif)()
        new = machine.bare("--inactive"), _nics(machine)
        for what in cuts(raw, begin):
            lost += 1
            assert (machine.bare("--inactive"), _nics(machine)) in (old, new), what
            wired(two, TapVif)()
            assert (machine.bare("--inactive"), _nics(machine)) == new, what
        assert lost >= 2
        driver.detach_volume(uuid, "v")


def test_the_calls_that_it_takes(own: Host) -> None:
    with theirs(own, devices=_NICS) as machine:
        own.driver.adopt(machine.uuid)
        raw = own.raw
        assert calls(raw, lambda: raw.reconnect(machine.uuid, vifs=[UserVif(id=_FIRST)])) == 7 + 1
        assert {7, 1} <= set(numbers("reconnect"))
        with pytest.raises(errors.NetworkNotFound):
            own.driver.reconnect(machine.uuid, vifs=[UserVif(id="none")])
