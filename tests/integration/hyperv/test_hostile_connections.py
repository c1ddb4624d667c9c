"""Hostile text in what volumes and devices are named by: it stays data, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import ValidationError

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.state.host import HostDevice, PartitionableGpu, Switch
from hvdrivers.hyperv.simulator.state.storage import StorageState
from hvdrivers.models.image import FileImage
from hvdrivers.models.instance import PciRequest, VgpuRequest
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.vif import HypervVif
from hvdrivers.models.volume import Volume, VolumeAttachment, parse_connection_info
from tests.integration.hyperv.site import Site, spec

PORTAL: Final = "192.0.2.30"
PREFIX: Final = "iqn.2026-01.org.example"
QUOTES: Final = ("'", "\u2018", "\u2019", "\u201a", "\u201b", '"', "\u201c", "\u201d", "\u201e")


class Canary:
    """A file that any execution of the text would make. No blanks: no name of a target has one."""

    def __init__(self, file: Path) -> None:
        self.file = file
        call = f"ni('{file}')"
        self.texts = {
            **{f"quote-{ord(each):x}": f"{each};{call};#{each}" for each in QUOTES},
            "expression": f"$({call})",
            "backtick": f"`\"`';{call}`n",
            "braces": f"{{{call}}};}};{call};@{{",
            "here-string": f"'@;{call};@'",
            "format": f"{{0}}{{1}}%s%d$&$1\\1;{call}",
        }


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    made = Canary(tmp_path / "canary")
    yield made
    assert not made.file.exists()


@pytest.fixture
def storage(site: Site) -> Iterator[StorageState]:
    state = site.host.state.storage
    yield state
    with site.host.world.lock:
        state.network.clear()
        state.fabric.clear()
        state.hba_ports.clear()
        state.rescan()
    assert (state.sessions, state.portals, list(state.disks)) == ({}, {}, [0])
    assert site.left() == []


def iscsi(iqn: str, lun: int = 0, **changes: Any) -> Volume:
    data = {"target_portal": f"{PORTAL}:3260", "target_iqn": iqn, "target_lun": lun}
    info = {"driver_volume_type": "iscsi", "serial": "hostile"}
    return parse_connection_info({**info, "data": data | changes})


def attach_and_detach(site: Site, image: FileImage, volume: Volume, unit: str) -> None:
    """It works, also after the host has restarted, and goes without a trace."""
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    site.host.restart()
    driver.power_on(uuid)
    with site.host.world.lock:
        disks = site.host.state.storage.disks
        machine = next(iter(site.host.state.machines.values()))
        numbers = [each.disk_number for each in machine.config.drives if each.disk_number]
        assert [disks[number].unique_id for number in numbers] == [unit]
    driver.extend_volume(uuid, "hostile", 1 << 20)
    assert [each.volume_id for each in driver.get_instance(uuid).volumes] == ["hostile"]
    driver.detach_volume(uuid, "hostile")
    driver.destroy(uuid)


KINDS: Final = sorted(Canary(Path("x")).texts)


@pytest.mark.parametrize("kind", [each for each in KINDS if each != "backtick"])
def test_a_name_of_a_target_is_data(
    site: Site, image: FileImage, storage: StorageState, canary: Canary, kind: str
) -> None:
    # no name of a target has a slash, and PowerShell takes the other one for it everywhere
    text = canary.texts[kind].replace("/", "\\")
    name = f"{PREFIX}:{text}"
    with site.host.world.lock:
        target = storage.add_target(name, PORTAL, size=1 << 20)
    attach_and_detach(site, image, iscsi(name), target.luns[0].unique_id)


@pytest.mark.parametrize("kind", ["backtick", "expression", "format", "quote-2019"])
def test_user_and_secret_are_data(
    site: Site, image: FileImage, storage: StorageState, canary: Canary, kind: str
) -> None:
    name, user = f"{PREFIX}:chap", f"{canary.texts[kind]} and a blank"
    secret = {"backtick": "`\"`';$(x)`n;#{}", "format": "{0}%s$&\\1;'\"#{}"}.get(
        kind, "$(x)`'\";#{}'@;@{"
    )
    assert 12 <= len(secret) <= 16
    with site.host.world.lock:
        target = storage.add_target(name, PORTAL, size=1 << 20, chap=(user, secret))
    volume = iscsi(name, auth_method="CHAP", auth_username=user, auth_password=secret)
    attach_and_detach(site, image, volume, target.luns[0].unique_id)


@pytest.mark.parametrize("spelling", ["upper", "mixed"])
def test_names_of_one_target_that_differ_by_case(
    site: Site, image: FileImage, storage: StorageState, spelling: str
) -> None:
    """iSCSI names are compared without case: RFC 7143, 4.2.7."""
    name = f"{PREFIX}:array-one"
    with site.host.world.lock:
        target = storage.add_target(name, PORTAL, size=1 << 20, luns=2)
    other = "iqn." + (name[4:].upper() if spelling == "upper" else name[4:].title())
    driver = site.driver
    uuids = [driver.spawn(spec(image)).uuid for _ in range(2)]
    for number, (uuid, spelt) in enumerate(zip(uuids, (name, other), strict=True)):
        driver.attach_volume(uuid, VolumeAttachment(volume=iscsi(spelt, number)))
    assert len(storage.sessions) == 1
    driver.destroy(uuids[0])
    assert len(storage.sessions) == 1
    assert [each.volume_id for each in driver.get_instance(uuids[1]).volumes] == ["hostile"]
    driver.destroy(uuids[1])
    assert storage.sessions == {}
    assert len(target.luns) == 2


@pytest.mark.parametrize("pattern", ["*", "arra?-one", "[a-z]rray-one", "array`-one"])
def test_a_pattern_is_no_name(
    site: Site, image: FileImage, storage: StorageState, pattern: str
) -> None:
    with site.host.world.lock:
        storage.add_target(f"{PREFIX}:array-one", PORTAL, size=1 << 20)
    uuid = site.driver.spawn(spec(image)).uuid
    with pytest.raises(errors.InvalidRequest) as caught:
        site.driver.attach_volume(uuid, VolumeAttachment(volume=iscsi(f"{PREFIX}:{pattern}")))
    assert caught.value.hint
    site.driver.destroy(uuid)


@pytest.mark.parametrize("lun", [255, 256, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("kind", ["iscsi", "fc"])
def test_a_number_of_a_unit_that_is_not_there(
    site: Site, image: FileImage, storage: StorageState, kind: str, lun: int
) -> None:
    name, wwn = f"{PREFIX}:luns", "50014380186b3f65"
    with site.host.world.lock:
        storage.add_target(name, PORTAL, size=1 << 20)
        storage.hba_ports.append(("20000025b5aaaa00", "10000025b5aaaa00"))
        storage.add_fibre_target(wwn, size=1 << 20)
    info = {
        "driver_volume_type": "fibre_channel",
        "serial": "hostile",
        "data": {"target_wwn": [wwn], "target_lun": lun},
    }
    driver = guarded(HypervDriver.connect(site.config))
    uuid = driver.spawn(spec(image)).uuid
    volume = iscsi(name, lun) if kind == "iscsi" else parse_connection_info(info)
    with pytest.raises(errors.VolumeNotFound):
        driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    assert driver.get_instance(uuid).volumes == ()
    driver.destroy(uuid)
    driver.close()


@pytest.mark.parametrize("length", [255, 256, 10_000])
def test_a_user_of_a_length(
    site: Site, image: FileImage, storage: StorageState, length: int
) -> None:
    name, user = f"{PREFIX}:chap", "u" * length
    with site.host.world.lock:
        storage.add_target(name, PORTAL, size=1 << 20, chap=(user, "secret-secret"))
    volume = iscsi(name, auth_method="CHAP", auth_username=user, auth_password="secret-secret")
    uuid = site.driver.spawn(spec(image)).uuid
    attachment = VolumeAttachment(volume=volume)
    if length > 255:
        with pytest.raises(errors.InvalidRequest) as caught:
            site.driver.attach_volume(uuid, attachment)
        assert caught.value.hint
    else:
        site.driver.attach_volume(uuid, attachment)
    site.driver.destroy(uuid)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_iqn": f"{PREFIX}:two words"},
        {"target_iqn": f"{PREFIX}:line\nbreak"},
        {"target_iqn": f"{PREFIX}:{'x' * 10_000}"},
        {"target_iqn": "$(id)"},
        {"target_portal": "$(id):3260"},
        {"target_portal": f"{PORTAL}:99999"},
        {"target_portal": f"{'h' * 10_000}:3260"},
        {"target_portal": "a\u2019;b:3260"},
        {"target_lun": -1},
        {"target_lun": 1 << 64},
        {"target_lun": "$(id)"},
        {"auth_method": "CHAP", "auth_username": "a\nb", "auth_password": "secret-secret"},
    ],
    ids=range(12),
)
def test_what_is_no_connection_is_refused_at_once(changes: dict[str, Any]) -> None:
    with pytest.raises((errors.InvalidRequest, ValidationError)):
        iscsi(f"{PREFIX}:a", **changes)


def test_a_share_is_data(
    site: Site, image: FileImage, storage: StorageState, canary: Canary
) -> None:
    uuid = site.driver.spawn(spec(image)).uuid
    site.host.state.delegation = True  # otherwise the share is not even looked for
    for each in canary.texts.values():
        text = each.replace("/", "").replace("\\", "")
        for export, name in ((f"//192.0.2.40/{text}", "v"), ("//192.0.2.40/share", text)):
            info = {
                "driver_volume_type": "smbfs",
                "serial": "hostile",
                "data": {"export": export, "name": f"{name}.vhdx", "format": "vhdx"},
            }
            attachment = VolumeAttachment(volume=parse_connection_info(info))
            with pytest.raises(errors.VolumeNotFound):
                site.driver.attach_volume(uuid, attachment)
    site.driver.destroy(uuid)


def test_names_of_devices_are_data(site: Site, image: FileImage, canary: Canary) -> None:
    hardware = site.host.state.hardware
    address = PciAddress("0000:07:00.0")
    for text in canary.texts.values():
        device = HostDevice(
            instance_id=f"PCI\\VEN_8086&DEV_1573&SUBSYS_1\\{text} %\u2019 *[a]?",
            location_path=f"PCIROOT(0)#PCI(0700)#PCI({text} %20 *[a]?)",
            name=text,
            bus=7,
        )
        gpu = PartitionableGpu(f"\\\\?\\PCI#VEN_1&{text}*[a]#1#{{x}}\\GPUPARAV", count=1)
        with site.host.world.lock:
            hardware.devices.append(device)
            hardware.gpus.append(gpu)
        driver = guarded(HypervDriver.connect(site.config))
        try:
            wanted = spec(
                image,
                pci_devices=(PciRequest(address=address),),
                vgpus=(VgpuRequest(type=gpu.name),),
            )
            uuid = driver.spawn(wanted).uuid
            assert device.owner is not None
            driver.destroy(uuid)
            assert (device.owner, device.dismounted, device.enabled) == (None, False, True)
            for absent in (f"{text}*", "*", "x" * 10_000):
                with pytest.raises(errors.InsufficientResources):
                    driver.spawn(spec(image, vgpus=(VgpuRequest(type=absent),)))
            assert site.left() == []
        finally:
            driver.close()
            with site.host.world.lock:
                hardware.devices.clear()
                hardware.gpus.clear()


def test_the_name_of_a_switch_is_data(site: Site, image: FileImage, canary: Canary) -> None:
    uuid = site.driver.spawn(spec(image)).uuid
    with pytest.raises(ValidationError):
        HypervVif(id="nic", switch="line\nbreak")
    for text in (*canary.texts.values(), "*", "[a-z]*", "x" * 200):
        vif = HypervVif(id=f"nic {text}"[:200], switch=text)
        with pytest.raises((errors.NetworkNotFound, errors.InvalidRequest)):
            site.driver.plug_vif(uuid, vif)
        switch = Switch(text)
        with site.host.world.lock:
            site.host.state.switches[switch.id] = switch
        site.driver.plug_vif(uuid, vif)
        assert vif.id in {each.id for each in site.driver.get_instance(uuid).vifs}
        site.driver.unplug_vif(uuid, vif.id)
        with site.host.world.lock:
            del site.host.state.switches[switch.id]
    assert len(site.driver.get_instance(uuid).vifs) == 1
    site.driver.destroy(uuid)
