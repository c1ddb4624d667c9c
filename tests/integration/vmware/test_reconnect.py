"""Connections that change places: the addresses of NICs, and the disks behind volumes."""

from __future__ import annotations

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.vif import NetworkVif, NicModel
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance.observer import VmwareObserver
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.devices import by_mac
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory
from tests.peers.vcsim import VcsimPeer

_MACS = tuple(f"52:54:00:0a:0b:0{number}" for number in range(3))


def _nic(number: int, mac: int, model: NicModel | None = None) -> NetworkVif:
    return NetworkVif(id=f"nic{number}", network="VM Network", address=_MACS[mac], model=model)


@pytest.mark.parametrize(
    "wanted",
    [
        (_nic(0, 1), _nic(1, 0)),
        (_nic(0, 1), _nic(1, 2), _nic(2, 0)),
        (_nic(0, 1, NicModel.E1000E), _nic(1, 0)),
        (_nic(1, 0, NicModel.E1000E), _nic(0, 1, NicModel.E1000E)),
    ],
    ids=["two", "three", "one of another model", "both of another model"],
)
def test_nics_swap_their_addresses(
    driver: VmwareDriver, peer: VcsimPeer, spec: SpecFactory, wanted: tuple[NetworkVif, ...]
) -> None:
    uuid = driver.spawn(spec(vifs=tuple(_nic(number, number) for number in range(3)))).uuid
    driver.reconnect(uuid, vifs=wanted)
    found = driver.get_instance(uuid).vifs
    changed = {each.id: each for each in wanted}
    assert [each.id for each in found] == ["nic0", "nic1", "nic2"]
    for each, was in zip(found, _MACS, strict=True):
        vif = changed.get(each.id)
        assert each.address == (was if vif is None else vif.address)
        assert each.model == ((vif.model if vif else None) or NicModel.VMXNET3)
    server = RawServer(VmwareConfig(**peer.options))
    config = server.of(server.machine(uuid), "config.hardware.device")
    assert sorted(by_mac(config["config.hardware.device"])) == sorted(_MACS)
    shown = VmwareObserver(server, "hvdrivers").options(uuid)
    assert {each: shown[each]["model"] for each in shown if each in changed} == {
        each.id: each.model or NicModel.VMXNET3 for each in wanted
    }
    driver.unplug_vif(uuid, "nic0")
    assert [each.id for each in driver.get_instance(uuid).vifs] == ["nic1", "nic2"]
    driver.destroy(uuid)
    server.drop()


def test_address_of_a_nic_that_keeps_it_is_taken(driver: VmwareDriver, spec: SpecFactory) -> None:
    uuid = driver.spawn(spec(vifs=(_nic(0, 0), _nic(1, 1)))).uuid
    before = driver.get_instance(uuid)
    for wanted in ((_nic(0, 1),), (_nic(0, 1), _nic(1, 1)), (_nic(0, 2), _nic(1, 2))):
        with pytest.raises(errors.DeviceBusy):
            driver.reconnect(uuid, vifs=wanted)
        assert driver.get_instance(uuid) == before
    driver.destroy(uuid)


def test_volumes_swap_their_disks(driver: VmwareDriver, peer: VcsimPeer, spec: SpecFactory) -> None:
    made = [
        driver.create_volume(VolumeSpec(name=f"swapped{number}", size_bytes=(1 + number) << 20))
        for number in range(2)
    ]
    first, second = (VolumeAttachment(volume=each) for each in made)
    uuid = driver.spawn(spec(volumes=(first, second))).uuid
    before = driver.get_instance(uuid).volumes
    crossed = [
        VolumeAttachment(volume=new.model_copy(update={"serial": old.volume_id}))
        for new, old in ((made[1], first), (made[0], second))
    ]
    driver.reconnect(uuid, volumes=tuple(crossed))
    after = driver.get_instance(uuid).volumes
    assert [each.device for each in after] == [each.device for each in before]
    assert [each.size_bytes for each in after] == [each.size_bytes for each in before][::-1]
    driver.destroy(uuid)
    for each in made:
        driver.delete_volume(each.volume_id)
