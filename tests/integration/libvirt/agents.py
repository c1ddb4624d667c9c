"""Guests with an agent: QEMU's own, and one that the test plays itself."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.vif import BridgeVif
from tests.integration.libvirt.machines import BOOT, Host, Machine
from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until

MAC = "52:54:00:00:ae:01"
NAME = "org.qemu.guest_agent.0"

# In the guest, before another speaks in its place: its port opens for one program at a time, and a
# shell whose `exec` cannot open a file ends. killall's status counts the names it has not found.
END_AGENT = "killall hv-agent; while killall qemu-ga; do sleep 1; done"


@pytest.fixture(scope="module")
def agent_host(libvirt_peer: LibvirtPeer, agent_image: Path) -> Iterator[Host]:
    """The shared host, with one driver; its guests have QEMU's agent."""
    made = Host(libvirt_peer, agent_image)
    yield made
    made.close()


@pytest.fixture(scope="module")
def agent_machine(agent_host: Host, linux_bridge: LinuxBridge) -> Iterator[Machine]:
    """A guest whose agent answers, for the tests of a module."""
    # its tap's name comes from its id, and modules that run at once share the host's network
    nic = BridgeVif(id=f"nic-{token_hex(4)}", address=MAC, bridge=linux_bridge.name)
    with agent_host.machine(name="agent", vifs=(nic,)) as made:
        made.booted()
        wait_until(lambda: answers(made), timeout=BOOT, what="the agent answers")
        yield made


def answers(machine: Machine) -> bool:
    """Whether an agent answers."""
    try:
        machine.host.driver.thaw(machine.uuid)
    except (errors.GuestAgentUnavailable, errors.OutcomeUnknown):
        return False
    return True


# ---- one that the test plays ---------------------------------------------------------------------


def returned(value: object) -> bytes:
    """An answer as an agent gives it."""
    return json.dumps({"return": value}).encode() + b"\n"


def refused(words: str, kind: str = "GenericError") -> bytes:
    """An agent's no."""
    return json.dumps({"error": {"class": kind, "desc": words}}).encode() + b"\n"


Answer = bytes | Callable[[dict[str, object]], bytes | None] | None


class PlayedAgent:
    """An agent whose every byte is the test's: libvirtd and QEMU both connect to its socket. The
    guest's own agent says that there is one, and what it says goes nowhere.

    Attributes:
        say: answers by command; None is silence. What is not in it is answered well.
        asked: the commands that have come, oldest first.
    """

    def __init__(self, path: Path, daemon: int) -> None:
        self.say: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.frozen = False
        self.connections = 0
        self._daemon = daemon
        self._libvirt: socket.socket | None = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        path.chmod(0o666)
        self._server.listen()
        self._open = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def be_well(self) -> None:
        """Answer everything well from now on; nothing is frozen."""
        self.say, self.frozen = {}, False
        self.asked.clear()

    def cut(self) -> None:
        """The channel ends, as it does with QEMU."""
        assert self._libvirt is not None
        self._libvirt.shutdown(socket.SHUT_RDWR)

    def push(self, what: bytes) -> None:
        """Say what nobody has asked for."""
        assert self._libvirt is not None
        self._libvirt.sendall(what)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                one, _ = self._server.accept()
                self._open.append(one)
                raw = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                is_libvirt = struct.unpack("3i", raw)[0] == self._daemon
                if is_libvirt:
                    self._libvirt, self.connections = one, self.connections + 1
                serve = self._serve if is_libvirt else self._ignore
                threading.Thread(target=serve, args=(one,), daemon=True).start()

    @staticmethod
    def _ignore(qemu: socket.socket) -> None:
        with suppress(OSError):
            while qemu.recv(65536):
                pass

    def _serve(self, one: socket.socket) -> None:
        with suppress(OSError), one.makefile("rb") as lines:
            for line in lines:
                question = json.loads(line.lstrip(b"\xff"))
                if answer := self._answer(question):
                    one.sendall(answer)

    def _answer(self, question: dict[str, object]) -> bytes | None:
        command = str(question["execute"])
        self.asked.append(command)
        if command in self.say:
            answer = self.say[command]
            return answer(question) if callable(answer) else answer
        return self.well(question)

    def well(self, question: dict[str, object]) -> bytes:
        """The right answer."""
        arguments = question.get("arguments")
        match question["execute"]:
            case "guest-sync":
                assert isinstance(arguments, dict)
                return returned(arguments["id"])
            case "guest-fsfreeze-freeze":
                self.frozen = True
                return returned(1)
            case "guest-fsfreeze-thaw":
                self.frozen = False
                return returned(1)
            case "guest-fsfreeze-status":
                return returned("frozen" if self.frozen else "thawed")
            case "guest-exec":
                return returned({"pid": 7})
            case "guest-exec-status":
                return returned({"exited": True, "exitcode": 0, "out-data": "b2s="})
            case "guest-network-get-interfaces":
                ip = {"ip-address": "10.9.8.7", "ip-address-type": "ipv4", "prefix": 24}
                return returned([{"name": "eth0", "hardware-address": MAC, "ip-addresses": [ip]}])
        return returned({})


@contextmanager
def played_agent(host: Host, bridge: LinuxBridge) -> Iterator[tuple[Machine, PlayedAgent]]:
    """A guest whose agent the test plays."""
    nic = BridgeVif(id=f"nic-{token_hex(4)}", address=MAC, bridge=bridge.name)
    with host.machine(name="played", vifs=(nic,), start=False) as made:
        path = f"{host.peer.images}/agent-{token_hex(4)}"
        agent = PlayedAgent(host.peer.path(path), host.peer.daemon_pid)
        try:
            definition = made.xml(inactive=True, secure=True)
            channel = next(
                each
                for each in definition.iterfind("devices/channel")
                if each.find(f"target[@name='{NAME}']") is not None
            )
            for source in channel.findall("source"):
                channel.remove(source)
            ET.SubElement(channel, "source", mode="connect", path=path)
            edited = host.peer.root / f"{made.uuid}.xml"
            edited.write_text(ET.tostring(definition, encoding="unicode"))
            host.peer.virsh("define", str(edited))
            edited.unlink()
            host.driver.power_on(made.uuid)
            made.booted()
            wait_until(lambda: answers(made), timeout=BOOT, what="the played agent answers")
            yield made, agent
        finally:
            agent.close()
            with suppress(OSError):
                os.unlink(host.peer.path(path))
