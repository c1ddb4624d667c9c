"""The host as libvirt describes it: capabilities, accelerator, identity. Read once a connection."""

from __future__ import annotations

from urllib.parse import urlsplit

from hvdrivers.addresses import address_of
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.images.convert import find_qemu_img
from hvdrivers.libvirt.accelerator import kvm_works
from hvdrivers.libvirt.config import VirtType
from hvdrivers.libvirt.domain import HostChoice
from hvdrivers.libvirt.encrypted_memory import NO_EMULATED, NO_SEV, is_offered
from hvdrivers.libvirt.nbd import backups_elsewhere
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import Element, parse
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.host import HostInfo
from hvdrivers.models.instance import Firmware

_CONVERTED = (
    Capability.IMAGE_VMDK,
    Capability.IMAGE_VHD,
    Capability.IMAGE_VHDX,
    Capability.IMAGE_VDI,
    Capability.IMAGE_OVA,
)
_PAGE_KIB = 4
_LEAST_KIB = 16 << 10
"""The memory of the smallest machine."""
_SCREENS = {
    ConsoleKind.VNC: Capability.CONSOLE_VNC,
    ConsoleKind.SPICE: Capability.CONSOLE_SPICE,
}

NO_VHOST_USER = (
    "under emulation QEMU crashes when a guest's driver starts a vhost-user port: such a port needs"
    " KVM"
)
"""Seen with QEMU 7.2: SIGSEGV in vhost_net_start()."""


class HostFacts:
    """What other topics ask about the host."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._config = connection.config

    def narrowed(self) -> dict[Capability, str]:
        """What this host lacks, and the caller's machine. Two calls, once; three where the usual
        machine type is not q35, and one more where the host has VFIO."""
        reasons = self._connection.fact("narrowed", lambda _: self.lacking()) | _not_converted()
        reasons |= self._connection.fact("narrowed-cpus", lambda _: self._lacking_cpus())
        reasons |= self._connection.fact("narrowed-pages", lambda _: self._lacking_pages())
        reasons |= self._connection.fact("narrowed-emulation", lambda _: self._lacking_emulated())
        reason = backups_elsewhere(self._config.uri, self._config.host_root)
        return reasons | ({Capability.INCREMENTAL_BACKUP: reason} if reason else {})

    def lacking(self) -> dict[Capability, str]:
        """What QEMU and the firmware packages on this host lack."""
        reasons: dict[Capability, str] = {}
        capabilities = self.domain_capabilities()
        firmware = {
            value.text for value in capabilities.iterfind("os/enum[@name='firmware']/value")
        }
        if "efi" not in firmware:
            reason = "the host has no UEFI firmware for guests (package ovmf, or edk2)"
            reasons |= {Capability.UEFI: reason, Capability.SECURE_BOOT: reason}
        elif "yes" not in {
            value.text for value in capabilities.iterfind("os/loader/enum[@name='secure']/value")
        }:
            reasons[Capability.SECURE_BOOT] = "the host's UEFI firmware has no secure boot"
        tpm = {
            value.text
            for value in capabilities.iterfind("devices/tpm/enum[@name='backendModel']/value")
        }
        if "emulator" not in tpm:
            reasons[Capability.VTPM] = "the host has no TPM emulator (package swtpm)"
        backends = capabilities.iterfind("devices/hostdev/enum[@name='pciBackend']/value")
        if "vfio" not in {value.text for value in backends}:
            reason = "the host has no VFIO: its IOMMU is off, or the module vfio-pci is not there"
            needing = (Capability.PCI_PASSTHROUGH, Capability.VIF_HOSTDEV, Capability.VGPU)
            reasons |= dict.fromkeys(needing, reason)
        elif not self.has_slices():
            reasons[Capability.VGPU] = (
                "no device of the host has slices: its vendor's driver for vGPUs is not there"
            )
        if "efi" not in firmware or not is_offered(capabilities):
            reasons[Capability.SEV] = NO_SEV
        if self._of_session():
            reasons[Capability.VIF_MACVTAP] = (
                "a session daemon makes no macvtap devices: the kernel wants root for that"
            )
        reasons |= self._lacking_shares(capabilities)
        return reasons | self._lacking_screens(capabilities)

    def has_slices(self) -> bool:
        """Whether a device has slices for machines. One call."""
        try:
            return bool(self._connection.remote.numOfDevices("mdev_types", 0))
        except errors.NotSupported:
            return False  # a daemon without the node device driver knows of no devices

    def _of_session(self) -> bool:
        return urlsplit(self._config.uri).path.startswith("/session")

    def _lacking_shares(self, capabilities: Element) -> dict[Capability, str]:
        path = "devices/filesystem/enum[@name='driverType']/value"
        if "virtiofs" not in {value.text for value in capabilities.iterfind(path)}:
            return {Capability.SHARES: "the host's QEMU has no virtio-fs"}
        if self._of_session():
            reason = "a session daemon shares no directories: libvirt wants root for virtio-fs"
            return {Capability.SHARES: reason}
        return {}

    def _lacking_cpus(self) -> dict[Capability, str]:
        """No call where no CPUs are set aside."""
        aside = self._config.aside
        if not aside:
            reason = "no CPUs of the host are set aside: dedicated_cpus in the configuration"
            return {Capability.CPU_PINNING: reason}
        cells = self.capabilities().iterfind("host/topology/cells/cell")
        there = {int(cpu.get("id", 0)) for cell in cells for cpu in cell.iterfind("cpus/cpu")}
        missing = aside - there
        if not missing:
            return {}
        return {
            Capability.CPU_PINNING: f"the host has no CPU {min(missing)}, which dedicated_cpus in"
            " the configuration names"
        }

    def _lacking_pages(self) -> dict[Capability, str]:
        """One call, once."""
        cells = self.capabilities().iterfind("host/topology/cells/cell/pages")
        pages = ((int(each.get("size", 0)), int(each.text or 0)) for each in cells)
        if any(size > _PAGE_KIB and size * number >= _LEAST_KIB for size, number in pages):
            return {}
        reason = "the host had no huge pages for a machine when it was connected (vm.nr_hugepages)"
        return {Capability.HUGEPAGES: reason}

    def _lacking_emulated(self) -> dict[Capability, str]:
        """What an emulated machine has not, where it is known that machines will be: with KVM in
        sight only the first spawn() shows that it does not work. One call, once."""
        wanted = self._config.virt_type
        emulated = wanted is VirtType.QEMU or (wanted is VirtType.AUTO and not self.kvm_offered())
        if not emulated:
            return {}
        return {Capability.VIF_VHOSTUSER: NO_VHOST_USER, Capability.SEV: NO_EMULATED}

    def _lacking_screens(self, capabilities: Element) -> dict[Capability, str]:
        if self._config.graphics == "none":
            reason = 'new machines have no screen: graphics="none" in the configuration'
            return dict.fromkeys((*_SCREENS.values(), Capability.SCREENSHOT), reason)
        path = "devices/graphics/enum[@name='type']/value"
        served = {value.text for value in capabilities.iterfind(path)}
        reasons = {}
        for kind, capability in _SCREENS.items():
            name = kind.value.upper()
            if self._config.graphics not in {kind.value, "both"}:
                reasons[capability] = (
                    f"new machines have no {name} server:"
                    f' graphics="{self._config.graphics}" in the configuration'
                )
            elif kind.value not in served:
                reasons[capability] = f"the host's QEMU has no {name} server"
        if len(reasons) == len(_SCREENS):
            reasons[Capability.SCREENSHOT] = "new machines have no screen: its server is not there"
        return reasons

    def about(self) -> HostInfo:
        """What the contract's host() tells. Three calls, more where a fact is not known yet."""
        remote = self._connection.remote
        return HostInfo(
            driver="libvirt",
            product=str(remote.getType()),
            product_version=_version(remote.getVersion()),
            api_version=_version(remote.getLibVersion()),
            architecture=self.architecture(),
            hostname=str(remote.getHostname()),
            accelerated=self._virt_type() == "kvm",
        )

    def capabilities(self) -> Element:
        """The host's capabilities, as libvirt describes them."""
        return self._connection.fact("capabilities", lambda remote: parse(remote.getCapabilities()))

    def architecture(self) -> str:
        """As QEMU names it."""
        return str(self.capabilities().findtext("host/cpu/arch"))

    def _machine(self) -> str:
        if self._config.machine is not None:
            return self._config.machine
        return {"x86_64": "q35", "aarch64": "virt", "riscv64": "virt"}.get(
            self.architecture(), "virt"
        )

    def machines(self) -> set[str]:
        """The machine types that the host's QEMU has."""
        path = f"guest/arch[@name='{self.architecture()}']/machine"
        found = self.capabilities().findall(path)
        return {name for each in found for name in (each.text, each.get("canonical")) if name}

    def kvm_offered(self) -> bool:
        """Whether libvirt names KVM; it need not work."""
        arch = self.architecture()
        path = f"guest/arch[@name='{arch}']/domain[@type='kvm']"
        return self.capabilities().find(path) is not None

    def _virt_type(self) -> str:
        if self._config.virt_type is not VirtType.AUTO:
            return self._config.virt_type.value

        def choose(remote: Remote) -> str:
            works = self.kvm_offered() and kvm_works(remote, self.architecture(), self._machine())
            return "kvm" if works else "qemu"

        return self._connection.fact("virt-type", choose)

    def domain_capabilities(self) -> Element:
        """What QEMU offers for the usual machine type."""

        def read(remote: Remote) -> Element:
            kind = "kvm" if self._config.virt_type is VirtType.KVM else "qemu"
            ask = remote.getDomainCapabilities
            try:
                # without an architecture the daemon takes its own: one call less than asking first
                return parse(ask(None, None, self._config.machine or "q35", kind, 0))
            except (errors.NotSupported, errors.InvalidRequest):
                pass
            try:
                return parse(ask(None, self.architecture(), self._machine(), kind, 0))
            except errors.NotSupported:
                return parse("<domainCapabilities/>")

        return self._connection.fact("domain-capabilities", read)

    def choice(self, machine: str | None = None) -> HostChoice:
        """What a new machine is made of, of this type or of the usual one.

        Raises:
            NotSupported: the host has no machine of this type.
        """
        if machine is not None and machine not in self.machines():
            raise errors.NotSupported(
                f"the host's QEMU has no machine type {machine!r}",
                hint="virsh capabilities names them",
            )
        return HostChoice(
            virt_type=self._virt_type(),
            architecture=self.architecture(),
            machine=machine or self._machine(),
            hotplug_slots=self._config.hotplug_slots,
            screens=self._screens(),
            graphics_listen=self._config.graphics_listen,
            disk_cache=self._config.disk_cache,
        )

    def _screens(self) -> tuple[ConsoleKind, ...]:
        missing = self.narrowed()
        return tuple(kind for kind, needed in _SCREENS.items() if needed not in missing)

    def default_firmware(self) -> Firmware:
        """What a machine gets whose caller names none."""
        # BIOS needs no variable store and boots every image that has a boot sector; elsewhere than
        # on x86_64 there is only UEFI
        return Firmware.BIOS if self.architecture() == "x86_64" else Firmware.UEFI

    def host_uuid(self) -> str:
        """The host's UUID."""
        return str(self.capabilities().findtext("host/uuid"))

    def address(self) -> str | None:
        """The host's address: as configured, else that of the name the caller knows it by."""
        if self._config.storage_address is not None:
            return self._config.storage_address
        return address_of(
            urlsplit(self._config.uri).hostname or self._connection.remote.getHostname()
        )


def _not_converted() -> dict[Capability, str]:
    """The formats of images that the caller's machine cannot convert. No call."""
    try:
        find_qemu_img()
    except errors.NotSupported as error:
        return dict.fromkeys(_CONVERTED, error.message)
    return {}


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
