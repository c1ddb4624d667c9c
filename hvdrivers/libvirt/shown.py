"""An instance as get_instance() shows it."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.libvirt.devices import attached_vif, attached_volume, vifs_of, volumes_of
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.metadata import Record, record_in
from hvdrivers.libvirt.move_mark import phase_of
from hvdrivers.libvirt.naming import label_of
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.sizes import vcpus_of
from hvdrivers.libvirt.xml import Element
from hvdrivers.models.instance import Flavor, InstanceInfo
from hvdrivers.models.state import InstanceState


def shown(
    uuid: UUID, domain: Remote, state: InstanceState, label: str | None = None
) -> InstanceInfo:
    """What there is of an instance. One call.

    Args:
        label: of an adopted machine, as its mark says.
    """
    return shown_in(xml_of(domain), uuid, domain, state, label)


def shown_in(
    xml: Element, uuid: UUID, domain: Remote, state: InstanceState, label: str | None = None
) -> InstanceInfo:
    """The same of a machine whose XML has been read. No call."""
    record = record_in(xml)
    return InstanceInfo(
        uuid=uuid,
        name=label_of(domain.name(), uuid) or label or record.name,
        state=state,
        flavor=flavor_now(xml, record),
        metadata=record.metadata,
        volumes=tuple(attached_volume(key, disk) for key, disk in volumes_of(xml).items()),
        vifs=tuple(attached_vif(key, *found) for key, found in vifs_of(xml).items()),
        firmware=record.firmware,
        created_at=record.created_at,
        image=record.image,
        move=phase_of(domain.name(), uuid, xml),
    )


def flavor_now(xml: Element, record: Record) -> Flavor:
    """The record says what was asked for. What the hypervisor says now wins, as in lists: someone
    may have changed it by hand (``virsh setmaxmem``, ``setvcpus``)."""
    now = {
        "vcpus": vcpus_of(xml) or record.flavor.vcpus,
        "memory_mib": int(xml.findtext("memory") or record.flavor.memory_mib << 10) >> 10,
    }
    return record.flavor.model_copy(update=now)
