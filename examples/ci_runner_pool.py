"""A pool of CI runners: spawn some, wait until each has done its job and gone down, destroy them.

    python examples/ci_runner_pool.py [HOST] [NUMBER] [IMAGE]

A runner's image runs its job when it boots and then powers the machine off. HOST is anything that
``connect()`` takes; the default is a fake host whose guests do just that. IMAGE is a disk image of
this machine, or the name of an image that the host has; the default is ``debian``.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

from hvdrivers import (
    ComputeDriver,
    FileImage,
    Flavor,
    HostImage,
    HypervisorError,
    ImageRef,
    InstanceSpec,
    InstanceState,
    connect,
)

DONE = {InstanceState.STOPPED, InstanceState.CRASHED}


def run_pool(
    driver: ComputeDriver, number: int, image: ImageRef, timeout: float
) -> dict[UUID, str]:
    """Run ``number`` runners to their end.

    Args:
        timeout: seconds that nothing may happen before the rest counts as lost.

    Returns:
        How each ended: ``stopped``, ``crashed``, ``lost`` (still running), or an error.
    """
    specs = [
        InstanceSpec(
            uuid=uuid4(),
            name=f"runner-{index}",
            flavor=Flavor(vcpus=1, memory_mib=512),
            image=image,
        )
        for index in range(number)
    ]
    results: dict[UUID, str] = {}
    # before the first spawn: nothing that happens from here on is missed
    with driver.watch() as events, ThreadPoolExecutor(max_workers=8) as threads:
        events.next()  # the state of everything as it is now: none of ours

        def start(spec: InstanceSpec) -> None:
            try:
                driver.spawn(spec)
            except HypervisorError as error:
                results[spec.uuid] = f"{type(error).__name__}: {error.message} ({error.hint})"

        try:
            list(threads.map(start, specs))
            waiting = {spec.uuid for spec in specs} - results.keys()
            while waiting and (event := events.next(timeout=timeout)) is not None:
                if event.type == "lifecycle":
                    states = {event.uuid: event.state}
                elif event.type == "resync":  # the connection was lost and is back
                    states = dict.fromkeys(waiting) | event.states
                else:
                    continue
                for uuid in waiting & states.keys():
                    state = states[uuid]
                    if state is None or state in DONE:
                        results[uuid] = state or "gone"
                waiting -= results.keys()
            results |= dict.fromkeys(waiting, "lost")
        finally:
            list(threads.map(lambda spec: driver.destroy(spec.uuid), specs))
    return results


def _fake_with_jobs() -> ComputeDriver:
    """A fake host whose guests power themselves off when their job is done."""
    from hvdrivers.fake import FakeHost

    host = FakeHost("ci")

    def guests() -> None:
        with host.connect() as outside, outside.watch() as events:
            for event in events:
                if event.type == "lifecycle" and event.state is InstanceState.RUNNING:
                    host.shut_down_guest(event.uuid)
                elif event.type == "resync":
                    for uuid, state in event.states.items():
                        if state is InstanceState.RUNNING:
                            host.shut_down_guest(uuid)

    threading.Thread(target=guests, daemon=True).start()
    return host.connect()


def main() -> None:
    """Run the pool that the command line asks for."""
    target = sys.argv[1] if len(sys.argv) > 1 else None
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    name = sys.argv[3] if len(sys.argv) > 3 else "debian"
    path = Path(name)
    image = FileImage(path=path) if path.is_file() else HostImage(name=name)
    with connect(target) if target else _fake_with_jobs() as driver:
        results = run_pool(driver, number, image, timeout=600)
        for uuid, result in results.items():
            print(uuid, result)
        print(f"{len(driver.list_instances())} instances are left")


if __name__ == "__main__":
    main()
