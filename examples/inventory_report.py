"""What some hosts have, and what runs on them.

    python examples/inventory_report.py [HOST ...]

A host that cannot be reached is reported as such and does not stop the rest.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from hvdrivers import ComputeDriver, HypervisorError, connect


def report(driver: ComputeDriver) -> Iterator[str]:
    """The lines about one host: four calls, however many instances it has."""
    resources = driver.get_available_resource()
    host, cpu, memory = resources.host, resources.cpu, resources.memory
    yield f"{host.product} {host.product_version}, {host.architecture}"
    yield f"  CPU      {cpu.used} virtual CPUs in use, {cpu.total} hardware threads"
    yield f"  memory   {memory.used_mib} of {memory.total_mib} MiB in use"
    for pool in resources.storage:
        yield f"  storage  {pool.name}: {pool.used_gib:.1f} of {pool.total_gib:.1f} GiB in use"
    states = Counter(instance.state.value for instance in driver.list_instances())
    for state, count in sorted(states.items()):
        yield f"  {count} {state}"
    foreign = len(driver.list_foreign())
    if foreign:
        yield f"  {foreign} machines of others"


def report_host(target: str) -> list[str]:
    """The lines about a host by name or URL, or why there are none."""
    try:
        with connect(target) as driver:
            return list(report(driver))
    except HypervisorError as error:
        lines = [f"{target}: {error.message}"]
        return [*lines, f"  {error.hint}"] if error.hint else lines


def main(targets: Sequence[str]) -> None:
    """Ask all hosts at the same time, print in the order given."""
    with ThreadPoolExecutor(max_workers=16) as threads:
        for lines in threads.map(report_host, targets):
            print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:] or ["fake"])
