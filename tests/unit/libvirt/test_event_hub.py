"""The hub beside what other clients do. libvirt's own test driver sends the events."""

from __future__ import annotations

from contextlib import closing

import libvirt
import pytest

from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.event_hub import Marked
from hvdrivers.libvirt.metadata import MARK_NAMESPACE

HOST = "test:///default"


@pytest.mark.parametrize(
    "kind", [libvirt.VIR_DOMAIN_METADATA_TITLE, libvirt.VIR_DOMAIN_METADATA_DESCRIPTION]
)
def test_a_title_and_a_description_have_no_namespace(
    kind: int, capfd: pytest.CaptureFixture[str]
) -> None:
    driver = LibvirtDriver.connect(LibvirtConfig(uri=HOST))
    with (
        closing(driver),
        driver.hub.listening() as events,
        closing(libvirt.open(HOST)) as connection,
    ):
        domain = connection.listAllDomains(0)[0]
        domain.setMetadata(kind, "text", None, None, 0)
        element = libvirt.VIR_DOMAIN_METADATA_ELEMENT
        domain.setMetadata(element, "<a/>", "hv", f"{MARK_NAMESPACE}later", 0)
        event = events.wait(lambda event: isinstance(event, Marked), 60)
        assert isinstance(event, Marked)
        assert event.mark == "later"
    # libvirt-python writes the traceback of a callback there
    assert capfd.readouterr().err == ""
