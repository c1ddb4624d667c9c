"""Machines whose memory the CPU encrypts: AMD SEV. Functions of their arguments, no remote call.

The guest's kernel and firmware must know SEV, so such a machine has UEFI. The host cannot read what
a virtual device shares with the guest unless the guest's own driver says so: each virtio device has
``iommu='on'``, and NICs have no boot ROM, as iPXE does not know SEV. The memory stays where it is
on the host, so it is locked. QEMU neither saves such memory nor moves it to another host, and gives
a machine that has it no device of the host. https://libvirt.org/kbase/launch_security_sev.html
"""

from __future__ import annotations

from hvdrivers.contract import errors
from hvdrivers.libvirt.host_nics import wants_function
from hvdrivers.libvirt.xml import Element, attribute, el
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.instance import Firmware, InstanceSpec
from hvdrivers.models.vif import HostdevVif, VdpaVif, Vif

_POLICY = "0x0003"
"""The host debugs no such guest (bit 0), and no two guests share a key (bit 1)."""
_VIRTIO = (
    "devices/disk[target]",
    "devices/interface[model]",
    "devices/controller",
    "devices/memballoon",
    "devices/rng",
    "devices/video[model]",
)
NO_SEV = "the host encrypts no memory: it needs an AMD CPU with SEV that its firmware, its kernel"
NO_SEV += " (kvm_amd sev=1) and QEMU have enabled, and UEFI firmware for guests"
NO_EMULATED = "QEMU's emulation encrypts no memory (SEV)"


def is_offered(capabilities: Element) -> bool:
    """Whether the host encrypts memory.

    Args:
        capabilities: libvirt's domain capabilities.
    """
    return attribute(capabilities, "features/sev", "supported") == "yes"


def encrypted_guests(capabilities: Element) -> int | None:
    """How many such machines run at once; None where the host does not say."""
    most = capabilities.findtext("features/sev/maxGuests") or ""
    return int(most) or None if is_offered(capabilities) and most.isdecimal() else None


def is_encrypted(domain: Element) -> bool:
    """Whether a machine's memory is."""
    return attribute(domain, "launchSecurity", "type") == "sev"


def refuse_unencrypted(spec: InstanceSpec, *, virt_type: str, machine: str) -> None:
    """Refuse what a machine with encrypted memory cannot be, or have.

    Raises:
        InvalidRequest: it has no UEFI.
        NotSupported: anything else.
    """
    if not spec.sev:
        return
    if spec.firmware is not Firmware.UEFI:
        raise errors.InvalidRequest(
            "QEMU encrypts the memory of machines with UEFI only (SEV)", hint="firmware=uefi"
        )
    if virt_type != "kvm":
        raise errors.NotSupported(NO_EMULATED, hint="use a host with KVM")
    if "q35" not in machine:
        raise errors.NotSupported(
            f"a machine of type {machine} has no devices that can read encrypted memory (SEV)",
            hint="use q35",
        )
    if spec.pci_devices or spec.vgpus:
        raise no_device()
    for vif in spec.vifs:
        refuse_nic(vif)
    refuse_growth(spec.flavor)


def refuse_nic(vif: Vif) -> None:
    """Raise NotSupported for a device of the host."""
    if isinstance(vif, HostdevVif | VdpaVif) or wants_function(vif):
        raise no_device()


def refuse_growth(flavor: Flavor) -> None:
    """Raise NotSupported for memory that is added while the machine runs."""
    if flavor.max_memory_mib is not None:
        raise errors.NotSupported(
            "QEMU adds no memory to a machine whose memory is encrypted (SEV)",
            hint="leave max_memory_mib out",
        )


def no_device() -> errors.NotSupported:
    """What to say of a device, or a directory, of the host."""
    return errors.NotSupported(
        "a device or a directory of the host cannot read the encrypted memory of a machine (SEV)",
        hint="leave it out, or make the machine without sev",
    )


def launch_security() -> Element:
    """``<launchSecurity>``. Where in an address the mark of encryption is (``cbitpos``), libvirt
    takes from its capabilities at each start, so that the machine starts on another host too."""
    return el("launchSecurity", el("policy", _POLICY), type="sev")


def fit_encrypted(domain: Element) -> Element:
    """The definition, with what encrypted memory needs; another machine's as it is."""
    if not is_encrypted(domain):
        return domain
    backing = domain.find("memoryBacking")
    if backing is None:
        backing = el("memoryBacking")
        domain.append(backing)
    if backing.find("locked") is None:
        backing.append(el("locked"))
    devices = domain.find("devices")
    if devices is not None and devices.find("controller[@type='virtio-serial']") is None:
        devices.append(el("controller", type="virtio-serial", index=0))
    for path in _VIRTIO:
        for device in domain.iterfind(path):
            fit_device(device)
    return domain


def fitted(device: Element, domain: Element) -> Element:
    """A device for a machine, with what its encrypted memory needs."""
    return fit_device(device) if is_encrypted(domain) else device


def fit_device(device: Element) -> Element:
    """A device, able to work with encrypted memory."""
    if not _is_virtio(device):
        return device
    driver = device.find("driver")
    if driver is None:
        driver = el("driver")
        device.insert(0, driver)
    driver.set("iommu", "on")
    if device.tag == "interface" and device.find("rom") is None:
        device.append(el("rom", enabled="no"))
    return device


def _is_virtio(device: Element) -> bool:
    if device.tag == "disk":
        return attribute(device, "target", "bus") == "virtio"
    if device.tag == "controller":
        return device.get("type") == "virtio-serial" or device.get("model") == "virtio-scsi"
    if device.tag in {"interface", "video"}:
        return attribute(device, "model", "type") == "virtio"
    return device.tag in {"memballoon", "rng"} and device.get("model") == "virtio"
