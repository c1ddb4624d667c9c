"""Looks at a libvirt host past the driver under test: with virsh, in /proc, in the folders."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.peers.libvirtd import LibvirtPeer

_LISTS = {
    "domain": "list --all --uuid --name",
    "pool": "pool-list --all --name",
    "secret": "secret-list",
    "network": "net-list --all --uuid --name",
    "interface filter": "nwfilter-binding-list",
}
# Written by the daemon for itself, or kept by it on purpose after a machine has gone.
NOBODYS = "tap of nobody's: "
_OWN_FILES = re.compile(
    r"^(cache|log|empty|swtpm)/"
    r"|^etc/(libvirtd|qemu|virtlogd)\.conf$|^etc/nwfilter/"
    r"|^etc/(storage|qemu/networks)/"  # pools and networks are listed by name
    r"|^run/(libvirt-|virtlogd-|libvirtd\.pid|virtlogd\.pid|driver\.pid)"
    r"|^run/(\w+/)?driver\.pid$|^run/(storage|network|nwfilter-binding|hostdevmgr)/"
    r"|^run/(interface|nodedev|nwfilter|secrets|common)/"
    r"|^run/qemu/autostarted$"
    r"|^lib/dnsmasq/"
)


class VirshError(Exception):
    """virsh failed; the message is its own."""


def virsh(uri: str, *arguments: str, timeout: float, env: dict[str, str]) -> str:
    done = subprocess.run(
        ["virsh", "-q", "-c", uri, *arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout,
        check=False,
        env=env,
    )
    if done.returncode:
        raise VirshError((done.stderr or done.stdout).strip())
    return done.stdout.strip()


def _table(peer: LibvirtPeer, commands: dict[str, str]) -> set[str]:
    """Run all commands in one virsh; each line of each answer, behind its title."""
    if not commands:
        return set()
    # "echo" prints no end of line in quiet mode
    script = "; ".join(f"echo '@@{title}@@'; {command}" for title, command in commands.items())
    parts = re.split("@@([^@]*)@@", peer.virsh(script))[1:]
    found = set()
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        lines = (" ".join(line.split()) for line in text.splitlines())
        found |= {f"{title} {line}" for line in lines if line}
    return found


def residue(peer: LibvirtPeer) -> set[str]:
    found = _table(peer, _LISTS)
    pools = [line.split(" ", 1)[1] for line in found if line.startswith("pool ")]
    networks = [line.split(" ")[1] for line in found if line.startswith("network ")]
    active = set(peer.virsh("pool-list", "--name").split())
    found |= _table(
        peer,
        {f"volume of {pool}:": f"vol-list '{pool}'" for pool in pools if pool in active}
        | {f"port of {network}:": f"net-port-list {network} --uuid" for network in networks},
    )
    return found | _files(peer) | _processes(peer) | _taps(peer)


def changed(before: set[str], after: set[str]) -> list[str]:
    """What two looks tell apart. A tap of nobody's that has gone is no change: every host on this
    machine sees one whose machine, on another host, is just about to start or has just ended."""
    gone = sorted(f"lost: {each}" for each in before - after if not each.startswith(NOBODYS))
    return gone + sorted(f"left: {each}" for each in after - before)


def _files(peer: LibvirtPeer) -> set[str]:
    names = ("etc", "lib", "run") if peer.privileged else ("etc", "run", "images")
    found = set()
    for name in names:
        folder = peer.folder(name)
        for path in folder.rglob("*"):
            relative = f"{name}/{path.relative_to(folder)}"
            try:
                is_folder = stat.S_ISDIR(path.lstat().st_mode)
            except FileNotFoundError:
                continue  # the daemon is at work
            if not is_folder and not _OWN_FILES.search(relative):
                found.add(f"file {relative}")
    return found


def _processes(peer: LibvirtPeer) -> set[str]:
    found = set()
    for pid, command in peer.processes().items():
        name = Path(command[0]).name
        if name.startswith("qemu-system"):
            guest = command[command.index("-uuid") + 1] if "-uuid" in command else pid
            found.add(f"process {name} {guest}")
        elif name.startswith(("swtpm", "qemu-nbd", "passt", "dnsmasq", "virtiofsd")):
            found.add(f"process {name} {pid}")
    return found


def _taps(peer: LibvirtPeer) -> set[str]:
    """Tap devices that a process of this host holds, and those that nobody holds any more."""
    first = _taps_once(peer)
    # another host's tap may have been made between two looks; nobody's stays nobody's
    return first & _taps_once(peer) if first else first


def _taps_once(peer: LibvirtPeer) -> set[str]:
    owners: dict[str, int] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            for tap in _taps_held(process):
                owners[tap] = int(process.name)
    mine = peer.processes()
    found = set()
    for device in Path("/sys/class/net").iterdir():
        if (device / "tun_flags").exists() and device.name.startswith(("vnet", "tap")):
            owner = owners.get(device.name)
            if owner is None or owner in mine:
                found.add(f"tap {device.name}" if owner else f"{NOBODYS}{device.name}")
        elif device.name.startswith(("macvtap", "macvlan")):
            found.add(f"macvtap {device.name}")
    return found


def _taps_held(process: Path) -> list[str]:
    found = []
    try:
        for descriptor in (process / "fd").iterdir():
            if os.readlink(descriptor) == "/dev/net/tun":
                information = (process / "fdinfo" / descriptor.name).read_text()
                found += re.findall(r"^iff:\s+(\S+)$", information, re.MULTILINE)
    except OSError:  # it has ended, or is somebody else's
        pass
    return found
