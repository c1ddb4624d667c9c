"""Other connections of a stopped machine on the simulated host: one request, all of them or none,
whoever dies in the middle of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.naming import volume_file
from hvdrivers.hyperv.simulator.cmdlets.power import start
from hvdrivers.hyperv.simulator.state.devices import Vlan
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, Strike
from hvdrivers.models.image import FileImage
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, HypervVif, VifQos
from hvdrivers.models.volume import DiskBus, DiskQos, Volume, VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import SWITCH, Site, spec
from tests.integration.hyperv.test_driver import HOSTILE
from tests.integration.hyperv.test_operations import machine_of
from tests.peers.waiting import wait_until

OTHER: Final = "other '; $(exit) [1] *"
STEPS: Final = (
    "Remove-VMHardDiskDrive",
    "Set-VMHardDiskDrive",
    "Add-VMHardDiskDrive",
    "Set-VMNetworkAdapter",
    "Connect-VMNetworkAdapter",
    "Set-VMNetworkAdapterVlan",
)
"""What the request of ``wiring`` calls, in this order."""


def shape(site: Site, uuid: UUID) -> tuple[list[Any], list[Any]]:
    """Drives and NICs, as the host has them."""
    with site.host.world.lock:
        config = machine_of(site, uuid).config
        names = {switch.id: switch.name for switch in site.host.state.switches.values()}
        drives: list[Any] = sorted(
            (each.slot.bus, each.slot.controller, each.slot.location, each.path, each.maximum_iops)
            for each in config.drives
        )
        nics: list[Any] = [
            (
                *(each.name, each.mac, each.dynamic_mac, each.switch and names[each.switch]),
                *(each.vlan.mode, each.vlan.access, each.vlan.native, tuple(each.vlan.allowed)),
                each.maximum_bandwidth,
            )
            for each in config.adapters
        ]
    return drives, nics


def intents(site: Site) -> list[str]:
    return [each.name for each in (site.host.drive / "hv" / "index").glob("*.reconnect")]


@contextmanager
def switch(site: Site, name: str) -> Iterator[Switch]:
    made = Switch(name)
    with site.host.world.lock:
        site.host.state.switches[made.id] = made
    yield made
    with site.host.world.lock:
        del site.host.state.switches[made.id]


def behind(old: Volume, new: Volume, **changes: object) -> VolumeAttachment:
    """The volume ``old``, with the connection of ``new``."""
    attachment = VolumeAttachment(volume=new.model_copy(update={"serial": old.volume_id}))
    return attachment.model_copy(update=changes)


class Wiring:
    """A stopped machine with three volumes and two NICs, and a request that changes them all: two
    volumes change places, one is another one, and a NIC gets another switch, address and VLAN."""

    def __init__(self, site: Site, image: FileImage) -> None:
        self.driver, self.site = site.driver, site
        self.volumes = [site.driver.create_volume(VolumeSpec(size_bytes=4 << 20)) for _ in range(4)]
        first, second, third, fourth = self.volumes
        self.vifs = (
            HypervVif(id="nic 1", switch=SWITCH, vlan=7, qos=VifQos(outbound=Bandwidth(average=8))),
            HypervVif(id="Keys", switch=SWITCH),
        )
        qos = DiskQos(total_iops_sec=80)
        self.info = site.driver.spawn(
            spec(
                image,
                start=False,
                volumes=(
                    VolumeAttachment(volume=first, qos=qos),
                    VolumeAttachment(volume=second),
                    VolumeAttachment(volume=third),
                ),
                vifs=self.vifs,
            )
        )
        self.uuid = self.info.uuid
        self.wanted = (behind(first, second), behind(second, first), behind(third, fourth))
        self.other = HypervVif(id="nic 1", switch=OTHER, address="52:54:00:0a:0b:0c", vlan=4094)
        self.info = site.driver.get_instance(self.uuid)
        self.before = shape(site, self.uuid)

    def change(self) -> None:
        self.driver.reconnect(self.uuid, volumes=self.wanted, vifs=(self.other,))

    def expect_new(self) -> None:
        drives, nics = shape(self.site, self.uuid)
        assert [each[:3] for each in drives] == [each[:3] for each in self.before[0]]
        files = [each[3].rpartition("\\")[2] for each in drives]
        names = [volume_file(each.volume_id.partition("/")[2]) for each in self.volumes]
        assert files == ["root.vhdx", names[1], names[0], names[3]]
        # the limits stay with the ids
        assert [each[4] for each in drives] == [0, 80, 0, 0]
        assert nics == [
            ("nic 1", "5254000A0B0C", False, OTHER, "Access", 4094, 0, (), 8000),
            self.before[1][1],
        ]
        shown = self.driver.get_instance(self.uuid)
        assert shown.volumes == self.info.volumes
        assert [each.id for each in shown.vifs] == [each.id for each in self.info.vifs]
        assert shown.vifs[0].address == self.other.address
        assert intents(self.site) == []

    def expect_old(self) -> None:
        # a look is enough to have them as they were
        assert self.driver.get_instance(self.uuid) == self.info
        assert shape(self.site, self.uuid) == self.before
        assert intents(self.site) == []

    def end(self) -> None:
        self.driver.destroy(self.uuid)
        for each in self.volumes:
            self.driver.delete_volume(each.volume_id)
        assert self.site.left() == []


@pytest.fixture
def wiring(site: Site, image: FileImage) -> Iterator[Wiring]:
    with switch(site, OTHER):
        made = Wiring(site, image)
        yield made
        made.end()


def test_it_is_one_request_and_a_repeat_changes_nothing(site: Site, wiring: Wiring) -> None:
    for _ in range(2):
        before = site.service.faults.counts()["Send"]
        with site.inner.session.seam.counting() as calls:
            wiring.change()
        assert calls == ["hyperv.Reconnect"]
        assert site.service.faults.counts()["Send"] == before + 1
        wiring.expect_new()
    wiring.driver.power_on(wiring.uuid)
    with pytest.raises(errors.InvalidState):
        wiring.change()
    wiring.driver.power_off(wiring.uuid)
    wiring.expect_new()


def dies(site: Site, change: Callable[[], None], cmdlet: str) -> None:
    """The shell dies when a cmdlet has done its work for a change."""
    rule = site.host.state.faults.slow(cmdlet, after=600.0, calls=1)
    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        try:
            wait_until(lambda: rule.seen > 0, timeout=120, what=f"{cmdlet} is called")
            site.service.kill_shells()
            with pytest.raises(errors.OutcomeUnknown):
                changing.result()
        finally:
            site.host.state.faults.clear()
            rule.over = True
            site.host.world.notify()


@pytest.mark.parametrize("cmdlet", STEPS)
def test_a_shell_that_dies_in_the_middle_leaves_the_old_connections(
    site: Site, wiring: Wiring, cmdlet: str
) -> None:
    dies(site, wiring.change, cmdlet)
    assert intents(site) == [f"{wiring.uuid}.reconnect"]
    wiring.expect_old()
    wiring.change()
    wiring.expect_new()


@pytest.mark.parametrize(("cmdlet", "late"), [*((each, True) for each in STEPS), (STEPS[2], False)])
def test_a_step_that_the_host_refuses_leaves_the_old_connections(
    site: Site, wiring: Wiring, cmdlet: str, late: bool
) -> None:
    rule = site.host.state.faults.fail(cmdlet, calls=1, late=late)
    try:
        with pytest.raises(errors.HypervisorFault):
            wiring.change()
    finally:
        site.host.state.faults.clear()
    assert rule.seen > 0
    assert shape(site, wiring.uuid) == wiring.before
    wiring.expect_old()
    wiring.change()
    wiring.expect_new()


@pytest.mark.parametrize("strike", [Strike.SHELL_LOST_AFTER, Strike.SHELL_LOST, Strike.CUT_AFTER])
def test_a_lost_reply_leaves_the_old_or_the_new_ones(
    site: Site, wiring: Wiring, strike: Strike
) -> None:
    rule = FaultRule(strike, action="Send", contains=b" Reconnect ")
    with site.service.faults.add(rule):
        try:
            wiring.change()
        except errors.OutcomeUnknown:
            assert strike is Strike.SHELL_LOST_AFTER
    assert rule.hits == 1
    wiring.driver.get_instance(wiring.uuid)
    if shape(site, wiring.uuid) == wiring.before:
        assert strike is Strike.SHELL_LOST_AFTER
        wiring.expect_old()
    else:
        wiring.expect_new()
    wiring.change()
    wiring.expect_new()


def test_an_old_disk_that_is_gone_brings_no_connection_back(site: Site, wiring: Wiring) -> None:
    """What a server no longer offers under its old address is why reconnect() was called."""
    gone = wiring.volumes[2]
    path = shape(site, wiring.uuid)[0][3][3]
    file = site.host.state.files.file(path)
    file.unlink()
    site.host.state.disks.forget(path)
    site.host.state.faults.fail("Connect-VMNetworkAdapter", calls=1)
    try:
        # whatever fails now: the machine cannot have the old ones again
        with pytest.raises(errors.OutcomeUnknown):
            wiring.change()
    finally:
        site.host.state.faults.clear()
    wiring.expect_new()
    wiring.driver.delete_volume(gone.volume_id)


def test_a_machine_that_somebody_starts_meanwhile_is_served(site: Site, wiring: Wiring) -> None:
    dies(site, wiring.change, "Set-VMNetworkAdapter")
    assert intents(site)
    with site.host.world.lock:
        start(machine_of(site, wiring.uuid))
    wiring.driver.set_metadata(wiring.uuid, {"a": "b"})
    assert wiring.driver.get_instance(wiring.uuid).state is InstanceState.RUNNING
    wiring.driver.power_off(wiring.uuid)
    wiring.driver.set_metadata(wiring.uuid, dict(wiring.info.metadata))
    wiring.expect_old()


def test_what_the_machine_cannot_have_changes_nothing(site: Site, wiring: Wiring) -> None:
    driver, uuid = wiring.driver, wiring.uuid
    first, second, _, fourth = wiring.volumes
    one, two = wiring.vifs
    other = two.model_copy(update={"address": "52:54:00:0a:0b:0c"})
    twice = one.model_copy(update={"address": "52:54:00:0a:0b:0c"})
    stays = shape(site, uuid)[1][1]
    taken = ":".join(stays[1][at : at + 2] for at in range(0, 12, 2))
    wrong = (
        (errors.InvalidRequest, (behind(first, second),), ()),
        (errors.InvalidRequest, (behind(first, fourth), behind(second, fourth)), ()),
        (errors.NotSupported, (behind(first, fourth, bus=DiskBus.IDE),), ()),
        (errors.NotSupported, (behind(first, fourth, boot_index=0),), ()),
        (errors.NotSupported, (behind(first, fourth, read_only=True),), ()),
        (errors.NotSupported, (), (one.model_copy(update={"mtu": 9000}),)),
        (errors.NotSupported, (), (one.model_copy(update={"queues": 2}),)),
        (errors.DeviceBusy, (), (one.model_copy(update={"address": taken}),)),
        (errors.DeviceBusy, (), (twice, other)),
    )
    for error, volumes, vifs in wrong:
        with pytest.raises(error) as caught:
            driver.reconnect(uuid, volumes=volumes, vifs=vifs)
        assert not caught.value.retryable
        wiring.expect_old()
    # two that change places are no conflict
    mine = shape(site, uuid)[1][0]
    swapped = (
        one.model_copy(update={"address": taken}),
        two.model_copy(
            update={"address": ":".join(mine[1][at : at + 2] for at in range(0, 12, 2))}
        ),
    )
    driver.reconnect(uuid, vifs=swapped)
    assert [each[1] for each in shape(site, uuid)[1]] == [stays[1], mine[1]]


def test_text_of_tenants_is_never_code(site: Site, image: FileImage) -> None:
    driver = site.driver
    vifs = tuple(HypervVif(id=f"nic {text}", switch=SWITCH) for text in HOSTILE)
    names = [f"v{text}".replace("\\", "").replace("/", "") for text in HOSTILE]
    old, new = (
        [
            driver.create_volume(VolumeSpec(name=f"{word}{name}", size_bytes=4 << 20))
            for name in names
        ]
        for word in ("old", "new")
    )
    attached = tuple(VolumeAttachment(volume=each) for each in old)
    uuid = driver.spawn(spec(image, start=False, volumes=attached, vifs=vifs)).uuid
    before = driver.get_instance(uuid)
    with ExitStack() as stack:
        made = [stack.enter_context(switch(site, f"switch {text}")).name for text in HOSTILE]
        moved = tuple(
            vif.model_copy(update={"switch": name, "vlan": vlan})
            for vlan, (vif, name) in enumerate(zip(vifs, made, strict=True), 1)
        )
        behind_new = tuple(behind(*each) for each in zip(old, new, strict=True))
        driver.reconnect(uuid, volumes=behind_new, vifs=moved)
        wired = [(each[0], *each[3:6]) for each in shape(site, uuid)[1]]
        assert wired == [(each.id, each.switch, "Access", each.vlan) for each in moved]
    shown = driver.get_instance(uuid)
    assert shown.volumes == before.volumes
    assert [(each.id, each.address) for each in shown.vifs] == [
        (each.id, each.address) for each in before.vifs
    ]
    for was, now in zip(old, new, strict=True):
        driver.delete_volume(was.volume_id)
        with pytest.raises(errors.DeviceBusy):
            driver.delete_volume(now.volume_id)
    driver.destroy(uuid)
    for now in new:
        driver.delete_volume(now.volume_id)
    assert not (site.host.drive / "canary").exists()
    assert site.left() == []


def test_a_trunk_that_somebody_has_set_comes_back(site: Site, wiring: Wiring) -> None:
    with site.host.world.lock:
        nic = machine_of(site, wiring.uuid).config.adapters[0]
        nic.vlan = Vlan("Trunk", native=3, allowed=[5, 6, 9])
    before = shape(site, wiring.uuid)
    site.host.state.faults.fail("Set-VMNetworkAdapterVlan", calls=1, late=True)
    try:
        with pytest.raises(errors.HypervisorFault):
            wiring.change()
    finally:
        site.host.state.faults.clear()
    assert shape(site, wiring.uuid) == before
    wiring.change()
    wiring.expect_new()


def test_a_nic_whose_link_is_down_starts_so(site: Site, image: FileImage) -> None:
    driver = site.driver
    nic = HypervVif(id="nic", switch=SWITCH, active=False)
    uuid = driver.spawn(spec(image, start=False, vifs=(nic,))).uuid
    driver.power_on(uuid)
    driver.power_off(uuid)
    driver.reconnect(uuid, vifs=(nic.model_copy(update={"active": True}),))
    assert shape(site, uuid)[1][0][3] == SWITCH
    driver.reconnect(uuid, vifs=(nic,))
    assert shape(site, uuid)[1][0][3] is None
    driver.power_on(uuid)
    driver.destroy(uuid)
    assert site.left() == []


def test_connections_stay_when_a_snapshot_is_applied(site: Site, image: FileImage) -> None:
    driver = site.driver
    with switch(site, OTHER):
        nic = HypervVif(id="nic", switch=SWITCH, vlan=7)
        uuid = driver.spawn(spec(image, start=False, vifs=(nic,))).uuid
        point = driver.create_snapshot(uuid, "a")
        moved = {"switch": OTHER, "vlan": 9, "address": "52:54:00:0a:0b:0c"}
        driver.reconnect(uuid, vifs=(nic.model_copy(update=moved),))
        before = shape(site, uuid)[1]
        driver.revert_snapshot(uuid, point.id)
        assert shape(site, uuid)[1] == before
        driver.destroy(uuid)
    assert site.left() == []


def test_two_clients_at_once(site: Site, wiring: Wiring) -> None:
    """One after the other: each connection is that of the later one, in all that it names."""
    with guarded(HypervDriver.connect(site.config)) as second, ThreadPoolExecutor(2) as pool:
        old = [behind(each, each) for each in wiring.volumes[:3]]
        vlans = set()
        for vlan in range(1, 6):
            mine = wiring.vifs[0].model_copy(
                update={"vlan": vlan, "address": f"52:54:00:00:00:{vlan:02x}"}
            )
            theirs = wiring.other
            changes = (
                pool.submit(wiring.driver.reconnect, wiring.uuid, volumes=tuple(old), vifs=(mine,)),
                pool.submit(second.reconnect, wiring.uuid, volumes=wiring.wanted, vifs=(theirs,)),
            )
            for each in changes:
                each.result()
            drives, nics = shape(site, wiring.uuid)
            vlans.add(nics[0][5])
            if nics[0][5] == vlan:
                assert drives == wiring.before[0]
                assert nics[0][1] == f"52540000000{vlan}"
            else:
                wiring.expect_new()
        assert vlans
        # what the other one frees is deleted by nobody who has it
        wiring.driver.reconnect(wiring.uuid, volumes=tuple(old), vifs=wiring.vifs)
        fourth = wiring.volumes[3]
        changing = pool.submit(second.reconnect, wiring.uuid, volumes=wiring.wanted)
        deleting = pool.submit(wiring.driver.delete_volume, fourth.volume_id)
        failures = [each.exception() for each in (changing, deleting)]
        assert sorted(type(each) is type(None) for each in failures) == [False, True]
        shown = [each.volume_id for each in wiring.driver.get_instance(wiring.uuid).volumes]
        assert shown == [each.volume_id for each in wiring.volumes[:3]]
