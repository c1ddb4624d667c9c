"""Values on the command line that shape a machine: its size, own disks, seed disc, NUMA nodes,
devices and hardware."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvdrivers.cli.parse import checked, fields, gib, kib, mib, named, numbers
from hvdrivers.cli.report import BadUsageError

if TYPE_CHECKING:
    from hvdrivers.models.flavor import Flavor
    from hvdrivers.models.group import ServerGroup
    from hvdrivers.models.hardware import Hardware
    from hvdrivers.models.instance import PciRequest, VgpuRequest
    from hvdrivers.models.numa import NumaNode
    from hvdrivers.models.seed import SeedDisc

_ALIASES = {"fs": "file_system"}
_SEED_ALIASES = {"type": "device_type"}
_LARGEST = 65535
"""The largest number of a CPU or a cell that the models take: a range is not longer."""
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


def flavor(value: Mapping[str, Any], *, cpu_policy: str | None) -> Flavor:
    """The flavor that the options for sizes describe, checked before the host is asked.

    Raises:
        BadUsageError: the model refuses a size, or there is no such CPU policy.
    """
    from hvdrivers.models.flavor import Flavor

    given = dict(value)
    if cpu_policy is not None:
        given["cpu_policy"] = _cpu_policy(cpu_policy)
    return checked("spawn", Flavor, given, hint="hvdrivers spawn --help")


def changes(
    *,
    vcpus: int | None,
    memory: str | None,
    disk: str | None,
    max_vcpus: int | None,
    max_memory: str | None,
    cpu_policy: str | None,
    page_size: str | None,
    numa_nodes: int | None,
) -> dict[str, Any]:
    """The fields of a flavor that the options of ``resize`` and ``move prepare`` change. What is
    optional in the flavor is taken away by 0.

    Raises:
        BadUsageError: a size is no size, or there is no such CPU policy.
    """
    found: dict[str, Any] = {}
    if vcpus is not None:
        found["vcpus"] = vcpus
    if memory is not None:
        found["memory_mib"] = mib("--memory", memory)
    if disk is not None:
        found["disk_gib"] = gib("--disk", disk)
    if max_vcpus is not None:
        found["max_vcpus"] = max_vcpus or None
    if max_memory is not None:
        found["max_memory_mib"] = mib("--max-memory", max_memory) or None
    if cpu_policy is not None:
        found["cpu_policy"] = _cpu_policy(cpu_policy)
    if page_size is not None:
        found["page_size_kib"] = kib("--page-size", page_size) or None
    if numa_nodes is not None:
        found["numa_nodes"] = numa_nodes or None
    return found


def changed(command: str, flavor: Flavor, fields_: dict[str, Any]) -> Flavor:
    """A flavor with other values in these fields.

    Raises:
        BadUsageError: the values do not fit each other. It names the command.
    """
    return checked(
        command, type(flavor), flavor.model_dump() | fields_, hint=f"hvdrivers {command} --help"
    )


def _cpu_policy(text: str) -> Any:
    from hvdrivers.models.flavor import CpuPolicy

    hint = f"it is {' or '.join(CpuPolicy)}"
    return checked("--cpu-policy", CpuPolicy, text, hint=hint)  # type: ignore[arg-type]


def seed_disc(text: str) -> SeedDisc:
    """``FILE[,label=…][,bus=…][,type=cdrom|disk]``, read whole.

    Raises:
        BadUsageError: the file cannot be read or is no seed disc's size, or a field is wrong.
    """
    from pydantic import SecretBytes

    from hvdrivers.models.seed import SeedDisc

    name, value = named("--seed", text, _SEED_ALIASES)
    hint = "write it like disc.iso,label=cidata,bus=sata,type=cdrom"
    for field in ("path", "content"):
        if field in value:
            raise BadUsageError(f"--seed: {field!r} is not among its fields here", hint=hint)
    if not name:
        raise BadUsageError("--seed: no file is named", hint=hint)
    disc = checked("--seed", SeedDisc, {"path": Path(name), **value}, hint=hint)
    try:
        content = disc.read()
    except OSError as error:
        raise BadUsageError(f"--seed: {name}: {error.strerror}", hint=hint) from error
    except ValueError as error:  # also a NUL, or a character that the file system cannot have
        raise BadUsageError(f"--seed: {name!r}: {error}", hint=hint) from None
    return disc.model_copy(update={"path": None, "content": SecretBytes(content)})


def pci_devices(texts: Sequence[str]) -> tuple[PciRequest, ...]:
    """Addresses of PCI devices of the host.

    Raises:
        BadUsageError: it is no PCI address.
    """
    from hvdrivers.models.instance import PciRequest

    hint = "write it like 0000:03:10.1; hvdrivers resources HOST shows the host's devices"
    return tuple(checked("--pci", PciRequest, {"address": each}, hint=hint) for each in texts)


def vgpus(texts: Sequence[str]) -> tuple[VgpuRequest, ...]:
    """``TYPE[,parent=ADDRESS]``: a slice of a GPU.

    Raises:
        BadUsageError: there is no type, or the parent is no PCI address.
    """
    from hvdrivers.models.instance import VgpuRequest

    hint = "write it like nvidia-63,parent=0000:0a:00.0; hvdrivers resources HOST shows the types"
    made = []
    for text in texts:
        kind, value = named("--vgpu", text, {})
        if not kind:
            raise BadUsageError("--vgpu: no type is named", hint=hint)
        if "type" in value:
            raise BadUsageError("--vgpu: the type comes first, without a key", hint=hint)
        made.append(checked("--vgpu", VgpuRequest, {"type": kind, **value}, hint=hint))
    return tuple(made)


def server_group(text: str) -> ServerGroup:
    """``NAME,policy=affinity|anti-affinity|soft-affinity|soft-anti-affinity``.

    Raises:
        BadUsageError: it has no name or no policy, or a policy that there is not.
    """
    from hvdrivers.models.group import ServerGroup, ServerGroupPolicy

    name, value = named("--server-group", text, {})
    hint = f"write it like web,policy=anti-affinity; the policy is {', '.join(ServerGroupPolicy)}"
    if "name" in value:
        raise BadUsageError("--server-group: the name comes first, without a key", hint=hint)
    return checked("--server-group", ServerGroup, {"name": name, **value}, hint=hint)


def hardware(texts: Sequence[str]) -> Hardware:
    """``FIELD=VALUE`` of the model ``Hardware``; a dash in a field's name is an underscore.

    The value of ``cpu_topology`` is a list of its own: ``sockets=2,cores=4``.

    Raises:
        BadUsageError: there is no such field, or it does not take the value, or it is given twice.
    """
    from hvdrivers.models.hardware import Hardware

    wishes: dict[str, Any] = {}
    for text in texts:
        field, equals, value = text.partition("=")
        field = field.replace("-", "_")
        if not equals:
            raise BadUsageError(f"--hardware: {text!r} is not FIELD=VALUE", hint=_hardware_hint())
        if field in wishes:
            raise BadUsageError(
                f"--hardware: {field!r} is given twice",
                hint="--disk, --ephemeral, --volume and --nic give a single disk or NIC its own bus"
                " or model",
            )
        wishes[field] = _topology(value) if field == "cpu_topology" else value
    return checked("--hardware", Hardware, wishes, hint=_hardware_hint())


def _topology(text: str) -> dict[str, int]:
    try:
        return numbers("--hardware", text)
    except BadUsageError as error:
        raise BadUsageError(str(error), hint=_hardware_hint()) from None


def _hardware_hint() -> str:
    from hvdrivers.models.hardware import Hardware

    return (
        f"the fields are {', '.join(Hardware.model_fields)};"
        " write them like video=none, rng=true or cpu_topology=sockets=2,cores=4"
    )


def disks(
    root: str, ephemeral: Sequence[str], swap: str | None
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """What ``--disk``, ``--ephemeral`` and ``--swap`` say of the instance's own disks.

    Each is ``SIZE[,fs=…][,label=…][,bus=…][,kept=ID]``. The sizes are fields of the flavor; the
    other fields are those of ``InstanceSpec.disks``.

    Raises:
        BadUsageError: a size is no size, or a disk has a field that its role has not.
    """
    size, wish = _disk("--disk", "root", root)
    sizes, wishes = {"disk_gib": gib("--disk", size)}, [wish]
    sizes["ephemeral_gib"] = 0
    for text in ephemeral:
        size, wish = _disk("--ephemeral", "ephemeral", text)
        size_gib = gib("--ephemeral", size)
        if not size_gib:
            raise BadUsageError(f"--ephemeral: {text!r} has no size")
        sizes["ephemeral_gib"] += size_gib
        wishes.append(wish | {"size_mib": size_gib << 10})
    if swap is not None:
        size, wish = _disk("--swap", "swap", swap)
        sizes["swap_mib"] = mib("--swap", size)
        wishes.append(wish)
        if not sizes["swap_mib"]:
            raise BadUsageError(f"--swap: {swap!r} has no size")
    # a disk of which nothing is said but its size is the flavor's affair, unless there are several
    several = len(ephemeral) > 1
    return sizes, [
        each
        for each in wishes
        if each.keys() - {"role", "size_mib"} or (several and each["role"] == "ephemeral")
    ]


def _disk(option: str, role: str, text: str) -> tuple[str, dict[str, Any]]:
    """The size, and what else is said of one disk."""
    from hvdrivers.models.disk import OwnDisk

    size, comma, rest = text.partition(",")
    wish = fields(option, rest, _ALIASES) if comma else {}
    for name in ("role", "size_mib"):
        if name in wish:
            raise BadUsageError(f"{option}: {name!r} is not among a disk's fields here")
    wish["role"] = role
    checked(option, OwnDisk, wish)  # here: an error names the option, and not the whole spec
    return size, wish


def numa(texts: Sequence[str]) -> tuple[NumaNode, ...]:
    """``cell=0,vcpus=0-3,memory=2GiB[,cpus=4+6-8]``: one virtual NUMA node on a cell of the host.

    Host CPUs are given in the order of the virtual ones.
    """
    return tuple(_node(text) for text in texts)


def _node(text: str) -> NumaNode:
    from hvdrivers.models.numa import NumaNode

    value = fields("--numa", text, {})
    for name in ("cell", "vcpus", "memory"):
        if not isinstance(value.get(name), str):
            raise BadUsageError(
                f"--numa: {text!r} has no {name}",
                hint="write it like cell=0,vcpus=0-1,memory=2GiB, with cpus=4+6 to pin them",
            )
    value["memory_mib"] = mib("--numa", value.pop("memory"))
    vcpus = value["vcpus"] = sorted(_numbers(value["vcpus"]))
    if "cpus" in value:
        cpus = list(_numbers(value["cpus"]))
        if len(cpus) != len(vcpus) or len(set(vcpus)) != len(vcpus):
            raise BadUsageError(f"--numa: {text!r} names a CPU of the host for each virtual one")
        value["cpus"] = dict(zip(vcpus, cpus, strict=True))
    return checked("--numa", NumaNode, value)


def _numbers(text: object) -> Iterator[int]:
    """``0-3+8``: 0, 1, 2, 3 and 8."""
    for part in str(text).split("+"):
        match = _RANGE.fullmatch(part)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else -1
        if not first <= last <= _LARGEST:
            raise BadUsageError(
                f"--numa: {part!r} is not a CPU or a range of CPUs", hint="write them like 0-3+8"
            )
        yield from range(first, last + 1)
