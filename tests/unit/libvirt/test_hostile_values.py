"""Values that libvirt, QEMU or the kernel would refuse late, or misread: each is refused before."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.files import clean
from hvdrivers.libvirt.remote_volumes import encryption_element, iscsi_source, secrets_of
from hvdrivers.libvirt.shared_directories import refuse_kernel
from hvdrivers.libvirt.sockets import require_socket
from hvdrivers.libvirt.wiring import kilobytes, vif_element
from hvdrivers.libvirt.xml import parse
from hvdrivers.models.vif import (
    Bandwidth,
    BridgeVif,
    MacvtapVif,
    NetworkVif,
    TapVif,
    VhostUserVif,
    VifQos,
)
from hvdrivers.models.volume import IscsiVolume, LocalVolume, RbdVolume, VolumeAttachment

INSTANCE = UUID(int=7)
SECRET = "hunter2"
LOCAL = LocalVolume.model_validate({"serial": "v", "data": {"device_path": "/a"}})
TARGET = {"target_portal": "192.0.2.1:3260", "target_iqn": "iqn.2020-01.org.x:a"}


def luks(secret: bytes) -> VolumeAttachment:
    encryption = {"provider": "luks", "secret": secret}
    return VolumeAttachment.model_validate({"volume": LOCAL, "encryption": encryption})


def ceph(keyring: str) -> VolumeAttachment:
    data = {"name": "p/i", "auth_username": "u", "keyring": keyring}
    volume = RbdVolume.model_validate({"serial": "v", "data": data})
    return VolumeAttachment(volume=volume)


def iscsi(**data: object) -> IscsiVolume:
    return IscsiVolume.model_validate({"serial": "v", "data": {**TARGET, "target_lun": 1, **data}})


def refused(act: Callable[[], object], kind: type[errors.HypervisorError]) -> None:
    with pytest.raises(kind) as error:
        act()
    assert error.value.hint
    assert SECRET not in str(error.value) + error.value.hint + repr(error.value)


@pytest.mark.parametrize(
    "secret", [b"hunter2\0", b"hunter2\xff", "hunter2\ud800".encode("cp1252", "replace") + b"\x80"]
)
def test_a_passphrase_is_text(secret: bytes) -> None:
    """QEMU takes no other, and says so only when it opens the volume."""
    refused(lambda: encryption_element(INSTANCE, luks(secret)), errors.InvalidRequest)
    refused(lambda: secrets_of(INSTANCE, luks(secret)), errors.InvalidRequest)


@pytest.mark.parametrize(
    "secret", [" hunter2\n", "\uffff\ufffe", "ü🦆\u202e", "a&<>'\"b,c=d", "x" * 65536]
)
def test_any_text_is_a_passphrase(secret: str) -> None:
    (kept,) = secrets_of(INSTANCE, luks(secret.encode()))
    assert kept.value == secret.encode()


@pytest.mark.parametrize("keyring", ["hunter2🦆", "hunter2=\uffff", "hunter2!", " ", "===="])
def test_a_key_of_ceph_is_base64(keyring: str) -> None:
    refused(lambda: secrets_of(INSTANCE, ceph(keyring)), errors.InvalidRequest)


def test_libvirt_keeps_secrets_of_64_kib() -> None:
    """By bytes, where the models count characters."""

    def chap(password: str) -> VolumeAttachment:
        data = {"auth_method": "CHAP", "auth_username": "u", "auth_password": password}
        return VolumeAttachment(volume=iscsi(**data))

    assert secrets_of(INSTANCE, chap("x" * 65536))
    refused(lambda: secrets_of(INSTANCE, chap("🦆" * 16385)), errors.InvalidRequest)


def test_units_of_iscsi() -> None:
    assert iscsi_source(INSTANCE, iscsi(target_lun=(1 << 32) - 1), "iqn.x")
    refused(lambda: iscsi_source(INSTANCE, iscsi(target_lun=1 << 32), "iqn.x"), errors.NotSupported)


KERNEL = ("/dev", "/dev/disk", "/proc", "/proc/self", "/sys", "/sys/fs")


@pytest.mark.parametrize("path", KERNEL)
def test_no_share_of_the_kernel(path: str) -> None:
    """To look at such a folder opens devices: a watchdog is armed by that."""
    refused(lambda: refuse_kernel(path), errors.InvalidRequest)


@pytest.mark.parametrize("path", ["/dev/shm/a", "/device", "/processes", "/system", "/srv/proc"])
def test_shares_beside_the_kernel(path: str) -> None:
    refuse_kernel(path)


MOST = Bandwidth(average=((1 << 32) - 1) * 8, burst=((1 << 22) - 1) * 8)


def test_limits_of_a_nic_are_numbers_of_the_host() -> None:
    """Libvirt has rates in 32 bits, in kilobytes, and ``tc`` a burst in bytes."""
    assert kilobytes(MOST) == {"average": (1 << 32) - 1, "burst": (1 << 22) - 1}
    assert kilobytes(Bandwidth(average=1, peak=9)) == {"average": 1, "peak": 2}
    for limits in (
        Bandwidth(average=MOST.average + 1),
        Bandwidth(average=1, peak=1 << 50),
        Bandwidth(average=1, burst=(MOST.burst or 0) + 1),
    ):
        refused(lambda limits=limits: kilobytes(limits), errors.NotSupported)
        vif = TapVif(id="n", qos=VifQos(inbound=limits))
        refused(lambda vif=vif: vif_element(vif, INSTANCE), errors.NotSupported)


def test_the_mtu_of_a_tap_device() -> None:
    for vif in (TapVif(id="n"), BridgeVif(id="n", bridge="b"), NetworkVif(id="n", network="n")):
        assert vif_element(vif.model_copy(update={"mtu": 65521}), INSTANCE)
        large = vif.model_copy(update={"mtu": 65522})
        refused(lambda large=large: vif_element(large, INSTANCE), errors.NotSupported)
    macvtap = MacvtapVif(id="n", source="e", mtu=65535)
    refused(lambda: vif_element(macvtap, INSTANCE), errors.NotSupported)


class Folders:
    """A host's folders with what a pool shows of them, and the pools that are made."""

    def __init__(self, **shown: tuple[str, ...]) -> None:
        self.shown = {f"/{name}": names for name, names in shown.items()}
        self.pools: list[str] = []

    def storagePoolCreateXML(self, xml: str, flags: int) -> SimpleNamespace:
        path = clean(parse(xml).findtext("target/path") or "")
        self.pools.append(path)
        if path not in self.shown:
            raise errors.VolumeNotFound("none")

        def volume(name: str) -> None:
            if name not in self.shown[path]:
                raise errors.VolumeNotFound("none")

        return SimpleNamespace(destroy=lambda: None, storageVolLookupByName=volume)


def looked(path: str, mode: str, host: Folders) -> None:
    vif = VhostUserVif.model_validate({"id": "n", "socket": path, "mode": mode})
    require_socket(cast(Any, host), vif)


OF_LIBVIRT = (
    "/var/lib/libvirt/qemu/domain-3-a/monitor.sock",
    "/home/u/.config/libvirt/qemu/lib//domain-12-a&b/x",
    "/var/lib/libvirt/qemu/channel/target/a",
    "/run/libvirt/libvirt-sock",
    "/var/run/libvirt/virtlogd-sock",
    "/dev/kvm",
    "/proc/self/mem",
)


@pytest.mark.parametrize("path", OF_LIBVIRT)
@pytest.mark.parametrize("mode", ["client", "server"])
def test_sockets_of_libvirt(path: str, mode: str) -> None:
    refused(lambda: looked(path, mode, Folders()), errors.InvalidRequest)


def test_a_socket_takes_no_files_place() -> None:
    """QEMU would remove the file: the disk of another machine."""
    host = Folders(run=("there",))
    refused(lambda: looked("/run/there", "server", host), errors.InvalidRequest)
    refused(lambda: looked("/run/./there", "server", host), errors.InvalidRequest)
    refused(lambda: looked("/absent/a", "server", host), errors.NetworkNotFound)
    looked("/run/free", "server", host)
    made = len(host.pools)
    looked("/run/there", "client", host)
    looked("/var/lib/libvirt/qemu/vhu0", "client", host)
    assert len(host.pools) == made == 4
