"""Virtual NUMA nodes of a machine, CPUs and memory split evenly. No call is made here.

Since vSphere 8.0 the request names the CPUs of a node (``VirtualMachineVirtualNuma``). Before, the
machine's advanced options do ("Virtual NUMA Controls"): so many CPUs make a node, also where the
machine has few, and nothing sizes the nodes again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor

_SINCE = (8, 0, 0, 1)
_AUTOMATIC = 0


def check_nodes(flavor: Flavor) -> None:
    """Refuse nodes beside CPUs or memory that are added later: those would be in no even node.

    Raises:
        NotSupported: the flavor has both.
    """
    added = flavor.max_vcpus is not None or flavor.max_memory_mib is not None
    if flavor.numa_nodes is not None and added:
        raise errors.NotSupported(
            "vSphere does not keep NUMA nodes even while CPUs or memory are added",
            hint="leave out numa_nodes, or max_vcpus and max_memory_mib",
        )


def fit_nodes(config: Any, flavor: Flavor, api: str, before: Flavor | None = None) -> None:
    """Give a machine the nodes of its flavor.

    Args:
        api: the version of the server's API.
        before: the flavor that it has now; None: it is new.
    """
    had = before is not None and before.numa_nodes is not None
    if flavor.numa_nodes is None and not had:
        return
    cpus = flavor.vcpus // flavor.numa_nodes if flavor.numa_nodes else _AUTOMATIC
    if _version(api) >= _SINCE:
        config.virtualNuma = vim.vm.VirtualNuma(coresPerNumaNode=cpus)
        return
    config.extraConfig = [
        *(config.extraConfig or ()),
        *(
            vim.option.OptionValue(key=key, value=value)
            for key, value in _options(flavor, cpus).items()
        ),
    ]


def _options(flavor: Flavor, cpus: int) -> Mapping[str, str]:
    """An empty value takes an option away."""
    given = flavor.numa_nodes is not None
    return {
        "numa.vcpu.maxPerVirtualNode": str(cpus) if given else "",
        "numa.vcpu.min": "1" if given else "",
        "numa.autosize": "FALSE" if given else "",
    }


def _version(api: str) -> tuple[int, ...]:
    return tuple(int(part) for part in api.split(".") if part.isdigit())
