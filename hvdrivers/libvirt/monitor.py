"""QEMU's own monitor, asked through libvirt: one QMP command at a time.

Libvirt has no call for what this is used for. It marks a machine on which its monitor has been used
as tainted; that mark is a line in its log, and changes nothing. No command that adds or removes a
device or a disk is sent here: libvirt would not know of it.
Commands: https://qemu-project.gitlab.io/qemu/interop/qemu-qmp-ref.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import libvirt_qemu

from hvdrivers.contract import errors
from hvdrivers.libvirt.remote import Remote, call_about


def ask(
    domain: Remote,
    command: str,
    arguments: Mapping[str, object] | None = None,
    *,
    reads: bool = False,
) -> Any:
    """One command; what QEMU returns. One call.

    Args:
        reads: the command changes nothing: a lost answer is no unknown outcome.

    Raises:
        NotSupported: this QEMU has no such command.
        HypervisorFault: QEMU says no; its words are in the message.
    """
    question: dict[str, object] = {"execute": command}
    if arguments:
        question["arguments"] = arguments
    # calls are told apart as reads and changes by the beginning of their name
    answer = call_about(
        domain,
        f"{'getMonitor' if reads else 'monitor'}[{command}]",
        libvirt_qemu.qemuMonitorCommand,
        json.dumps(question),
        0,
    )
    found = json.loads(answer)
    if "error" in found:
        kind, words = found["error"].get("class"), found["error"].get("desc")
        cls = errors.NotSupported if kind == "CommandNotFound" else errors.HypervisorFault
        raise cls(f"QEMU refuses {command}: {words}", vendor_code=f"QMP_{kind}")
    return found["return"]
