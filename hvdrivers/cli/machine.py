"""Values of ``spawn`` that shape the machine: its size, own disks, NUMA nodes and hardware."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hvdrivers.cli.parse import checked, fields, gib, mib, numbers
from hvdrivers.cli.report import BadUsageError

if TYPE_CHECKING:
    from hvdrivers.models.flavor import Flavor
    from hvdrivers.models.hardware import Hardware
    from hvdrivers.models.numa import NumaNode

_ALIASES = {"fs": "file_system"}
_LARGEST = 65535
"""The largest number of a CPU or a cell that the models take: a range is not longer."""
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


def flavor(value: Mapping[str, Any], *, cpu_policy: str | None) -> Flavor:
    """The flavor that the options for sizes describe, checked before the host is asked.

    Raises:
        BadUsageError: the model refuses a size, or there is no such CPU policy.
    """
    from hvdrivers.models.flavor import CpuPolicy, Flavor

    given = dict(value)
    if cpu_policy is not None:
        given["cpu_policy"] = checked("--cpu-policy", CpuPolicy, cpu_policy)  # type: ignore[arg-type]
    return checked("spawn", Flavor, given, hint="hvdrivers spawn --help")


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
