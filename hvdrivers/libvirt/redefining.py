"""A machine's definition read, changed and written: for what libvirt has no call of its own."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.definition import define, undefine
from hvdrivers.libvirt.domains import LookAgain
from hvdrivers.libvirt.event_hub import EventHub, Lifecycle, RawEvent
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.xml import Element, parse, text

_EVENT = 10.0
"""Seconds for the event of a definition: the daemon sends it before its reply."""


def redefine(
    hub: EventHub, uuid: UUID, domain: Remote, change: Callable[[Element], Element]
) -> None:
    """Define the machine anew. Two calls.

    What another client changes between the two is lost: libvirt cannot compare and define in one.
    A machine that destroy() has removed in between does not stay: the daemon's event says whether a
    definition has replaced one, or was added.
    """

    def defined(event: RawEvent) -> bool:
        return (
            isinstance(event, Lifecycle)
            and event.uuid == uuid
            and event.event == libvirt.VIR_DOMAIN_EVENT_DEFINED
        )

    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    with hub.listening() as events:
        xml = change(parse(domain.XMLDesc(flags)))
        try:
            made = define(domain.connect(), text(xml))
        except errors.HypervisorFault as error:
            if domain.connect().lookupByUUIDString(str(uuid)).name() != xml.findtext("name"):
                raise LookAgain from error  # it has been renamed meanwhile
            raise
        event = events.wait(defined, _EVENT)
        if isinstance(event, Lifecycle) and event.detail == libvirt.VIR_DOMAIN_EVENT_DEFINED_ADDED:
            undefine(made)
            raise errors.InstanceNotFound("the instance was destroyed meanwhile", instance=uuid)


def redefine_saved(domain: Remote, change: Callable[[Element], Element]) -> None:
    """The same for the image of a suspended machine: it has a definition of its own, which comes
    back with it. Two calls."""
    xml = domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
    domain.managedSaveDefineXML(text(change(parse(xml))), 0)
