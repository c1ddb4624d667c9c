"""OVN on one chassis: both databases, ovn-northd and an ovn-controller, in a folder of their own.

The chassis has a name of its own, and its settings in Open vSwitch name it
(``external_ids:ovn-remote-CHASSIS``): so several of these peers share the machine's Open vSwitch.
Tunnels would be Geneve over loopback; with one chassis there is none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.peers.janitor import Janitor
from tests.peers.openvswitch import OvsBridge, vsctl
from tests.peers.precondition import PreconditionMissing
from tests.peers.waiting import wait_until

if TYPE_CHECKING:
    from types import TracebackType
    from uuid import UUID

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_SCHEMAS = Path("/usr/share/ovn")
_PROGRAMS = {
    "ovn-northd": "ovn-central",
    "ovn-nbctl": "ovn-common",
    "ovn-sbctl": "ovn-common",
    "ovn-controller": "ovn-host",
}
_NETWORK = "192.0.2"  # TEST-NET-1: seen by nobody but the guests
_SERVER_MAC = "02:00:00:00:00:fe"


class Ovn:
    """One logical switch with DHCP, and the integration bridge of the chassis that serves it.

    A context manager.

    Attributes:
        bridge: the integration bridge, an `OvsBridge`.
        switch: name of the logical switch.
        chassis: name of the chassis.
    """

    def __init__(self) -> None:
        for program, package in _PROGRAMS.items():
            if shutil.which(program, path=_PATH) is None:
                raise PreconditionMissing(f"{program} (package {package}; run `make setup`)")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._next = 10
        with contextlib.ExitStack() as made:
            self.bridge = made.enter_context(OvsBridge(dhcp=False))
            self.chassis = f"{self.bridge.name}-chassis"
            self.switch = "switch-1"
            self.root = Path(tempfile.mkdtemp(prefix="hvovn-", dir="/tmp"))
            self._janitor = Janitor(self.root)
            made.callback(self._end)
            self._start()
            self._options = self._make_switch()
            self._made = made.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the daemons and remove the bridge. Idempotent."""
        self._made.close()

    def _end(self) -> None:
        self._janitor.finish()
        for process in self._processes:
            process.wait(30)

    # -- what a network's control plane does --------------------------------------------------

    def nbctl(self, *arguments: str) -> str:
        """What ``ovn-nbctl`` prints."""
        return self._ctl("ovn-nbctl", "nb", *arguments)

    def sbctl(self, *arguments: str) -> str:
        """What ``ovn-sbctl`` prints."""
        return self._ctl("ovn-sbctl", "sb", *arguments)

    def add_port(self, name: UUID, mac: str, *, security: bool = True) -> str:
        """A logical switch port; the address that DHCP gives to ``mac`` on it.

        Args:
            security: the port takes packets of this MAC address and this address alone.
        """
        address = f"{_NETWORK}.{self._next}"
        self._next += 1
        port = str(name)
        self.nbctl(
            *("lsp-add", self.switch, port, "--", "lsp-set-addresses", port, f"{mac} {address}"),
            *("--", "lsp-set-dhcpv4-options", port, self._options),
        )
        if security:
            self.nbctl("lsp-set-port-security", port, f"{mac} {address}")
        return address

    def delete_port(self, name: UUID) -> None:
        self.nbctl("--if-exists", "lsp-del", str(name))

    def is_up(self, name: UUID) -> bool:
        """The column ``up`` of a logical switch port."""
        return self.nbctl("get", "Logical_Switch_Port", str(name), "up") == "true"

    def wait_up(self, name: UUID, up: bool = True) -> None:
        wait_until(
            lambda: self.is_up(name) is up,
            timeout=60,
            what=f"port {name} is {'' if up else 'not '}up",
        )

    def bound_to(self, name: UUID) -> str:
        """Name of the chassis that has the port, or nothing."""
        where = f"logical_port={name}"
        chassis = self.sbctl("--bare", "--columns=chassis", "find", "Port_Binding", where)
        return self.sbctl("get", "Chassis", chassis, "name").strip('"') if chassis else ""

    # -- how it starts ------------------------------------------------------------------------

    def _ctl(self, program: str, database: str, *arguments: str) -> str:
        done = subprocess.run(
            [program, f"--db=unix:{self.root}/{database}.sock", "--timeout=30", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": _PATH},
        )
        if done.returncode:
            raise OSError(f"{program}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _start(self) -> None:
        root = self.root
        for name in ("nb", "sb"):
            database = root / f"{name}.db"
            schema = _SCHEMAS / f"ovn-{name}.ovsschema"
            subprocess.run(["ovsdb-tool", "create", database, schema], check=True)
            self._daemon(
                f"ovsdb-{name}",
                *("ovsdb-server", str(database), f"--remote=punix:{root}/{name}.sock"),
                f"--unixctl={root}/{name}.ctl",
            )
        for name in ("nb", "sb"):
            socket = root / f"{name}.sock"
            wait_until(socket.exists, timeout=30, what=f"the database {name} listens")
        databases = [f"--ovn{name}-db=unix:{root}/{name}.sock" for name in ("nb", "sb")]
        self._daemon("northd", "ovn-northd", *databases)
        settings = {
            "ovn-remote": f"unix:{root}/sb.sock",
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": "127.0.0.1",
            "ovn-bridge": self.bridge.name,
            "ovn-bridge-datapath-type": "netdev",
        }
        keys = [f"{name}-{self.chassis}" for name in settings]
        added = [("external_ids", key) for key in keys]
        added += [("other_config", f"ovn-chassis-idx-{self.chassis}")]  # ovn-controller's own
        for column, key in added:
            self._janitor.run_at_end(
                "ovs-vsctl", "--timeout=10", "remove", "open", ".", column, key
            )
        values = zip(keys, settings.values(), strict=True)
        vsctl("set", "open", ".", *(f'external_ids:{key}="{value}"' for key, value in values))
        self._daemon(
            "controller", "ovn-controller", "-n", self.chassis, "unix:/var/run/openvswitch/db.sock"
        )
        wait_until(
            lambda: self.chassis in self.sbctl("--bare", "--columns=name", "list", "Chassis"),
            timeout=60,
            what="ovn-controller registers its chassis",
        )

    def _daemon(self, name: str, *command: str) -> None:
        """The janitor finds it by the folder, which its command line names."""
        process = subprocess.Popen(
            [
                *command,
                *(f"--pidfile={self.root}/{name}.pid", f"--log-file={self.root}/{name}.log"),
                "-vconsole:off",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # control sockets: ovn-controller takes no path for its own
            env={**os.environ, "PATH": _PATH, "OVN_RUNDIR": str(self.root)},
            start_new_session=True,
        )
        self._processes.append(process)

    def _make_switch(self) -> str:
        """The UUID of its DHCP options."""
        self.nbctl("ls-add", self.switch)
        return self.nbctl(
            *("create", "DHCP_Options", f"cidr={_NETWORK}.0/24"),
            f"options:server_id={_NETWORK}.1",
            f'options:server_mac="{_SERVER_MAC}"',
            "options:lease_time=3600",
        )
