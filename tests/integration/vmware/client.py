"""One client of a server, in a process of its own: it stops in the middle of an operation.

A line of JSON says what to do; the client answers ``ready`` when it is connected, and begins at the
next line. Before the named call it says ``at CALL`` and waits for a line. At its end it says
``done``, or the name of the error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.errors import HypervisorError
from hvdrivers.guard import guarded
from hvdrivers.models.host import HostPowerAction
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.migration import Destination
from hvdrivers.models.volume import VolumeAttachment
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.driver import VmwareDriver

Argument = Any
OPERATIONS: dict[str, tuple[type, ...]] = {
    "spawn": (InstanceSpec,),
    "attach_volume": (UUID, VolumeAttachment),
    "detach_volume": (UUID, str),
    "create_snapshot": (UUID, str),
    "revert_snapshot": (UUID, str),
    "live_migrate": (UUID, Destination),
    "migrate_storage": (UUID, str),
    "adopt": (UUID,),
    "enter_maintenance": (),
    "host_power": (HostPowerAction,),
    "destroy": (UUID,),
}
"""What a client does, and the types of the arguments."""


def main() -> None:
    """The process."""
    given = json.loads(sys.stdin.readline())
    driver = VmwareDriver.connect(VmwareConfig(**given["options"]))
    kinds = OPERATIONS[given["operation"]]
    arguments = [
        TypeAdapter(kind).validate_python(value, strict=False)
        for kind, value in zip(kinds, given["arguments"], strict=True)
    ]
    stops = [given["stops"]]

    def layer(name: str, send: Callable[[], Any]) -> Any:
        if name in stops:
            stops.clear()
            print(f"at {name}", flush=True)
            sys.stdin.readline()
        return send()

    client: ComputeDriver = guarded(driver)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        with driver.session.seam.through(layer):
            getattr(client, given["operation"])(*arguments)
        print("done", flush=True)
    except HypervisorError as error:
        print(type(error).__name__, flush=True)
    client.close()


class Client:
    """The other side of it: a client that has stopped before a call."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def hears(self) -> str:
        """The next line that the client says."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go(self) -> str:
        """Let it go on, and hear what it says next."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.hears()

    def die(self) -> None:
        """End it at once, as a crash does."""
        self._process.kill()
        self._process.wait(timeout=30)


@contextmanager
def stopped(
    options: dict[str, Any], operation: str, *arguments: Argument, before: str
) -> Iterator[Client]:
    """A client that has begun an operation and stands before a call of it."""
    given = {
        "options": options,
        "operation": operation,
        "arguments": [each if isinstance(each, dict) else str(each) for each in arguments],
        "stops": before,
    }
    command = [sys.executable, "-m", "tests.integration.vmware.client"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        client = Client(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(given) + "\n")
        process.stdin.flush()
        try:
            assert client.hears() == "ready"
            assert client.go() == f"at {before}"
            yield client
        finally:
            client.die()


if __name__ == "__main__":
    main()
