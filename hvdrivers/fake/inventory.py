"""Everything on a fake host at one moment: the independent observer of a test.

It is read from the host's records and not through any driver, so that it shows what a driver
forgot to remove and what a refused operation changed all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.fake.records import Machine, Pool

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost


@dataclass(frozen=True, order=True)
class Item:
    """One thing on the host."""

    kind: str
    """``machine``, ``disk``, ``nvram``, ``tpm``, ``secret``, ``port``, ``device``, ``lock`` (on a
    volume), ``volume``, ``snapshot``, ``checkpoint``, ``share``, ``incoming`` (a migration),
    ``image`` (in the cache) or ``upload`` (half an image)."""
    id: str
    owner: UUID | None = field(default=None, compare=False)
    """The instance that it belongs to."""
    detail: str = ""
    """Everything else about it, except secrets."""

    def __str__(self) -> str:
        return f"{self.kind} {self.id}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Inventory:
    """All things on a host. Two inventories are equal if nothing differs."""

    items: frozenset[Item]

    def of(self, uuid: UUID) -> frozenset[Item]:
        """What belongs to one instance; empty after destroy()."""
        return frozenset(item for item in self.items if item.owner == uuid)

    def kind(self, kind: str) -> frozenset[Item]:
        """All of one kind."""
        return frozenset(item for item in self.items if item.kind == kind)

    def without_cache(self) -> Inventory:
        """All but the cached images, which stay when what was made from them has gone."""
        return Inventory(frozenset(item for item in self.items if item.kind != "image"))

    def difference(self, before: Inventory) -> list[str]:
        """What came (``+``) and went (``-``) since ``before``; a thing that changed is in both."""
        came = [f"+ {item}" for item in sorted(self.items - before.items)]
        return [f"- {item}" for item in sorted(before.items - self.items)] + came


def take_inventory(host: FakeHost) -> Inventory:
    """Read it all. The caller holds the world's lock."""
    items: list[Item] = []
    for machine in host.machines.values():
        items += _of_machine(machine)
    for pool in host.pools.values():
        items += _of_pool(pool)
    for volume in host.volumes():
        items += [
            Item("lock", f"{volume.volume_id} by {owner}", owner)
            for (name, owner) in volume.locks
            if name == host.name
        ]
    items += [
        Item("port", f"{port.vif.id} of {port.owner}", port.owner, f"{port.vif!r} {port.plugged}")
        for port in host.ports.values()
    ]
    items += [Item("nvram", str(owner), owner) for owner in host.nvram]
    items += [Item("tpm", str(owner), owner) for owner in host.tpm]
    items += [Item("secret", name, secret.owner) for name, secret in host.secrets.items()]
    items += [
        Item("device", f"{claim.address} of {claim.owner}", claim.owner, f"{number} {claim.slice}")
        for number, claim in enumerate(host.claims)
    ]
    items += [
        Item("group", name, None, f"{group.policy} {sorted(map(str, group.members))}")
        for name, group in host.groups.items()
    ]
    items += [Item("incoming", str(uuid), uuid) for uuid in host.incoming]
    return Inventory(frozenset(items))


def _of_machine(machine: Machine) -> Iterator[Item]:
    uuid = machine.uuid
    volumes = {
        name: (disk.device, disk.seen_bytes, disk.qos, disk.attachment.read_only)
        for name, disk in machine.volumes.items()
    }
    shown = {
        "name": machine.name,
        "state": machine.state.value,
        "flavor": machine.flavor,
        "metadata": machine.metadata,
        "ours": machine.ours,
        "firmware": machine.firmware.value,
        "image": machine.image_key,
        "volumes": volumes,
        "current": machine.current_snapshot,
        "boots": machine.boots,
        "frozen": machine.frozen,
        "users": sorted(machine.passwords),
    }
    yield Item("machine", str(uuid), uuid, repr(shown))
    for snapshot in machine.snapshots.values():
        yield Item("snapshot", f"{snapshot.id} of {uuid}", uuid, repr(snapshot))
    for backup in machine.backups.values():
        yield Item("checkpoint", f"{backup.id} of {uuid}", uuid, repr(backup))
    for share in machine.shares.values():
        yield Item("share", f"{share.tag} of {uuid}", uuid, repr(share))


def _of_pool(pool: Pool) -> Iterator[Item]:
    for disk in pool.disks.values():
        detail = f"{disk.size_bytes} {disk.content} {disk.base}"
        yield Item("disk", f"{pool.name}: {disk.name}", disk.owner, detail)
    for volume in pool.volumes.values():
        yield Item("volume", volume.volume_id, None, f"{volume.size_bytes} {volume.content}")
    for image in pool.images.values():
        yield Item("image", f"{pool.name}: {image.key}", None, str(image.size_bytes))
    for name in pool.uploads:
        yield Item("upload", f"{pool.name}: {name}")
