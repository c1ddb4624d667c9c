"""The host as libvirt describes it: capabilities, accelerator, identity. Read once a connection."""

from __future__ import annotations

from urllib.parse import urlsplit

from hvdrivers.addresses import address_of
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.connection import Connection as ConnectionContract
from hvdrivers.images.convert import find_qemu_img
from hvdrivers.libvirt.accelerator import kvm_works
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.config import VirtType
from hvdrivers.libvirt.domain import HostChoice
from hvdrivers.libvirt.session import Remote
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
_SCREENS = {
    ConsoleKind.VNC: Capability.CONSOLE_VNC,
    ConsoleKind.SPICE: Capability.CONSOLE_SPICE,
}


class HostFacts(Topic):
    """What other topics ask about the host."""

    def narrowed(self) -> dict[Capability, str]:
        """What QEMU and the firmware packages on this host lack, and the caller's machine. Budget:
        1 call, once; 3 where
        the usual machine type is not q35."""
        return self.connection.fact("narrowed", lambda _: self._lacking()) | _not_converted()

    def _lacking(self) -> dict[Capability, str]:
        reasons: dict[Capability, str] = {}
        capabilities = self._domain_capabilities()
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
        return reasons | self._lacking_screens(capabilities)

    def _lacking_screens(self, capabilities: Element) -> dict[Capability, str]:
        if self.config.graphics == "none":
            reason = 'new machines have no screen: graphics="none" in the configuration'
            return dict.fromkeys((*_SCREENS.values(), Capability.SCREENSHOT), reason)
        path = "devices/graphics/enum[@name='type']/value"
        served = {value.text for value in capabilities.iterfind(path)}
        reasons = {}
        for kind, capability in _SCREENS.items():
            name = kind.value.upper()
            if self.config.graphics not in {kind.value, "both"}:
                reasons[capability] = (
                    f"new machines have no {name} server:"
                    f' graphics="{self.config.graphics}" in the configuration'
                )
            elif kind.value not in served:
                reasons[capability] = f"the host's QEMU has no {name} server"
        if len(reasons) == len(_SCREENS):
            reasons[Capability.SCREENSHOT] = "new machines have no screen: its server is not there"
        return reasons

    def _host_info(self) -> HostInfo:
        remote = self.connection.remote
        return HostInfo(
            driver="libvirt",
            product=str(remote.getType()),
            product_version=_version(remote.getVersion()),
            api_version=_version(remote.getLibVersion()),
            architecture=self._architecture(),
            hostname=str(remote.getHostname()),
            accelerated=self._virt_type() == "kvm",
        )

    def _host_capabilities(self) -> Element:
        return self.connection.fact("capabilities", lambda remote: parse(remote.getCapabilities()))

    def _architecture(self) -> str:
        return str(self._host_capabilities().findtext("host/cpu/arch"))

    def _machine(self) -> str:
        if self.config.machine is not None:
            return self.config.machine
        return {"x86_64": "q35", "aarch64": "virt", "riscv64": "virt"}.get(
            self._architecture(), "virt"
        )

    def _machines(self) -> set[str]:
        path = f"guest/arch[@name='{self._architecture()}']/machine"
        found = self._host_capabilities().findall(path)
        return {name for each in found for name in (each.text, each.get("canonical")) if name}

    def _kvm_offered(self) -> bool:
        arch = self._architecture()
        path = f"guest/arch[@name='{arch}']/domain[@type='kvm']"
        return self._host_capabilities().find(path) is not None

    def _virt_type(self) -> str:
        if self.config.virt_type is not VirtType.AUTO:
            return self.config.virt_type.value

        def choose(remote: Remote) -> str:
            works = self._kvm_offered() and kvm_works(remote, self._architecture(), self._machine())
            return "kvm" if works else "qemu"

        return self.connection.fact("virt-type", choose)

    def _domain_capabilities(self) -> Element:
        def read(remote: Remote) -> Element:
            kind = "kvm" if self.config.virt_type is VirtType.KVM else "qemu"
            ask = remote.getDomainCapabilities
            try:
                # without an architecture the daemon takes its own: one call less than asking first
                return parse(ask(None, None, self.config.machine or "q35", kind, 0))
            except (errors.NotSupported, errors.InvalidRequest):
                pass
            try:
                return parse(ask(None, self._architecture(), self._machine(), kind, 0))
            except errors.NotSupported:
                return parse("<domainCapabilities/>")

        return self.connection.fact("domain-capabilities", read)

    def _choice(self, machine: str | None = None) -> HostChoice:
        """What a new machine is made of, of this type or of the usual one.

        Raises:
            NotSupported: the host has no machine of this type.
        """
        if machine is not None and machine not in self._machines():
            raise errors.NotSupported(
                f"the host's QEMU has no machine type {machine!r}",
                hint="virsh capabilities names them",
            )
        return HostChoice(
            virt_type=self._virt_type(),
            architecture=self._architecture(),
            machine=machine or self._machine(),
            hotplug_slots=self.config.hotplug_slots,
            screens=self._screens(),
            graphics_listen=self.config.graphics_listen,
            disk_cache=self.config.disk_cache,
        )

    def _screens(self) -> tuple[ConsoleKind, ...]:
        missing = self.narrowed()
        return tuple(kind for kind, needed in _SCREENS.items() if needed not in missing)

    def _default_firmware(self) -> Firmware:
        # BIOS needs no variable store and boots every image that has a boot sector; elsewhere than
        # on x86_64 there is only UEFI
        return Firmware.BIOS if self._architecture() == "x86_64" else Firmware.UEFI

    def _host_uuid(self) -> str:
        return str(self._host_capabilities().findtext("host/uuid"))

    def _address(self) -> str | None:
        """The host's address: as configured, else that of the name the caller knows it by."""
        if self.config.storage_address is not None:
            return self.config.storage_address
        return address_of(
            urlsplit(self.config.uri).hostname or self.connection.remote.getHostname()
        )


def _not_converted() -> dict[Capability, str]:
    """The formats of images that the caller's machine cannot convert. No call."""
    try:
        find_qemu_img()
    except errors.NotSupported as error:
        return dict.fromkeys(_CONVERTED, error.message)
    return {}


class LibvirtConnection(HostFacts, ConnectionContract):
    """Connection topic of the contract."""

    def ping(self, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        del timeout
        self.connection.remote.getLibVersion()

    def host(self, *, timeout: float | None = None) -> HostInfo:
        """Budget: 4 calls, 1 of them once a connection; the first one may probe KVM."""
        del timeout
        return self._host_info()

    def close(self, *, timeout: float | None = None) -> None:
        """Budget: none counted; callbacks are taken off and the sockets are closed. One on which a
        call hangs is closed when that call has come back."""
        self.connection.close(timeout)


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
