"""QEMU's guest agent, asked through libvirt: one JSON command at a time.

What comes back was written by the guest: it is taken apart with care, and every failure of it is
``GuestAgentUnavailable`` or an error of the operation, never an exception of the parser.
Commands: https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt_qemu

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.lost_errors import UNREADABLE
from hvdrivers.libvirt.remote import Remote, call_about

_PATIENCE = 5
"""Seconds that a running agent has to say that it is there: libvirt itself waits so long for one
that it has not spoken to before, and for ever for any other."""
_LONGEST = 3600
_ANOTHER = 2 * _PATIENCE
"""Seconds that another question may take: libvirt itself asks twice."""
_SILENT = frozenset({"VIR_ERR_AGENT_UNRESPONSIVE", "VIR_ERR_AGENT_UNSYNCED"})
_AGENT_HINT = (
    "install and start the guest agent in the guest, or wait until it has booted; if one runs,"
    " start it anew: libvirt gives up an agent whose answer it could not read"
)
NO = "VIR_ERR_INTERNAL_ERROR"
"""libvirt's code for an agent's no, and for an answer that is none."""
_NO_ANSWER = frozenset({"VIR_ERR_SYSTEM_ERROR/ERANGE", UNREADABLE})
"""What libvirt answers once an agent's answer is longer than it reads, to the next question too;
and where it repeats an answer that is no text."""


def require(domain: Remote, *, again: bool = False) -> None:
    """See that an agent answers, before it is asked for anything that may take its time. One call.

    Args:
        again: ask an agent that is there, and is slow, once more. Two calls more.

    Raises:
        GuestAgentUnavailable: none does.
    """
    try:
        ask(domain, "guest-ping", reads=True)
    except errors.GuestAgentUnavailable as error:
        in_time = current_deadline().left > _ANOTHER
        if not (again and is_silent(error) and in_time and _is_there(domain)):
            raise
        ask(domain, "guest-ping", reads=True)


def is_silent(error: errors.HypervisorError) -> bool:
    """Whether no answer came, and one may come later; not so where it was the wrong one."""
    return error.vendor_code in _SILENT


def _is_there(domain: Remote) -> bool:
    """Whether something in the guest holds the agent's channel open. One call."""
    target = "devices/channel/target[@name='org.qemu.guest_agent.0']"
    return any(each.get("state") == "connected" for each in xml_of(domain).iterfind(target))


def interfaces(domain: Remote) -> Iterator[tuple[str, dict[str, Any]]]:
    """The guest's interfaces, in the form of libvirt's interfaceAddresses(), which would wait for
    ever for an agent that says nothing, and hold all others off from it. One call."""
    answer = ask(domain, "guest-network-get-interfaces", reads=True)
    for each in answer if isinstance(answer, list) else ():
        name, addresses = field(each, "name", str), field(each, "ip-addresses", list)
        if name is None:
            continue
        told = [
            {"addr": field(one, "ip-address", str), "prefix": field(one, "prefix", int)}
            for one in addresses or ()
        ]
        # older agents tell an alias of an interface as one of its own
        yield (
            name.partition(":")[0],
            {"hwaddr": field(each, "hardware-address", str), "addrs": told},
        )


@contextmanager
def unknown_means(hint: str) -> Iterator[None]:
    """Where the outcome of what is done in the block is unknown, the hint says what to do:
    ``get_instance()`` does not tell what has happened in a guest."""
    try:
        yield
    except errors.OutcomeUnknown as error:
        if error.hint == errors.OutcomeUnknown.hint_default:
            error.hint = hint
        raise


class Refused(errors.HypervisorFault):
    """The agent has said no, and nothing else; the message has its words."""


def tell(domain: Remote, command: str, *, patience: float, otherwise: str, **arguments: Any) -> Any:
    """A command that changes something in the guest. One call, two if the agent refuses.

    Args:
        patience: seconds that the agent has for its answer.
        otherwise: the hint of an unknown outcome.

    Raises:
        Refused: it has not done it.
        OutcomeUnknown: it may have.
    """
    with unknown_means(otherwise):
        try:
            return ask(domain, command, reads=False, patience=patience, **arguments)
        except errors.HypervisorFault as error:
            if error.vendor_code != NO:
                raise
            # an answer of any other kind has this code too, and libvirt gives its agent up
            try:
                require(domain)
            except errors.HypervisorError as silent:
                # also one of the connection, which would say that nothing has been done
                raise errors.OutcomeUnknown(
                    f"the guest's agent gave an answer that may be none: {silent.message}",
                    vendor_code=error.vendor_code,
                ) from error
            raise Refused(error.message, vendor_code=error.vendor_code) from error


def tell_thawed(
    domain: Remote, command: str, deadline: Deadline, *, otherwise: str, **arguments: Any
) -> Any:
    """As tell(), what an agent refuses while its guest is frozen. If that is not frozen, it is told
    once more: it may have been thawed before that was looked at. Three calls more if the agent
    refuses, and its reason is another one.

    Raises:
        DeviceBusy: the guest is frozen.
    """
    try:
        return tell(domain, command, patience=deadline.left, otherwise=otherwise, **arguments)
    except Refused as error:
        try:
            frozen = is_frozen(domain)
        except (errors.GuestAgentUnavailable, errors.DeviceBusy):
            raise error from None  # what it has said stands
        if frozen:
            raise errors.DeviceBusy(
                "the guest's file systems are frozen, and its agent does nothing else",
                vendor_code=error.vendor_code,
                hint="thaw() it, and call again",
            ) from error
    return tell(domain, command, patience=deadline.left, otherwise=otherwise, **arguments)


def is_frozen(domain: Remote) -> bool:
    """Whether the guest's file systems are frozen. One call."""
    status = ask(domain, "guest-fsfreeze-status", reads=True)
    return bool(status == "frozen")


def ask(
    domain: Remote,
    command: str,
    *,
    reads: bool,
    patience: float = _PATIENCE,
    **arguments: Any,
) -> Any:
    """One command. One call.

    Args:
        reads: the command changes nothing: a lost answer is no unknown outcome.
        patience: seconds that the agent has for its answer.

    Raises:
        GuestAgentUnavailable: no agent answers, or it answers what it must not.
        OutcomeUnknown: the same, for a command that changes something: the agent was there.
        HypervisorFault: the agent says no; its words are in the message.
    """
    question = {"execute": command}
    if arguments:
        question |= {"arguments": arguments}  # type: ignore[dict-item] # JSON
    # calls are told apart as reads and changes by the beginning of their name
    name = f"{'getAgent' if reads else 'agent'}[{command}]"

    def failed(message: str, code: str | None = None) -> errors.HypervisorError:
        if reads:
            return errors.GuestAgentUnavailable(message, vendor_code=code, hint=_AGENT_HINT)
        return errors.OutcomeUnknown(message, vendor_code=code)

    try:
        answer = call_about(
            domain,
            name,
            libvirt_qemu.qemuAgentCommand,
            json.dumps(question),
            max(1, int(min(patience, _LONGEST))),
            0,
        )
    except errors.HypervisorFault as error:
        if error.vendor_code in _NO_ANSWER:
            raise failed(error.message, error.vendor_code) from error
        if not reads or error.vendor_code != NO:
            raise
        # there is no reason for a no
        raise failed(error.message, error.vendor_code) from error
    except errors.NotSupported as error:
        # nothing was asked. A machine that spawn() has made has the channel
        raise errors.GuestAgentUnavailable(
            "the machine has no channel for QEMU's guest agent",
            vendor_code=error.vendor_code,
            hint="power_off() it, and add a <channel> named org.qemu.guest_agent.0 (virsh edit)",
        ) from error
    except errors.GuestAgentUnavailable as error:
        raise failed(error.message, error.vendor_code) from error
    try:
        return json.loads(answer)["return"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise failed(f"the guest's agent answers {command} with what is no answer") from error


def field(answer: Any, name: str, kind: type) -> Any:
    """A field of an agent's answer, if it has the type that it must have; else None."""
    value = answer.get(name) if isinstance(answer, dict) else None
    # exactly: a truth value is a number to isinstance()
    return value if type(value) is kind else None
