"""What a host lacks is told with a reason, read from its domain capabilities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract.capabilities import Capability
from hvdrivers.libvirt.host import HostFacts

RECORDED = (Path(__file__).parent / "domain_capabilities.xml").read_text()
"""From libvirt 9.0 with QEMU 7.2, ovmf and swtpm (Debian 12), for q35."""


class Host(HostFacts):
    """A host that says what the test lets it say."""

    def __init__(self, xml: str) -> None:
        self._document = ET.fromstring(xml)

    def _domain_capabilities(self) -> Any:
        return self._document


def without(pattern: str) -> str:
    changed, count = re.subn(pattern, "", RECORDED)
    assert count
    return changed


C = Capability


@pytest.mark.parametrize(
    ("xml", "lacking"),
    [
        (RECORDED, set()),
        (without(r"<value>efi</value>"), {C.UEFI, C.SECURE_BOOT}),
        (without(r"(?s)<enum name='secure'>.*?</enum>"), {C.SECURE_BOOT}),
        (
            without(r"(?s)<tpm supported='yes'>.*?</tpm>"),
            {C.VTPM},
        ),
        (without(r"<value>emulator</value>"), {C.VTPM}),
        ("<domainCapabilities/>", {C.UEFI, C.SECURE_BOOT, C.VTPM}),
    ],
)
def test_reasons(xml: str, lacking: set[Capability]) -> None:
    reasons = Host(xml)._lacking()
    assert reasons.keys() == lacking
    assert all(len(reason) > 20 and "\n" not in reason for reason in reasons.values())
