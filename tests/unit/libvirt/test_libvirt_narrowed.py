"""What a host lacks is told with a reason, read from its domain capabilities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract.capabilities import Capability
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.encrypted_memory import encrypted_guests
from hvdrivers.libvirt.host_facts import HostFacts
from hvdrivers.libvirt.session import Connection

VFIO = "<enum name='pciBackend'><value>default</value><value>vfio</value></enum>"
SEV = "<sev supported='yes'><cbitpos>47</cbitpos><maxGuests>15</maxGuests></sev>"
RECORDED = (
    (Path(__file__).parent / "domain_capabilities.xml")
    .read_text()
    .replace("<enum name='pciBackend'/>", VFIO)
    .replace("<sev supported='no'/>", SEV)
)
"""From libvirt 9.0 with QEMU 7.2, ovmf and swtpm (Debian 12), for q35; with VFIO and SEV, which
that host has not."""


class Host(HostFacts):
    """A host that says what the test lets it say."""

    def __init__(
        self,
        xml: str,
        graphics: Literal["vnc", "spice", "both", "none"],
        uri: str = "qemu:///system",
    ) -> None:
        super().__init__(Connection(LibvirtConfig(graphics=graphics, uri=uri)))
        self._document = ET.fromstring(xml)
        self.slices = True

    def domain_capabilities(self) -> Any:
        return self._document

    def has_slices(self) -> bool:
        return self.slices


def test_a_host_without_slices() -> None:
    facts = Host(RECORDED, "both")
    assert Capability.VGPU not in facts.lacking()
    facts.slices = False
    assert "vGPU" in facts.lacking()[Capability.VGPU]


@pytest.mark.parametrize("capability", [Capability.SHARES, Capability.VIF_MACVTAP])
def test_what_a_session_daemon_has_not(capability: Capability) -> None:
    facts = Host(RECORDED, "both", uri="qemu:///session")
    assert "session" in facts.lacking()[capability]


def test_how_many_machines_have_encrypted_memory() -> None:
    """None where the host does not say, and where it has none."""
    assert encrypted_guests(ET.fromstring(RECORDED)) == 15
    for told in (SEV.replace("15", "0"), SEV.replace("yes", "no"), "<sev supported='yes'/>", ""):
        assert encrypted_guests(ET.fromstring(RECORDED.replace(SEV, told))) is None, told


def without(pattern: str) -> str:
    changed, count = re.subn(pattern, "", RECORDED)
    assert count
    return changed


C = Capability


@pytest.mark.parametrize(
    ("xml", "lacking"),
    [
        (RECORDED, set()),
        (
            RECORDED.replace(VFIO, "<enum name='pciBackend'/>"),
            {C.PCI_PASSTHROUGH, C.VIF_HOSTDEV, C.VGPU},
        ),
        (RECORDED.replace(SEV, "<sev supported='no'/>"), {C.SEV}),
        (RECORDED.replace(SEV, ""), {C.SEV}),
        (without(r"<value>efi</value>"), {C.UEFI, C.SECURE_BOOT, C.SEV}),
        (without(r"(?s)<enum name='secure'>.*?</enum>"), {C.SECURE_BOOT}),
        (
            without(r"(?s)<tpm supported='yes'>.*?</tpm>"),
            {C.VTPM},
        ),
        (without(r"<value>emulator</value>"), {C.VTPM}),
        (without(r"<value>virtiofs</value>"), {C.SHARES}),
        (without(r"<value>vnc</value>"), {C.CONSOLE_VNC}),
        (without(r"<value>spice</value>"), {C.CONSOLE_SPICE}),
        (
            "<domainCapabilities/>",
            {
                *(C.UEFI, C.SECURE_BOOT, C.VTPM, C.SHARES, C.PCI_PASSTHROUGH),
                *(C.VIF_HOSTDEV, C.VGPU, C.SEV),
                *(C.CONSOLE_VNC, C.CONSOLE_SPICE, C.SCREENSHOT),
            },
        ),
    ],
)
def test_reasons(xml: str, lacking: set[Capability]) -> None:
    reasons = Host(xml, "both").lacking()
    assert reasons.keys() == lacking
    assert all(len(reason) > 20 and "\n" not in reason for reason in reasons.values())


@pytest.mark.parametrize(
    ("graphics", "xml", "lacking"),
    [
        ("vnc", RECORDED, {C.CONSOLE_SPICE}),
        ("spice", RECORDED, {C.CONSOLE_VNC}),
        ("none", RECORDED, {C.CONSOLE_VNC, C.CONSOLE_SPICE, C.SCREENSHOT}),
        (
            "vnc",
            without(r"<value>vnc</value>"),
            {C.CONSOLE_VNC, C.CONSOLE_SPICE, C.SCREENSHOT},
        ),
    ],
)
def test_screens_are_as_configured(
    graphics: Literal["vnc", "spice", "none"], xml: str, lacking: set[Capability]
) -> None:
    assert Host(xml, graphics).lacking().keys() == lacking
