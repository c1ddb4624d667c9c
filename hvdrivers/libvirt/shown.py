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
from hvdrivers.messages import shown_label
from hvdrivers.models.base import of_known
from hvdrivers.models.instance import Flavor, InstanceInfo
from hvdrivers.models.state import InstanceState

_MOST_TEXTS = 256
"""Of about ten thousand characters each."""
_METADATA_END = "\n  </metadata>"
_OF_NO_INTEREST = re.compile(
    r"\n(  |    )<(resource|os|features|cpu|clock|seclabel"
    r"|controller|serial|console|channel|input|graphics|video|memballoon|rng)\b"
    r"[^\n]*(?<!/)>"
    r"(?:\n\1  [^\n]*)*"
    r"\n\1</\2>(?=\n)"
)
"""As libvirt writes them: one tag a line, each level two spaces further in. What the CPU and the
board are like, and below ``<devices>`` those that the guest comes with."""


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
    """A definition without what says nothing of an instance, for which a parser needs two thirds of
    its time. The metadata, where others may have put XML of their own, stay as they are: their last
    tag is the last of its form."""
    metadata, end, rest = document.rpartition(_METADATA_END)
    return metadata + end + _OF_NO_INTEREST.sub("", rest) if end else document


def _in_state(found: InstanceInfo, state: InstanceState) -> InstanceInfo:
    """The same in this state. Its metadata are a mapping that no other caller has."""
    now = {"state": state, "metadata": dict(found.metadata)}
    return of_known(InstanceInfo, vars(found) | now)


def _described(xml: Element, uuid: UUID, name: str, label: str | None) -> InstanceInfo:
    """All but the state, which the text does not tell.

    Each part has been checked where it was made, so the whole is not checked again. Somebody may
    have given the machine more CPUs by hand than its flavor allows: that is shown, and no error.
    """
    record = record_in(xml)
    named = label_of(name, uuid) or (shown_label(label) if label else record.name)
    return of_known(
        InstanceInfo,
        {
            "uuid": uuid,
            "name": named,
            "state": InstanceState.STOPPED,
            "flavor": flavor_now(xml, record),
            "metadata": record.metadata,
            "volumes": tuple(attached_volume(*each) for each in volumes_of(xml).items()),
            "vifs": tuple(attached_vif(key, *each) for key, each in vifs_of(xml).items()),
            "firmware": record.firmware,
            "created_at": record.created_at,
            "image": record.image,
            "server_group": None,
            "move": phase_of(name, uuid, xml),
        },
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
