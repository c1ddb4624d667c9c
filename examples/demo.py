"""The main job: an image, an instance, its console, a volume, a NIC, and nothing left over.

``make demo`` runs this. It takes the libvirt host named in ``HVDRIVERS_DEMO_URI`` and the Linux
bridge in ``HVDRIVERS_DEMO_BRIDGE``; without a host it does the same on the in-memory fake.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from uuid import UUID

import hvdrivers
from hvdrivers.contract.errors import HypervisorError, NetworkNotFound
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import FileImage, HostImage, ImageFormat, ImageRef
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.vif import BridgeVif, NetworkVif, Vif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec

BOOT_SECONDS = 90.0
"""Emulated guests boot in 4 seconds on an idle machine."""


def say(text: str) -> None:
    print(f"\n\033[1m==> {text}\033[0m" if sys.stdout.isatty() else f"\n==> {text}", flush=True)


def main() -> int:
    uri = os.environ.get("HVDRIVERS_DEMO_URI")
    if uri:
        say(f"Connecting to libvirt ({uri.partition('?')[0]})")
        with hvdrivers.connect("libvirt", uri=uri) as driver:
            return demo(driver, real=True)
    say("No hypervisor can be had here: the same on the in-memory fake, whose guests do not run")
    with hvdrivers.connect("fake") as driver:
        return demo(driver, real=False)


def demo(driver: hvdrivers.ComputeDriver, *, real: bool) -> int:
    host = driver.host()
    how = "accelerated by KVM" if host.accelerated else "emulated (no KVM, or none that works)"
    print(f"{host.product} {host.product_version} on {host.hostname}, {host.architecture}: {how}")

    before = left_over(driver)
    spec = InstanceSpec(
        name="demo",
        flavor=Flavor(vcpus=1, memory_mib=256, disk_gib=1),
        image=guest_image(real=real),
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
        driver.delete_volume(volume_id(spec.uuid))
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
    expect(driver, spec.uuid, "hv-guest: ready", real=real)
    show_console(driver, spec.uuid)

    say("Attaching a volume and plugging a NIC while it runs")
    volume = driver.create_volume(VolumeSpec(name=volume_id(spec.uuid), size_bytes=64 << 20))
    attached = driver.attach_volume(spec.uuid, VolumeAttachment(volume=volume))
    print(f"volume {attached.volume_id} is {attached.device} on {attached.bus}")
    vif = plug(driver, spec.uuid)
    say("What the guest sees of them")
    expect(driver, spec.uuid, f"serial={volume_id(spec.uuid)[:20]}", real=real)
    if vif is not None:
        expect(driver, spec.uuid, f"mac={vif.mac} attached", real=real)
    show_console(driver, spec.uuid, only=("disk v", "nic eth", "address eth"))

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
    driver.detach_volume(spec.uuid, volume_id(spec.uuid))
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


def volume_id(uuid: UUID) -> str:
    return f"demo-{str(uuid)[:8]}"


def plug(driver: hvdrivers.ComputeDriver, uuid: UUID) -> Vif | None:
    bridge = os.environ.get("HVDRIVERS_DEMO_BRIDGE")
    candidates: list[Vif] = [NetworkVif(id="demo-nic", network="default")]
    if bridge:
        candidates.insert(0, BridgeVif(id="demo-nic", bridge=bridge))
    for vif in candidates:
        try:
            plugged = driver.plug_vif(uuid, vif)
        except NetworkNotFound as error:
            print(f"cannot plug into it: {error.message}")
            continue
        print(f"NIC {plugged.id} with MAC {plugged.address} is {plugged.device} on the host")
        return vif
    print("no NIC: this host has neither a bridge for us nor an active network 'default'")
    return None


def show_console(driver: hvdrivers.ComputeDriver, uuid: UUID, only: tuple[str, ...] = ()) -> None:
    for line in driver.get_console_log(uuid).text.splitlines():
        if not only or any(word in line for word in only):
            print(f"  | {line.rstrip()}")


def expect(driver: hvdrivers.ComputeDriver, uuid: UUID, words: str, *, real: bool) -> None:
    """Wait until the guest has written these words: only the guest knows what it sees."""
    if real:
        wait_for(lambda: words in driver.get_console_log(uuid).text, f"'{words}' on the console")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + BOOT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the guest did not show {what} within {BOOT_SECONDS:.0f} seconds")
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
