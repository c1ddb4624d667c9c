"""Where a machine's CPUs and memory are on the host, chosen by the caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from hvdrivers.limits import MOST_MIB
from hvdrivers.models.base import Model

_Number = Annotated[int, Field(ge=0, le=65535)]


class NumaNode(Model):
    """One virtual NUMA node, placed on a cell of the host."""

    cell: _Number
    """``NumaCell.id`` of the host's cell."""
    vcpus: Annotated[frozenset[_Number], Field(min_length=1)]
    """The guest's CPUs in it, from 0."""
    memory_mib: Annotated[int, Field(ge=1, lt=MOST_MIB)]
    """MiB, all of that cell."""
    cpus: Mapping[_Number, _Number] = {}
    """The host CPU of ``NumaCell.cpus`` that each of ``vcpus`` has to itself. Empty: any of the
    cell."""

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(
            self,
            *,
            cell: int,
            vcpus: Iterable[int],
            memory_mib: int,
            cpus: Mapping[int, int] = ...,
        ) -> None: ...

    @model_validator(mode="after")
    def _pins(self) -> Self:
        if self.cpus and set(self.cpus) != set(self.vcpus):
            raise ValueError("cpus names a host CPU for each of vcpus, or for none")
        return self


def check_nodes(nodes: Sequence[NumaNode], *, vcpus: int, memory_mib: int) -> None:
    """Check the nodes of one spec against its flavor.

    Raises:
        ValueError: they are not the whole machine, or two CPUs share one of the host's.
    """
    numbers = sorted(number for node in nodes for number in node.vcpus)
    if numbers != list(range(vcpus)):
        raise ValueError(f"the NUMA nodes have the CPUs {numbers}, and not 0 to {vcpus - 1}")
    memory = sum(node.memory_mib for node in nodes)
    if memory != memory_mib:
        raise ValueError(f"the NUMA nodes have {memory} MiB, and the flavor {memory_mib}")
    pinned = [host for node in nodes for host in node.cpus.values()]
    if len(set(pinned)) != len(pinned):
        raise ValueError("two CPUs share one of the host's")
