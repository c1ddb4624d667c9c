"""A machine's definition: made, removed, and made up for where a spawn was interrupted.

spawn() starts a machine before it defines it. If its process, or its connection, dies between the
two, the machine runs without a definition: it would vanish with its power, and leave its disks.
Every driver that meets such a machine completes it.
"""

from __future__ import annotations

from typing import cast

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.domain import definable
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.states import is_restoring, is_starting
from hvdrivers.libvirt.xml import parse, text

_EVERYTHING = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_TPM
)


def define(remote: Remote, xml: str, *, validated: bool = False) -> Remote:
    """Define a machine, or define it anew. One call.

    Args:
        validated: this daemon has held the same text against its schema, which takes it 10 ms.
    """
    flags = 0 if validated else libvirt.VIR_DOMAIN_DEFINE_VALIDATE
    return cast(Remote, remote.defineXMLFlags(xml, flags))


def undefine(domain: Remote) -> bool:
    """Remove the definition, saved memory, firmware variables and TPM; False if there was none.
    One call."""
    try:
        domain.undefineFlags(_EVERYTHING)
    except errors.InstanceNotFound:
        return False
    return True


def complete(domain: Remote) -> None:
    """Define a machine that runs without a definition; one that is being started belongs to a
    spawn that is under way, one that comes from another host to its migration. Up to five calls."""
    at = domain.state(0)
    if is_starting(*at) or is_restoring(*at):
        return
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    xml = definable(parse(domain.XMLDesc(flags)))
    defined = define(domain.connect(), text(xml))
    if not defined.isActive():  # it has been removed meanwhile, and this is its shell
        undefine(defined)
