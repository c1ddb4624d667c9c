"""The driver's own messages are those of pywinrm, and their answers are read as it reads them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import pytest

from hvdrivers.hyperv.envelopes import Messages
from hvdrivers.hyperv.simulator import wsman_soap as soap

SHELL, COMMAND = "5D1C0A8E-0000-4000-8000-00000000000A", "COMMAND <&> 1"


class Wire:
    """A protocol of pywinrm whose messages go nowhere."""

    def __init__(self, *answers: bytes) -> None:
        self.sent: list[str] = []
        self.answers = list(answers)
        reason = "precondition missing: pip install '.[hyperv]'"
        winrm = pytest.importorskip("winrm", reason=reason)
        self.protocol = winrm.Protocol("http://host:5985/wsman", "basic", "user", "secret")
        self.protocol.operation_timeout_sec = 7
        self.protocol.send_message = self._send

    def _send(self, message: str) -> bytes:
        self.sent.append(message)
        return self.answers.pop(0)


def answer(*streams: tuple[str, bytes], done: bool) -> bytes:
    parts = [
        f'<rsp:Stream Name="{name}" CommandId="1">{base64.b64encode(data).decode()}</rsp:Stream>'
        for name, data in streams
    ]
    state = f"{soap.RSP}/CommandState/{'Done' if done else 'Running'}"
    code = "<rsp:ExitCode>3</rsp:ExitCode>" if done else ""
    parts += [
        '<rsp:Stream Name="stdout" CommandId="1" End="true"></rsp:Stream>',
        f'<rsp:CommandState CommandId="1" State="{state}">{code}</rsp:CommandState>',
    ]
    body = f"<rsp:ReceiveResponse>{''.join(parts)}</rsp:ReceiveResponse>"
    return soap.reply("ReceiveResponse", "uuid:1", body)


def parts(message: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """All that it says, but for the number that each message has of its own."""
    for element in ElementTree.fromstring(message.encode()).iter():
        text = element.text or ""
        if element.tag.endswith("}MessageID"):
            assert UUID(text.removeprefix("uuid:"))
            text = ""
        yield element.tag, dict(element.attrib), text.strip()


def test_send_is_that_of_pywinrm() -> None:
    wire, data = Wire(b"<a/>", b"<a/>"), bytes(range(256))
    wire.protocol.send_command_input(SHELL, COMMAND, data)
    Messages(SHELL, COMMAND).send(wire.protocol, data)
    theirs, ours = (list(parts(each)) for each in wire.sent)
    assert ours == theirs


def test_receive_is_that_of_pywinrm() -> None:
    wire = Wire(*[answer(done=False)] * 2)
    wire.protocol.get_command_output_raw(SHELL, COMMAND)
    Messages(SHELL, COMMAND).receive(wire.protocol)
    theirs, ours = (list(parts(each)) for each in wire.sent)
    assert ours == theirs


@pytest.mark.parametrize(
    "make",
    [
        lambda: answer(done=False),
        lambda: answer(("stdout", b"a\r\n"), ("stderr", b"bad"), ("stdout", b"b"), done=False),
        lambda: answer(("stdout", b"end"), done=True),
    ],
    ids=["nothing", "some", "the end"],
)
def test_answers_are_read_as_by_pywinrm(make: Callable[[], Any]) -> None:
    wire = Wire(*[make()] * 2)
    out, err, _, done = wire.protocol.get_command_output_raw(SHELL, COMMAND)
    assert Messages(SHELL, COMMAND).receive(wire.protocol) == (out, err, done)


def test_no_two_messages_have_one_number() -> None:
    wire = Wire(*[b"<a/>"] * 2)
    for _ in range(2):
        Messages(SHELL, COMMAND).send(wire.protocol, b"")
    first, second = wire.sent
    assert first != second
