"""The host as libvirt describes it: capabilities, accelerator, identity. Read once a connection."""

from __future__ import annotations

from urllib.parse import urlsplit

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.connection import Connection as ConnectionContract
from hvdrivers.libvirt.accelerator import kvm_works
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.config import VirtType
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.domain import HostChoice
from hvdrivers.libvirt.xml import Element, parse
from hvdrivers.models.host import HostInfo
from hvdrivers.models.instance import Firmware


class HostFacts(Topic):
    """What other topics ask about the host."""

    def narrowed(self) -> dict[Capability, str]:
        """What QEMU and the firmware packages on this host lack. Budget: 1 call, once."""
        return dict(self.connection.fact("narrowed", lambda _: self._lacking()))

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
        return reasons

    def _effective_capabilities(self) -> frozenset[Capability]:
        return declared(type(self)) - self.narrowed().keys()

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
            try:
                return parse(
                    remote.getDomainCapabilities(
                        None, self._architecture(), self._machine(), kind, 0
                    )
                )
            except errors.NotSupported:
                return parse("<domainCapabilities/>")

        return self.connection.fact("domain-capabilities", read)

    def _choice(self) -> HostChoice:
        return HostChoice(
            virt_type=self._virt_type(),
            architecture=self._architecture(),
            machine=self._machine(),
            hotplug_slots=self.config.hotplug_slots,
        )

    def _default_firmware(self) -> Firmware:
        # BIOS needs no variable store and boots every image that has a boot sector; elsewhere than
        # on x86_64 there is only UEFI
        return Firmware.BIOS if self._architecture() == "x86_64" else Firmware.UEFI

    def _host_uuid(self) -> str:
        return str(self._host_capabilities().findtext("host/uuid"))

    def _address(self) -> str:
        """The host's address as the caller knows it."""
        return urlsplit(self.config.uri).hostname or str(self.connection.remote.getHostname())


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
        """Budget: none counted; callbacks are taken off and the socket is closed."""
        del timeout
        self.connection.close()


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
