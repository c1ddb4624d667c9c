"""A pool that keeps a number of runners alive: whatever dies is replaced, also after a restart.

    python examples/runner_pool.py [HOST] [NUMBER] [IMAGE]

The pool's members are named by their UUIDs, which are made from the pool's name and a slot: another
process, after the death of this one, finds the same members and goes on. HOST is anything that
``connect()`` takes; the default is a fake host. IMAGE is a disk image of this machine, or the name
of an image that the host has; the default is ``debian``. Two runners are switched off and replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

from hvdrivers import (
    ComputeDriver,
    FileImage,
    Flavor,
    HostImage,
    HypervisorError,
    ImageRef,
    InstanceExists,
    InstanceSpec,
    InstanceState,
    LifecycleEvent,
    ResyncEvent,
    connect,
    worth_repeating,
)

DEAD = {InstanceState.STOPPED, InstanceState.CRASHED}


class Pool:
    """So many runners, of one kind."""

    def __init__(self, driver: ComputeDriver, name: str, number: int, image: ImageRef) -> None:
        self.driver = driver
        self.image = image
        self.members = {uuid5(NAMESPACE_URL, f"pool:{name}:{slot}"): slot for slot in range(number)}
        self.replaced = 0

    def keep(self, stop: Callable[[], bool], interval: float = 10.0) -> None:
        """Keep the pool full until ``stop()`` says so.

        The stream begins with the state of everything, and tells it again after each gap. A look
        at all members each ``interval`` seconds repeats what had failed.
        """
        with self.driver.watch() as events:
            while not stop():
                event = events.next(timeout=interval)
                if event is None or isinstance(event, ResyncEvent):
                    self.check(*self.members)
                elif isinstance(event, LifecycleEvent) and event.state in {None, *DEAD}:
                    self.check(*self.members.keys() & {event.uuid})

    def check(self, *members: UUID) -> None:
        """Replace what is not there, or has ended. An event says when to look, and not what there
        is: the member may have been replaced since."""
        try:
            states = {each.uuid: each.state for each in self.driver.list_instances()}
            for uuid in members:
                state = states.get(uuid)
                if state in DEAD:
                    self.driver.destroy(uuid)
                    self.replaced += 1
                if state is None or state in DEAD:
                    self.spawn(uuid)
        except HypervisorError as error:
            if not worth_repeating(error):
                raise  # otherwise the next look comes here again

    def spawn(self, uuid: UUID) -> None:
        """Make one member. One that is there is a success: an earlier attempt had worked."""
        spec = InstanceSpec(
            uuid=uuid,
            name=f"runner-{self.members[uuid]}",
            flavor=Flavor(vcpus=1, memory_mib=512),
            image=self.image,
        )
        with suppress(InstanceExists):
            self.driver.spawn(spec)


def main(host: str, number: int, image: str) -> None:
    path = Path(image)
    source = FileImage(path=path) if path.is_file() else HostImage(name=image)
    with connect(host) as driver:
        pool = Pool(driver, "example", number, source)
        deaths = iter(list(pool.members)[:2])

        def stop() -> bool:
            """The demonstration: two members go down, one after the other, and are replaced."""
            running = [each for each in driver.list_instances() if each.uuid in pool.members]
            if len(running) < number:
                return False
            victim = next(deaths, None)
            if victim is None:
                return pool.replaced >= 2
            driver.power_off(victim)
            return False

        pool.keep(stop, interval=1.0)
        print(f"{len(pool.members)} runners, {pool.replaced} replaced")
        for uuid in pool.members:
            driver.destroy(uuid)


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv))
    try:
        main(arguments.get(1, "fake"), int(arguments.get(2, "3")), arguments.get(3, "debian"))
    except HypervisorError as error:
        sys.exit(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
