"""The main job: an image, an instance, its console, a volume, a NIC, and nothing left over.

``make demo`` runs this. It takes the libvirt host named in ``HVDRIVERS_DEMO_URI`` and the Linux
bridge in ``HVDRIVERS_DEMO_BRIDGE``; without a host it does the same on the in-memory fake. With
``make demo DRIVER=vmware`` it is a simulated vCenter, whose address is in ``HVDRIVERS_VCSIM_HOST``,
and with ``make demo DRIVER=hyperv`` a simulated Hyper-V host, whose guests run in QEMU.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import hvdrivers
from hvdrivers import (
    BridgeVif,
    Capability,
    CloudInit,
    ConsoleKind,
    FileImage,
    Flavor,
    HostImage,
    HypervisorError,
    ImageFormat,
    ImageRef,
    InstanceSpec,
    NetworkNotFound,
    NetworkVif,
    Vif,
    VolumeAttachment,
    VolumeSpec,
)

BOOT_SECONDS = 600.0
"""Emulated guests boot in 4 seconds on an idle machine, in minutes on a busy one."""
KVM_SECONDS = 60.0
"""A guest on KVM boots in 2 seconds. Without nested virtualisation it may stand still for ever."""


class SilentGuest(TimeoutError):
    """The guest does not write what it should."""


def say(text: str) -> None:
    print(f"\n\033[1m==> {text}\033[0m" if sys.stdout.isatty() else f"\n==> {text}", flush=True)


def main() -> int:
    if "HVDRIVERS_VCSIM_HOST" in os.environ:
        return on_vcenter()
    if "HVDRIVERS_HVSIM_PORT" in os.environ:
        return on_hyperv()
    uri = os.environ.get("HVDRIVERS_DEMO_URI")
    if uri:
        say(f"Connecting to libvirt ({uri.partition('?')[0]})")
        with hvdrivers.connect("libvirt", uri=uri) as driver:
            accelerated = driver.host().accelerated
            try:
                return demo(driver, real=True)
            except SilentGuest:
                if not accelerated:
                    raise
        say("KVM starts a guest here, and the guest stands still: once more, emulated")
        with hvdrivers.connect("libvirt", uri=uri, virt_type="qemu") as driver:
            return demo(driver, real=True)
    say("No hypervisor can be had here: the same on the in-memory fake, whose guests do not run")
    with hvdrivers.connect("fake") as driver:
        return demo(driver, real=False)


def on_vcenter() -> int:
    given = {
        name: os.environ[f"HVDRIVERS_VCSIM_{name.upper()}"]
        for name in ("host", "port", "user", "password", "thumbprint")
    }
    say("Connecting to a simulated vCenter, whose guests do not run")
    url = f"vcenter://{given['host']}:{given['port']}/DC0/DC0_C0?datastore=LocalDS_0"
    with hvdrivers.connect(
        url,
        username=given["user"],
        password=given["password"],
        thumbprint=given["thumbprint"],
    ) as driver:
        return demo(driver, real=False, image=guest_image(real=True))


def on_hyperv() -> int:
    say("Connecting to a simulated Hyper-V host, whose guests run in QEMU")
    with hvdrivers.connect(
        "hyperv",
        host="127.0.0.1",
        port=int(os.environ["HVDRIVERS_HVSIM_PORT"]),
        tls=False,
        username=os.environ["HVDRIVERS_HVSIM_USER"],
        password=os.environ["HVDRIVERS_HVSIM_PASSWORD"],
    ) as driver:
        return demo(driver, real=True)


def demo(driver: hvdrivers.ComputeDriver, *, real: bool, image: ImageRef | None = None) -> int:
    host = driver.host()
    how = "accelerated by the CPU" if host.accelerated else "emulated"
    print(f"{host.product} {host.product_version} on {host.hostname}, {host.architecture}: {how}")

    before = left_over(driver)
    spec = InstanceSpec(
        name="demo",
        flavor=Flavor(vcpus=1, memory_mib=256, disk_gib=1),
        image=image or guest_image(real=real),
        cloud_init=CloudInit(
            hostname="demo", user_data=b"#!/bin/sh\necho 'hello from the user data'\n"
        ),
        metadata={"purpose": "make demo"},
    )
    try:
        life(driver, spec, real=real)
    finally:
        say("Destroying it")
        driver.destroy(spec.uuid)
        for each in driver.list_volumes():
            if volume_name(spec.uuid) in each.name:
                driver.delete_volume(each.volume_id)
    after = left_over(driver)
    print(f"instances and volumes before: {before}, after: {after}")
    if before != after:
        print("error: something is left on the host", file=sys.stderr)
        return 1
    print("nothing is left of it")
    return 0


def life(driver: hvdrivers.ComputeDriver, spec: InstanceSpec, *, real: bool) -> None:
    say(f"Spawning instance {spec.uuid}")
    began = time.monotonic()
    info = driver.spawn(spec)
    print(f"{info.state} after {time.monotonic() - began:.2f} s")

    say("What the guest writes to its console")
    seconds = KVM_SECONDS if driver.host().accelerated else BOOT_SECONDS
    expect(driver, spec.uuid, "hv-guest: ready", real=real, seconds=seconds)
    show_console(driver, spec.uuid)

    say("Attaching a volume and plugging a NIC while it runs")
    volume = driver.create_volume(VolumeSpec(name=volume_name(spec.uuid), size_bytes=64 << 20))
    attached = driver.attach_volume(spec.uuid, VolumeAttachment(volume=volume))
    print(f"volume {attached.volume_id} is {attached.device} on {attached.bus}")
    vif = plug(driver, spec.uuid)
    say("What the guest sees of them")
    # a virtual disk of Hyper-V has no serial number for the guest
    serial = f"serial={volume_name(spec.uuid)[:20]}" if host_keeps_log(driver) else "disk sdb"
    expect(driver, spec.uuid, serial, real=real)
    if vif is not None:
        expect(driver, spec.uuid, f"mac={vif.within(spec.uuid).mac} attached", real=real)
    show_console(driver, spec.uuid, only=("disk v", "disk sd", "nic eth", "address eth"))

    say("The host's inventory")
    resources = driver.get_available_resource()
    cpu, memory = resources.cpu, resources.memory
    print(f"CPUs     {cpu.used} virtual CPUs on {cpu.total} ({cpu.model})")
    print(f"memory   {memory.used_mib} of {memory.total_mib} MiB assigned")
    for pool in resources.storage:
        print(f"storage  {pool.name}: {pool.used_gib:.1f} of {pool.total_gib:.1f} GiB")
    gpus = sum(device.is_gpu for device in resources.devices)
    print(f"PCI      {len(resources.devices)} devices, {gpus} GPUs")
    print(f"NUMA     {len(resources.numa_cells)} cells")

    say("Unplugging both, and shutting the guest down")
    if vif is not None:
        driver.unplug_vif(spec.uuid, vif.id)
    driver.detach_volume(spec.uuid, volume.volume_id)
    driver.power_off(spec.uuid, graceful=20)
    print(f"the instance is {driver.get_instance(spec.uuid).state}")
    show_console(driver, spec.uuid, only=("removed", "power button"))


def guest_image(*, real: bool) -> ImageRef:
    if not real:
        return HostImage(name="cirros")
    from hvdrivers.testing.guestimage import build_guest_image

    say("Building a small bootable guest image")
    path = build_guest_image()
    print(f"{path.stat().st_size / 1e6:.1f} MB, qcow2: a Linux kernel and busybox")
    return FileImage(path=path, format=ImageFormat.QCOW2)


def volume_name(uuid: UUID) -> str:
    return f"demo-{str(uuid)[:8]}"


def plug(driver: hvdrivers.ComputeDriver, uuid: UUID) -> Vif | None:
    usual = {"vmware": "VM Network", "hyperv": "lan"}.get(driver.driver_name, "default")
    bridge = os.environ.get("HVDRIVERS_DEMO_BRIDGE")
    candidates: list[Vif] = [NetworkVif(id="demo-nic", network=usual)]
    if bridge:
        candidates.insert(0, BridgeVif(id="demo-nic", bridge=bridge))
    for vif in candidates:
        try:
            plugged = driver.plug_vif(uuid, vif)
        except NetworkNotFound as error:
            print(f"cannot plug into it: {error.message}")
            continue
        where = f", {plugged.device} on the host" if plugged.device else ""
        print(f"NIC {plugged.id} has MAC {plugged.address}{where}")
        return vif
    print(f"no NIC: this host has neither a bridge for us nor an active network {usual!r}")
    return None


def show_console(driver: hvdrivers.ComputeDriver, uuid: UUID, only: tuple[str, ...] = ()) -> None:
    for line in console_text(driver, uuid).splitlines():
        if not only or any(word in line for word in only):
            print(f"  | {line.rstrip()}")


def expect(
    driver: hvdrivers.ComputeDriver,
    uuid: UUID,
    words: str,
    *,
    real: bool,
    seconds: float = BOOT_SECONDS,
) -> None:
    """Wait until the guest has written these words: only the guest knows what it sees."""
    if real:
        wait_for(lambda: words in console_text(driver, uuid), f"'{words}' on the console", seconds)


class SerialPipe:
    """What a guest writes to its serial port, where the hypervisor keeps no log of it. On Windows
    this is a named pipe; that of the simulator is a UNIX socket in ``HVDRIVERS_HVSIM_PIPES``."""

    def __init__(self, path: str) -> None:
        name = path.rpartition("\\")[2]
        self._file = Path(os.environ["HVDRIVERS_HVSIM_PIPES"]) / f"CoreFxPipe_{name}"
        self._data = bytearray()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as pipe:
            pipe.connect(str(self._file))
            while part := pipe.recv(4096):
                self._data += part

    @property
    def text(self) -> str:
        return self._data.decode(errors="replace")


pipes: dict[UUID, SerialPipe] = {}


def host_keeps_log(driver: hvdrivers.ComputeDriver) -> bool:
    return Capability.CONSOLE_LOG in driver.capabilities


def console_text(driver: hvdrivers.ComputeDriver, uuid: UUID) -> str:
    if host_keeps_log(driver):
        return driver.get_console_log(uuid).text
    if uuid not in pipes:
        access = driver.get_console(uuid, ConsoleKind.SERIAL)
        pipes[uuid] = SerialPipe(access.path or "")
    return pipes[uuid].text


def wait_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SilentGuest(f"the guest did not show {what} within {seconds:.0f} seconds")
        time.sleep(0.2)


def left_over(driver: hvdrivers.ComputeDriver) -> tuple[int, int]:
    return len(driver.list_instances()), len(driver.list_volumes())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HypervisorError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint:  {error.hint}", file=sys.stderr)
        sys.exit(1)
