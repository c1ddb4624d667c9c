"""The size in a machine's definition: read, and changed by calls that change nothing else.

To define the whole machine anew would undo what another client has changed since it was read, and
would bring back a machine that destroy() has removed meanwhile. So memory and CPUs are set by calls
of their own. libvirt has none for NUMA nodes and huge pages, and a machine whose memory can grow
has a node: only such a machine is defined anew (:func:`reshape`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple
from uuid import UUID

import libvirt

from hvdrivers.libvirt.event_hub import EventHub
from hvdrivers.libvirt.metadata import FLAVOR_NAMESPACE, flavor_text, keep, kept, put
from hvdrivers.libvirt.redefining import redefine
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.sizes import huge_page_of, numa_element, resized
from hvdrivers.libvirt.xml import Element
from hvdrivers.models.instance import Flavor

_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG


class Size(NamedTuple):
    """What the calls can set, and the flavor that says it."""

    memory_kib: int
    in_use_kib: int
    """``<currentMemory>``: less where the balloon holds the rest."""
    most_vcpus: int
    vcpus: int
    flavor: str | None
    """Content of the flavor's element; None if the record has the flavor."""


def size_in(domain: Element) -> Size:
    """The size in a domain's XML."""
    memory = int(domain.findtext("memory") or 0)
    vcpu = domain.find("vcpu")
    most = int(vcpu.text or 1) if vcpu is not None else 1
    return Size(
        memory_kib=memory,
        in_use_kib=int(domain.findtext("currentMemory") or memory),
        most_vcpus=most,
        vcpus=int(vcpu.get("current") or most) if vcpu is not None else most,
        flavor=kept(domain, FLAVOR_NAMESPACE),
    )


def size_of(flavor: Flavor) -> Size:
    """The size of a flavor."""
    memory = flavor.memory_mib << 10
    most = flavor.max_vcpus or flavor.vcpus
    return Size(memory, memory, most, flavor.vcpus, flavor_text(flavor))


def has_nodes(domain: Element, flavor: Flavor) -> bool:
    """Whether NUMA nodes, memory that can grow, or huge pages are there or would come."""
    there = ("cpu/numa", "maxMemory", "devices/memory", "memoryBacking/hugepages")
    if huge_page_of(flavor) is not None:
        return True
    return any(domain.find(each) is not None for each in there) or numa_element(flavor) is not None


def set_size(
    domain: Remote,
    now: Size,
    wanted: Size,
    *,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """From one size to another. Up to five calls, none for what is so already.

    Args:
        around: what stands around each call.
    """
    if now.memory_kib != wanted.memory_kib:
        with around():
            domain.setMemoryFlags(wanted.memory_kib, _CONFIG | libvirt.VIR_DOMAIN_MEM_MAXIMUM)
    if min(now.in_use_kib, wanted.memory_kib) != wanted.in_use_kib:
        with around():
            domain.setMemoryFlags(wanted.in_use_kib, _CONFIG)
    if now.most_vcpus != wanted.most_vcpus:
        with around():
            domain.setVcpusFlags(wanted.most_vcpus, _CONFIG | libvirt.VIR_DOMAIN_VCPU_MAXIMUM)
    if min(now.vcpus, wanted.most_vcpus) != wanted.vcpus:
        with around():
            domain.setVcpusFlags(wanted.vcpus, _CONFIG)
    if now.flavor != wanted.flavor:
        with around():
            keep(domain, FLAVOR_NAMESPACE, wanted.flavor, _CONFIG)


def reshape(hub: EventHub, uuid: UUID, domain: Remote, flavor: Flavor) -> None:
    """Define the machine anew with the nodes of a flavor. Two calls."""
    redefine(
        hub,
        uuid,
        domain,
        lambda xml: put(resized(xml, flavor), FLAVOR_NAMESPACE, flavor_text(flavor)),
    )
