"""The two messages that carry a process's input and output: Send and Receive.

pywinrm builds each message anew from a tree, and that takes longer than all else that a request
costs on this side. These two are one text each, of which little changes from message to message.
Everything that happens once for a process is left to pywinrm.
"""

from __future__ import annotations

import base64
from typing import Any, Final
from uuid import uuid4
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

_ADDRESSING: Final = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
_SHELL: Final = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
_MAX_ENVELOPE: Final = 153600
"""Bytes of the largest answer that is taken: pywinrm asks for as many."""
_ENVELOPE: Final = (
    '<?xml version="1.0" encoding="utf-8"?>\n'
    '<env:Envelope xmlns:env="http://www.w3.org/2003/05/soap-envelope"'
    f' xmlns:a="{_ADDRESSING}" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"'
    ' xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"'
    f' xmlns:rsp="{_SHELL}"><env:Header><a:To>http://windows-host:5985/wsman</a:To>'
    f'<a:ReplyTo><a:Address mustUnderstand="true">{_ADDRESSING}/role/anonymous</a:Address>'
    f'</a:ReplyTo><w:MaxEnvelopeSize mustUnderstand="true">{_MAX_ENVELOPE}</w:MaxEnvelopeSize>'
    "<a:MessageID>uuid:%s</a:MessageID>"
    '<w:Locale mustUnderstand="false" xml:lang="en-US"></w:Locale>'
    '<p:DataLocale mustUnderstand="false" xml:lang="en-US"></p:DataLocale>'
    "<w:OperationTimeout>PT%dS</w:OperationTimeout>"
    f'<w:ResourceURI mustUnderstand="true">{_SHELL}/cmd</w:ResourceURI>'
    f'<a:Action mustUnderstand="true">{_SHELL}/%s</a:Action>'
    '<w:SelectorSet><w:Selector Name="ShellId">%s</w:Selector></w:SelectorSet>'
    "</env:Header><env:Body>%s</env:Body></env:Envelope>"
)


class Messages:
    """The messages of one process."""

    def __init__(self, shell: str, command: str) -> None:
        self._shell = escape(shell)
        self._command = quoteattr(command)

    def _message(self, protocol: Any, action: str, body: str) -> str:
        timeout = int(protocol.operation_timeout_sec)
        return _ENVELOPE % (uuid4(), timeout, action, self._shell, body)

    def send(self, protocol: Any, data: bytes) -> None:
        """Write to standard input."""
        body = (
            f'<rsp:Send><rsp:Stream CommandId={self._command} Name="stdin" End="false">'
            f"{base64.b64encode(data).decode()}</rsp:Stream></rsp:Send>"
        )
        protocol.send_message(self._message(protocol, "Send", body))

    def receive(self, protocol: Any) -> tuple[bytes, bytes, bool]:
        """What comes next on standard output and error, and whether the process has ended."""
        body = (
            f"<rsp:Receive><rsp:DesiredStream CommandId={self._command}>stdout stderr"
            "</rsp:DesiredStream></rsp:Receive>"
        )
        answer = protocol.send_message(self._message(protocol, "Receive", body))
        found = {"stdout": b"", "stderr": b""}
        root = ElementTree.fromstring(answer)  # noqa: S314 - the host is trusted with more
        for stream in root.iter(f"{{{_SHELL}}}Stream"):
            if stream.text:
                found[stream.attrib["Name"]] += base64.b64decode(stream.text)
        states = [each.get("State", "") for each in root.iter(f"{{{_SHELL}}}CommandState")]
        done = any(state.endswith("/Done") for state in states)
        return found["stdout"], found["stderr"], done
