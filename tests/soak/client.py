"""One client: threads that own instances on every host and do random operations on them.

A process of its own (``python -m tests.soak.client CONFIG``), or, for a host that lives in one
process, an object in it. It runs until the file ``stop`` appears in its folder, and writes its
journal, its violations and its own size there.
"""

from __future__ import annotations

import faulthandler
import json
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from hvdrivers import connect
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import TOLERANCE
from hvdrivers.models.events import Event, LifecycleEvent, ResyncEvent
from hvdrivers.models.state import InstanceState
from tests.soak.errors import Violation
from tests.soak.hosts import uuid_of
from tests.soak.measuring import descriptors, malloc, now, patiently, rss
from tests.soak.mover import Mover, mover_uuid
from tests.soak.worker import Worker

SLACK = 30.0
"""Seconds beyond deadline and tolerance: what a machine that runs ten soaks at once may add."""

SETTLED = 60.0
"""Seconds after the last operation in which watch() has to tell what list_instances() shows."""


class Client:
    """One client.

    ``config``: ``number``, ``seed``, ``threads``, ``timeout``, ``folder``, ``fresh`` (False: it
    takes over from one that was killed), and ``hosts``: of each its driver, options, image,
    flavor, volumes by thread.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.folder = Path(config["folder"])
        self.number: int = config["number"]
        self.stopping = threading.Event()
        self._quiet = threading.Event()
        """The workers have ended: what watch() says can be compared."""
        self._lock = threading.Lock()
        self._journal = (self.folder / f"client-{self.number}.jsonl").open("a", buffering=1)
        self.drivers: list[ComputeDriver] = []
        self._events: list[dict[UUID, InstanceState]] = []
        self.operations = 0

    # -- life -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop."""
        for each in self.config["hosts"]:
            self.drivers.append(self._connected(each))
            self._events.append({})
        followers = [
            threading.Thread(target=self._follow, args=(index,), name=f"follow-{index}")
            for index in range(len(self.drivers))
        ]
        workers = [
            threading.Thread(target=self._guarded, args=(index,), name=f"work-{index}")
            for index in range(self.config["threads"])
        ]
        for thread in followers + workers:
            thread.start()
        while not (self.folder / "stop").exists():
            time.sleep(0.5)
            self._measure()
        self.stopping.set()
        self._joined(workers)
        for index in range(len(self.drivers)):
            self._compare(index)
        self._quiet.set()
        self._joined(followers)
        for driver in self.drivers:
            held = len(driver._locks)  # type: ignore[attr-defined]
            if held:
                self.violated(f"{held} instances are still locked")
            with suppress(errors.HypervisorError):
                driver.close()
        self._note(end=True)
        self._journal.close()

    def _joined(self, threads: Sequence[threading.Thread]) -> None:
        for thread in threads:
            thread.join(timeout=self.config["timeout"] + TOLERANCE + 2 * SLACK)
            if thread.is_alive():
                faulthandler.dump_traceback(all_threads=True)
                self.violated(f"the thread {thread.name} does not come back")

    def _connected(self, host: Mapping[str, Any]) -> ComputeDriver:
        while True:
            try:
                return connect(host["driver"], **host["options"])
            except errors.ConnectionFailed:
                time.sleep(0.2)

    def violated(self, what: str, uuid: UUID | None = None) -> None:
        """Write down what must not be, with the last that was done to the instance."""
        path = self.folder / "violations.jsonl"
        with self._lock, patiently(lambda: path.open("a")) as file:
            file.write(
                json.dumps({"client": self.number, "uuid": str(uuid), "what": what, "at": now()})
                + "\n"
            )

    def _note(self, **fields: Any) -> None:
        with self._lock:
            self._journal.write(json.dumps({"at": now(), **fields}, default=str) + "\n")

    def _measure(self) -> None:
        fields = {
            "threads": threading.active_count(),
            **descriptors(),
            "rss_kib": rss(),
            "blocks": sys.getallocatedblocks(),
            "malloc_kib": malloc(),
            "operations": self.operations,
        }
        self._note(size=fields)

    # -- events -----------------------------------------------------------------------------------

    def _follow(self, index: int) -> None:
        """Keep what watch() says of each instance, over every gap."""
        states = self._events[index]
        while not self._quiet.is_set():
            try:
                with self.drivers[index].watch() as stream:
                    while not self._quiet.is_set():
                        event = stream.next(timeout=0.5)
                        self._keep(states, event)
            except errors.HypervisorError:
                self._quiet.wait(0.2)
            except Exception as error:  # noqa: BLE001 - every other is a violation
                self.violated(f"watch() raised {type(error).__name__}: {error}")
                self._quiet.wait(1)

    def _keep(self, states: dict[UUID, InstanceState], event: Event | None) -> None:
        if isinstance(event, ResyncEvent):
            states.clear()
            states.update(event.states)
        elif isinstance(event, LifecycleEvent):
            if event.state is None:
                states.pop(event.uuid, None)
            else:
                states[event.uuid] = event.state

    def _compare(self, index: int) -> None:
        """What watch() has told of the instances of this client is what list_instances() shows, in
        the end."""
        threads = range(self.config["threads"])
        seed = self.config["seed"]
        own = {uuid_of(seed, self.number, thread, index) for thread in threads}
        own |= {mover_uuid(seed, self.number, thread) for thread in threads}
        end = time.monotonic() + SETTLED
        while True:
            told = {
                uuid: state for uuid, state in self._events[index].copy().items() if uuid in own
            }
            try:
                found = self.drivers[index].list_instances(timeout=self.config["timeout"])
            except errors.HypervisorError as error:
                shown: object = error
            else:
                shown = {each.uuid: each.state for each in found if each.uuid in own}
            if shown == told:
                return
            if time.monotonic() > end:
                break
            time.sleep(0.2)
        self.violated(f"watch() says {told} of host {index}, list_instances() {shown}")

    # -- work -------------------------------------------------------------------------------------

    def _guarded(self, thread: int) -> None:
        rng = random.Random(f"{self.config['seed']}-{self.number}-{thread}-{time.time_ns()}")
        workers: list[Worker | Mover] = [
            Worker(self, host, index, thread, rng)
            for index, host in enumerate(self.config["hosts"])
        ]
        if self.moves:
            workers += [Mover(self, thread, rng)] * len(workers)  # as often as all others
        while not self.stopping.is_set():
            worker = rng.choice(workers)
            try:
                worker.step()
            except Exception:  # noqa: BLE001 - else a thread ends, and the soak goes on without it
                self.violated(f"the soak itself failed:\n{traceback.format_exc()}", worker.uuid)

    @property
    def moves(self) -> bool:
        """Whether instances move between the hosts."""
        hosts = self.config["hosts"]
        return len(hosts) == 2 and all(each["destination"] is not None for each in hosts)

    def call(
        self, uuid: UUID, operation: str, work: Callable[[float], Any], host: int | None = None
    ) -> Any:
        """One operation: within its deadline, and with a typed error or none.

        Args:
            host: where, of an instance that moves: for the journal.
        """
        timeout: float = self.config["timeout"]
        began = time.monotonic()
        outcome = "ok"
        shown: object = None
        try:
            found = work(timeout)
            shown = getattr(found, "state", None)
            return found
        except errors.HypervisorError as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
            raise Violation(f"{operation}() raised {outcome}") from error
        finally:
            seconds = time.monotonic() - began
            self.operations += 1
            self._note(
                uuid=uuid,
                operation=operation,
                outcome=outcome,
                seconds=round(seconds, 3),
                **({} if shown is None else {"state": shown}),
                **({} if host is None else {"host": host}),
            )
            if seconds > timeout + TOLERANCE + SLACK:
                self.violated(f"{operation}() took {seconds:.1f} s, timeout {timeout:g} s", uuid)

    def has_died(self, uuid: UUID) -> bool:
        """Whether the disturber has ended this machine's process."""
        path = self.folder / "killed"
        return path.exists() and str(uuid) in patiently(path.read_text).split()


if __name__ == "__main__":
    faulthandler.enable()
    Client(json.loads(Path(sys.argv[1]).read_text())).run()
