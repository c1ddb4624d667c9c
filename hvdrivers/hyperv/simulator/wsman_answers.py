"""What the simulated WS-Management service answers about shells and commands."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from xml.sax.saxutils import escape

from hvdrivers.hyperv.simulator import wsman_soap as soap
from hvdrivers.hyperv.simulator.wsman_shell import Shell

_DONE = f"{soap.RSP}/CommandState/Done"
_RUNNING = f"{soap.RSP}/CommandState/Running"


def created(shell: Shell, endpoint: str, streams: str) -> str:
    """Of Create.

    Args:
        streams: the names of the streams that the client wants.
    """
    return (
        f"<x:ResourceCreated><a:Address>{endpoint}</a:Address><a:ReferenceParameters>"
        f"<w:ResourceURI>{soap.CMD_SHELL}</w:ResourceURI><w:SelectorSet>"
        f'<w:Selector Name="ShellId">{shell.id}</w:Selector></w:SelectorSet>'
        "</a:ReferenceParameters></x:ResourceCreated>"
        f"<rsp:Shell><rsp:ShellId>{shell.id}</rsp:ShellId>"
        f"<rsp:ResourceUri>{soap.CMD_SHELL}</rsp:ResourceUri>"
        f"<rsp:Owner>{escape(shell.owner)}</rsp:Owner><rsp:ClientIP>127.0.0.1</rsp:ClientIP>"
        f"<rsp:IdleTimeOut>PT{shell.idle_timeout:.3f}S</rsp:IdleTimeOut>"
        f"<rsp:InputStreams>stdin</rsp:InputStreams>"
        f"<rsp:OutputStreams>{escape(streams)}</rsp:OutputStreams>"
        "<rsp:ShellRunTime>P0DT0H0M0S</rsp:ShellRunTime>"
        "<rsp:ShellInactivity>P0DT0H0M0S</rsp:ShellInactivity></rsp:Shell>"
    )


def started(command: str) -> str:
    """Of Command."""
    return f"<rsp:CommandResponse><rsp:CommandId>{command}</rsp:CommandId></rsp:CommandResponse>"


def received(command: str, streams: Mapping[str, bytes], code: int | None) -> str:
    """Of Receive.

    Args:
        code: the exit code of a command that has ended and whose output has all been taken.
    """
    parts = [
        f'<rsp:Stream Name="{name}" CommandId="{command}">'
        f"{base64.b64encode(data).decode()}</rsp:Stream>"
        for name, data in streams.items()
    ]
    if code is None:
        parts.append(
            f'<rsp:CommandState CommandId="{command}" State="{_RUNNING}"></rsp:CommandState>'
        )
    else:
        parts += [
            f'<rsp:Stream Name="{name}" CommandId="{command}" End="true"></rsp:Stream>'
            for name in ("stdout", "stderr")
        ]
        parts.append(
            f'<rsp:CommandState CommandId="{command}" State="{_DONE}">'
            f"<rsp:ExitCode>{code}</rsp:ExitCode></rsp:CommandState>"
        )
    return f"<rsp:ReceiveResponse>{''.join(parts)}</rsp:ReceiveResponse>"
