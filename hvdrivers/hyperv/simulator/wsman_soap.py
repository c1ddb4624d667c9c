"""WS-Management messages of the shell service: read the requests, write the replies and faults.

Element order, namespaces, fault codes and texts are those of Windows Server 2016 and later, read
from recorded exchanges of public clients (MS-WSMV has the schema).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

S: Final = "http://www.w3.org/2003/05/soap-envelope"
A: Final = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
X: Final = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
W: Final = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
P: Final = "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"
RSP: Final = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
FAULT: Final = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
CMD_SHELL: Final = f"{RSP}/cmd"

_DURATION = re.compile(
    r"P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?"
    r"(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)


class Fault(Exception):
    """A fault that the service answers with HTTP 500.

    Args:
        code: the WSManFault code.
        subcode: the SOAP subcode (``w:TimedOut``).
        sender: whose fault it is.
        wmi: the code of an MSFT_WmiError, which quotas carry beside it.
    """

    def __init__(
        self,
        code: int,
        subcode: str,
        reason: str,
        *,
        sender: bool = True,
        detail: str | None = None,
        wmi: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.subcode = subcode
        self.reason = reason
        self.sender = sender
        self.detail = detail
        self.wmi = wmi


def timed_out() -> Fault:
    """Nothing happened within the OperationTimeout: the client asks again."""
    return Fault(
        2150858793,
        "w:TimedOut",
        "The WS-Management service cannot complete the operation within the time specified in"
        " OperationTimeout.  ",
        sender=False,
    )


def no_such_shell(shell: str) -> Fault:
    """The shell has gone: deleted, idle for too long, or the service was restarted."""
    return Fault(
        2150858843,
        "w:InvalidSelectors",
        "The request for the Windows Remote Shell with ShellId "
        f"{shell} failed because the shell was not found on the server. Possible causes are: the"
        " specified ShellId is incorrect or the shell no longer exists on the server. Provide the"
        " correct ShellId or create a new shell and retry the operation. ",
        detail="http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/UnexpectedSelectors",
    )


def no_such_command() -> Fault:
    """The command has ended and its output was read, or it never was."""
    return Fault(
        2150858843,
        "w:InvalidSelectors",
        "The Windows Remote Shell received a request to perform an operation on a command"
        " identifier that does not exist. Either the command has completed execution or the client"
        " specified an invalid command identifier. ",
        detail="http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/UnexpectedSelectors",
    )


def bad_schema(what: str) -> Fault:
    """The message does not keep to the schema."""
    return Fault(
        2150858817,
        "w:SchemaValidationError",
        f"The SOAP XML in the message does not match the corresponding XML schema definition."
        f" Change the XML and retry.  ({what})",
    )


def too_many_shells(allowed: int) -> Fault:
    """MaxShellsPerUser."""
    return Fault(
        2150859173,
        "w:QuotaLimit",
        "The WS-Management service cannot process the request. This user is allowed a maximum"
        f" number of {allowed} concurrent shells, which has been exceeded. Close existing shells or"
        " raise the quota for this user. ",
    )


def too_many_operations(allowed: int) -> Fault:
    """MaxConcurrentOperationsPerUser."""
    return Fault(
        2150859174,
        "w:QuotaLimit",
        "The WS-Management service cannot process the request. This user is allowed a maximum"
        f" number of {allowed} concurrent operations, which has been exceeded. Close existing"
        " operations for this user, or raise the quota for this user. ",
        wmi=0x803381A6,
    )


def unsupported(action: str) -> Fault:
    """An action that this service does not have."""
    return Fault(
        2150858828, "w:ActionNotSupported", f"The action {action} is not supported by the service. "
    )


def too_large(size: int, limit: int) -> Fault:
    """MaxEnvelopeSizekb."""
    return Fault(
        2150858796,
        "w:EncodingLimit",
        f"The request has {size} bytes, which exceeds the maximum envelope size of {limit} bytes. ",
    )


@dataclass(frozen=True)
class Message:
    """A request."""

    action: str
    """The last word of its Action: Create, Command, Send, Receive, Signal, Delete, Get."""
    id: str
    resource: str
    shell: str | None
    options: dict[str, str] = field(default_factory=dict)
    timeout: float = 60.0
    """OperationTimeout, seconds."""
    envelope_limit: int = 153600
    """MaxEnvelopeSize that the client takes, bytes."""
    body: ElementTree.Element = field(default_factory=lambda: ElementTree.Element("Body"))

    def text(self, path: str) -> str | None:
        """Text below the body, by local names of the shell namespace: ``Shell/IdleTimeOut``."""
        return self.body.findtext("/".join(f"{{{RSP}}}{name}" for name in path.split("/")))

    def element(self, path: str) -> ElementTree.Element | None:
        """The element with this path."""
        return self.body.find("/".join(f"{{{RSP}}}{name}" for name in path.split("/")))

    def elements(self, path: str) -> list[ElementTree.Element]:
        """All elements with this path."""
        return self.body.findall("/".join(f"{{{RSP}}}{name}" for name in path.split("/")))


def seconds(duration: str) -> float:
    """The seconds of an xs:duration (``PT7200.000S``).

    Raises:
        Fault: not one; a plain number is refused, as Windows does.
    """
    match = _DURATION.fullmatch(duration.strip())
    if match is None or not any(match.groups()):
        raise bad_schema(f"{duration} is no xs:duration")
    days, hours, minutes, secs = (float(match[each] or 0) for each in match.groupdict())
    return ((days * 24 + hours) * 60 + minutes) * 60 + secs


def read(data: bytes) -> Message:
    """Parse a request.

    Raises:
        Fault: it is no such message.
    """
    if b"<!DOCTYPE" in data:
        raise bad_schema("a document type")
    try:
        root = ElementTree.fromstring(data)  # noqa: S314 - without a DTD nothing expands
    except ElementTree.ParseError as error:
        raise bad_schema(str(error)) from error
    header, body = root.find(f"{{{S}}}Header"), root.find(f"{{{S}}}Body")
    if header is None or body is None:
        raise bad_schema("no header or no body")
    timeout = header.findtext(f"{{{W}}}OperationTimeout")
    shell = next(
        (each.text for each in header.iter(f"{{{W}}}Selector") if each.get("Name") == "ShellId"),
        None,
    )
    return Message(
        action=(header.findtext(f"{{{A}}}Action") or "").rpartition("/")[2],
        id=header.findtext(f"{{{A}}}MessageID") or "",
        resource=header.findtext(f"{{{W}}}ResourceURI") or "",
        shell=shell,
        options={each.get("Name", ""): each.text or "" for each in header.iter(f"{{{W}}}Option")},
        timeout=seconds(timeout) if timeout else 60.0,
        envelope_limit=int(header.findtext(f"{{{W}}}MaxEnvelopeSize") or 153600),
        body=body,
    )


def reply(action: str, relates_to: str, body: str) -> bytes:
    """A response; ``body`` is XML."""
    namespace = f"{X}/" if action in {"CreateResponse", "DeleteResponse"} else f"{RSP}/"
    return _envelope(namespace + action, relates_to, body)


def fault_reply(fault: Fault, relates_to: str, machine: str) -> bytes:
    """A fault as a response."""
    reason = escape(fault.reason)
    detail = f"<w:FaultDetail>{escape(fault.detail)}</w:FaultDetail>" if fault.detail else ""
    wmi = ""
    if fault.wmi is not None:
        schema = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/MSFT_WmiError"
        wmi = (
            f'<p:MSFT_WmiError xmlns:p="{schema}"><p:error_Code>{fault.wmi}</p:error_Code>'
            f"<p:error_WindowsErrorMessage>{reason}</p:error_WindowsErrorMessage>"
            "</p:MSFT_WmiError>"
        )
    return _envelope(
        "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault",
        relates_to,
        f"<s:Fault><s:Code><s:Value>s:{'Sender' if fault.sender else 'Receiver'}</s:Value>"
        f"<s:Subcode><s:Value>{fault.subcode}</s:Value></s:Subcode></s:Code>"
        f'<s:Reason><s:Text xml:lang="en-US">{reason}</s:Text></s:Reason>'
        f'<s:Detail>{detail}<f:WSManFault xmlns:f="{FAULT}" Code="{fault.code}"'
        f" Machine={quoteattr(machine)}><f:Message>{reason}</f:Message></f:WSManFault>{wmi}"
        "</s:Detail></s:Fault>",
    )


def _envelope(action: str, relates_to: str, body: str) -> bytes:
    return (
        f'<s:Envelope xml:lang="en-US" xmlns:s="{S}" xmlns:a="{A}" xmlns:x="{X}" xmlns:w="{W}"'
        f' xmlns:rsp="{RSP}" xmlns:p="{P}"><s:Header><a:Action>{action}</a:Action>'
        f"<a:MessageID>uuid:{str(uuid4()).upper()}</a:MessageID>"
        f"<a:To>{A}/role/anonymous</a:To><a:RelatesTo>{escape(relates_to)}</a:RelatesTo>"
        f"</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    ).encode()
