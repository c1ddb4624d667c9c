"""An instance as get_instance() shows it.

Most instances are as they were at the last look. What a definition says depends on its text alone,
so the newest texts are kept with what was read of them: the same text is not read again. The daemon
is asked for the text each time.
"""

from __future__ import annotations

import functools
import re
from uuid import UUID

from hvdrivers.libvirt.devices import attached_vif, attached_volume, vifs_of, volumes_of
from hvdrivers.libvirt.metadata import Record, record_in
from hvdrivers.libvirt.move_mark import phase_of
from hvdrivers.libvirt.naming import label_of
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.sizes import vcpus_of
from hvdrivers.libvirt.xml import Element, parse
from hvdrivers.models.base import of_known
from hvdrivers.models.instance import Flavor, InstanceInfo
from hvdrivers.models.state import InstanceState

_MOST_TEXTS = 256
"""Of about ten thousand characters each."""
_DEVICES = "\n  <devices>\n"
_FITTINGS = re.compile(
    r"^    <(controller|serial|console|channel|input|graphics|video|memballoon|rng)\b"
    r"[^\n]*(?<!/)>\n"
    r"(?:      [^\n]*\n)*"
    r"    </\1>\n",
    re.MULTILINE,
)
"""As libvirt writes them: one tag a line, each level two spaces further in."""


def shown(
    uuid: UUID, domain: Remote, state: InstanceState, label: str | None = None
) -> InstanceInfo:
    """What there is of an instance. One call.

    Args:
        label: of an adopted machine, as its mark says.
    """
    return _in_state(_read(domain.XMLDesc(0), uuid, domain.name(), label), state)


def shown_in(
    xml: Element, uuid: UUID, domain: Remote, state: InstanceState, label: str | None = None
) -> InstanceInfo:
    """The same of a machine whose XML has been read. No call."""
    return _in_state(_described(xml, uuid, domain.name(), label), state)


@functools.lru_cache(_MOST_TEXTS)
def _read(document: str, uuid: UUID, name: str, label: str | None) -> InstanceInfo:
    return _described(parse(_abridged(document)), uuid, name, label)


def _abridged(document: str) -> str:
    """A definition without the devices that the guest comes with: nothing of an instance's is said
    there, and a parser needs half of its time for them. What stands before the devices, where
    others may have put XML of their own, stays as it is."""
    before, devices, after = document.rpartition(_DEVICES)
    return before + devices + _FITTINGS.sub("", after) if devices else document


def _in_state(found: InstanceInfo, state: InstanceState) -> InstanceInfo:
    """The same in this state. Its metadata are a mapping that no other caller has."""
    now = {"state": state, "metadata": dict(found.metadata)}
    return of_known(InstanceInfo, vars(found) | now)


def _described(xml: Element, uuid: UUID, name: str, label: str | None) -> InstanceInfo:
    """All but the state, which the text does not tell."""
    record = record_in(xml)
    return InstanceInfo(
        uuid=uuid,
        name=label_of(name, uuid) or label or record.name,
        state=InstanceState.STOPPED,
        flavor=flavor_now(xml, record),
        metadata=record.metadata,
        volumes=tuple(attached_volume(key, disk) for key, disk in volumes_of(xml).items()),
        vifs=tuple(attached_vif(key, *found) for key, found in vifs_of(xml).items()),
        firmware=record.firmware,
        created_at=record.created_at,
        image=record.image,
        move=phase_of(name, uuid, xml),
    )


def flavor_now(xml: Element, record: Record) -> Flavor:
    """The record says what was asked for. What the hypervisor says now wins, as in lists: someone
    may have changed it by hand (``virsh setmaxmem``, ``setvcpus``)."""
    flavor = record.flavor
    vcpus = vcpus_of(xml) or flavor.vcpus
    memory_mib = int(xml.findtext("memory") or flavor.memory_mib << 10) >> 10
    if (vcpus, memory_mib) == (flavor.vcpus, flavor.memory_mib):
        return flavor
    return flavor.model_copy(update={"vcpus": vcpus, "memory_mib": memory_mib})
