"""Start hosts, clients and faults; judge when all is quiet again."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.migration import MovePhase
from hvdrivers.models.volume import PoolVolume, VolumeSpec
from tests.soak.client import Client
from tests.soak.doubts import Doubts, Hands, settle
from tests.soak.further import SCRATCH
from tests.soak.hosts import SoakHost, hosts, pattern, uuid_of
from tests.soak.mover import mover_uuid

SETTLED = 120.0
"""Seconds that clients have to end once they are told to."""


class Soak:
    """One run."""

    def __init__(
        self,
        made: Sequence[SoakHost],
        *,
        seed: int,
        clients: int,
        threads: int,
        timeout: float,
        folder: Path,
        kill_clients: bool = True,
    ) -> None:
        self.hosts = made
        self.seed = seed
        self.clients = clients
        self.threads = threads
        self.timeout = timeout
        self.folder = folder
        self.rng = random.Random(seed)
        self.parallel = all(each.parallel_clients for each in made)
        self.kill_clients = kill_clients and self.parallel and clients > 1
        self.faults: Counter[str] = Counter()
        self.violations: list[str] = []
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._inside: list[threading.Thread] = []
        self._volumes: list[list[list[str]]] = []
        self._references: list[dict[str, Any]] = []
        self._spares: set[str] = set()

    # -- the run ----------------------------------------------------------------------------------

    def run(self, seconds: float) -> bool:
        """True: nothing was violated."""
        drivers = [each.direct() for each in self.hosts]
        try:
            for host, driver in zip(self.hosts, drivers, strict=True):
                self._prepare(host, driver)
            before = [each.residue() for each in self.hosts]
            for number in range(self.clients):
                self._start(number, fresh=True)
            self._disturb(time.monotonic() + seconds)
            self._stop()
            for host, driver in zip(self.hosts, drivers, strict=True):
                host.healthy(driver)
            self._judge_moves(drivers)
            for host, driver, there in zip(self.hosts, drivers, before, strict=True):
                self._judge(host, driver, there)
            self._judge_sizes()
        finally:
            for process in self._processes.values():
                if process.poll() is None:
                    process.kill()
                process.wait()
            for driver in drivers:
                with suppress(errors.HypervisorError):
                    driver.close()
        path = self.folder / "violations.jsonl"
        if path.exists():
            self.violations += [self._with_journal(line) for line in path.read_text().splitlines()]
        return not self.violations

    def _prepare(self, host: SoakHost, driver: ComputeDriver) -> None:
        volumes: list[list[str]] = []
        references: dict[str, Any] = {}
        for _ in range(self.clients * self.threads):
            own = []
            for size in (8 << 20, 8 << 20, 16 << 20):
                made = driver.create_volume(VolumeSpec(size_bytes=size, format=host.volume_format))
                assert isinstance(made, PoolVolume)
                if len(own) < 2:
                    host.write(made, pattern(made.volume_id))
                else:  # the spare one: what is in it is a copy, or nothing
                    self._spares.add(made.volume_id)
                references[made.volume_id] = made.model_dump(mode="json")
                own.append(made.volume_id)
            volumes.append(own)
        # the image comes into the cache now: what is left of it later is no residue
        warm = uuid_of(self.seed, "warm")
        driver.spawn(
            InstanceSpec(
                uuid=warm, name="warm", flavor=host.flavor, image=host.image(), start=False
            )
        )
        driver.destroy(warm)
        self._volumes.append(volumes)
        self._references.append(references)

    def _start(self, number: int, *, fresh: bool) -> None:
        config = {
            "number": number,
            "seed": self.seed,
            "threads": self.threads,
            "timeout": self.timeout,
            "folder": str(self.folder),
            "fresh": fresh,
            "hosts": [
                {
                    "driver": host.driver,
                    "forgets_crashes": host.forgets_crashes,
                    "runs_to_the_end": host.runs_to_the_end,
                    "options": dict(host.options()),
                    "destination": _dumped(host.destination()),
                    "vif": _dumped(host.vif("nic")),
                    "image": host.image().model_dump(mode="json"),
                    "flavor": host.flavor.model_dump(mode="json"),
                    "volumes": volumes[number * self.threads : (number + 1) * self.threads],
                    "pool_volumes": references,
                }
                for host, volumes, references in zip(
                    self.hosts, self._volumes, self._references, strict=True
                )
            ],
        }
        if not self.parallel:
            thread = threading.Thread(target=Client(config).run, name=f"client-{number}")
            thread.start()
            self._inside.append(thread)
            return
        file = self.folder / f"client-{number}.json"
        file.write_text(json.dumps(config))
        with (self.folder / f"client-{number}.err").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.client", str(file)], stderr=log, stdout=log
            )

    def _disturb(self, end: float) -> None:
        while time.monotonic() < end:
            time.sleep(self.rng.uniform(0.5, 3.0))
            self._look_at_clients()
            if self.kill_clients and self.rng.random() < 0.1:
                self._replace_client()
                continue
            if self.parallel and self.rng.random() < 0.08:
                self._leave_few_descriptors()
                continue
            host = self.rng.choice(self.hosts)
            fault = self.rng.choice(host.faults())
            self.faults[fault.name] += 1
            self._note(fault.name, self.hosts.index(host))
            try:
                fault.strike(self.rng, self._dies)
                time.sleep(self.rng.uniform(0, fault.longest))
            finally:
                fault.heal()
            self._note("healed", self.hosts.index(host))
            for each in self.hosts:
                self.violations += each.conflicts()

    def _dies(self, uuid: object) -> None:
        with (self.folder / "killed").open("a") as file:
            file.write(f"{uuid}\n")

    def _note(self, what: str, host: int) -> None:
        with (self.folder / "faults.jsonl").open("a") as file:
            file.write(json.dumps({"at": round(time.time(), 3), "host": host, "what": what}) + "\n")

    def _look_at_clients(self) -> None:
        for number, process in list(self._processes.items()):
            code = process.poll()
            if code is not None:
                log = (self.folder / f"client-{number}.err").read_text(errors="replace")
                self.violations.append(f"client {number} has ended with {code}:\n{log[-4000:]}")
                self._start(number, fresh=False)

    def _replace_client(self) -> None:
        # not the first: what grows in a process shows only in one that lives long
        number = self.rng.choice(sorted(self._processes)[1:])
        self.faults["client killed"] += 1
        process = self._processes.pop(number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self._start(number, fresh=False)

    def _leave_few_descriptors(self) -> None:
        """A client can open only a few files more, or none, for a while."""
        number = self.rng.choice(sorted(self._processes))
        pid = self._processes[number].pid
        try:
            used = len(os.listdir(f"/proc/{pid}/fd"))
            limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            few = used + self.rng.choice((0, 2, 6, 12, 20))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, limits[1]))
        except OSError:
            return  # the client has ended: that is seen elsewhere
        self.faults["few descriptors"] += 1
        self._note(f"client {number} has {few} descriptors, and uses {used}", -1)
        time.sleep(self.rng.uniform(0, 5.0))
        with suppress(OSError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        self._note(f"client {number} has descriptors again", -1)

    def _stop(self) -> None:
        for host in self.hosts:
            for fault in host.faults():
                fault.heal()
        (self.folder / "stop").touch()
        for thread in self._inside:
            thread.join(SETTLED + self.timeout)
            if thread.is_alive():
                self.violations.append(f"{thread.name} does not end")
        for number, process in self._processes.items():
            try:
                code = process.wait(SETTLED + self.timeout)
            except subprocess.TimeoutExpired:
                self.violations.append(f"client {number} does not end")
                process.kill()
                continue
            if code != 0:
                log = (self.folder / f"client-{number}.err").read_text(errors="replace")
                self.violations.append(f"client {number} ended with {code}:\n{log[-4000:]}")

    # -- the judgement ----------------------------------------------------------------------------

    def _movers(self) -> list[UUID]:
        numbers = itertools.product(range(self.clients), range(self.threads))
        return [mover_uuid(self.seed, client, thread) for client, thread in numbers]

    def _judge_moves(self, drivers: Sequence[ComputeDriver]) -> None:
        """Each instance that moves is whole on one host at most; and where one host keeps the
        source of a move, it is whole after confirm_move() or revert_move()."""
        doubts = Doubts(self.folder)
        destinations = [host.destination() for host in self.hosts]
        for uuid in self._movers():
            doubt = doubts.of(uuid)
            if doubt is not None and not settle(Hands(uuid, drivers, destinations), doubt):
                self.violations.append(f"{uuid}: {doubt.operation}() called again settles nothing")
            found = {each: _moving(each, uuid) for each in drivers}
            kept = [each for each, phases in found.items() if MovePhase.PREPARED in phases]
            whole = [each for each, phases in found.items() if phases and each not in kept]
            if len(whole) > 1:
                self.violations.append(f"{uuid} is on {len(whole)} hosts")
                continue
            # two keep it where one that has arrived was about to move within its new host
            for each in kept:
                try:
                    _ended(each, uuid)
                except errors.HypervisorError as error:
                    self.violations.append(f"there is no way on with {uuid}: {error}")
            at_its_end = ([None], [MovePhase.FINISHED])
            after = [each for each in drivers if _moving(each, uuid) in at_its_end]
            if len(after) != (1 if whole or kept else 0):
                self.violations.append(f"{uuid} is whole on {len(after)} hosts")

    def _judge(self, host: SoakHost, driver: ComputeDriver, before: set[str]) -> None:
        index = self.hosts.index(host)
        host.healthy(driver)
        with host.direct() as late:  # whoever connects completes what others have left undone
            listed = {each.uuid: each.state for each in late.list_instances()}
            uuids = [
                uuid_of(self.seed, client, thread, index)
                for client in range(self.clients)
                for thread in range(self.threads)
            ] + self._movers()
            for uuid in uuids:
                try:
                    state = late.get_instance(uuid).state
                except errors.InstanceNotFound:
                    state = None
                if listed.get(uuid) is not state:
                    self.violations.append(
                        f"host {index}: {uuid} is {state} by get, {listed.get(uuid)} by list"
                    )
            if strange := listed.keys() - set(uuids):
                self.violations.append(f"host {index}: nobody made {sorted(map(str, strange))}")
            for uuid in uuids:
                late.destroy(uuid)
            for each in late.list_volumes():
                if SCRATCH in each.name:  # a driver may put something before it
                    late.delete_volume(each.volume_id)
            left = late.list_instances()
            if left:
                self.violations.append(f"host {index}: after destroy() of all there is {left}")
        self.violations += host.conflicts()
        if residue := host.residue() - before:
            self.violations.append(f"host {index}: left behind: {sorted(residue)}")
        if missing := before - host.residue():
            self.violations.append(f"host {index}: lost: {sorted(missing)}")
        for volume_id, fields in self._references[index].items():
            if volume_id in self._spares:
                continue
            wanted = pattern(volume_id)
            if host.read(PoolVolume.model_validate(fields), len(wanted)) != wanted:
                self.violations.append(f"host {index}: the data of {volume_id} has changed")

    def sizes(self) -> dict[int, list[dict[str, float]]]:
        """What each client measured of itself."""
        found: dict[int, list[dict[str, float]]] = {}
        for number in range(self.clients):
            path = self.folder / f"client-{number}.jsonl"
            lines = (
                [json.loads(line) for line in path.read_text().splitlines()]
                if path.exists()
                else []
            )
            found[number] = [each["size"] | {"at": each["at"]} for each in lines if "size" in each]
        return found

    def _judge_sizes(self) -> None:
        """No growth: the last third against the third before it, where a run is long enough."""
        for number, sizes in self.sizes().items():
            lived = sizes[-1]["at"] - sizes[0]["at"] if sizes else 0.0
            if lived < 600:
                continue
            third = len(sizes) // 3
            for what, slack in (("threads", 8), ("descriptors", 16), ("rss_kib", 20_000)):
                middle = max(each[what] for each in sizes[third : 2 * third])
                last = max(each[what] for each in sizes[2 * third :])
                if last > middle * 1.25 + slack:
                    self.violations.append(
                        f"client {number} grows: {what} {middle:g}, then {last:g}"
                    )

    def _with_journal(self, line: str) -> str:
        found = json.loads(line)
        path = self.folder / f"client-{found['client']}.jsonl"
        entries = [json.loads(each) for each in path.read_text().splitlines()]
        about = [e for e in entries if e.get("uuid") == found["uuid"] and e["at"] <= found["at"]]
        journal = "\n".join(f"    {json.dumps(each)}" for each in about[-12:])
        return f"{found['what']} (client {found['client']}, {found['uuid']})\n{journal}"

    def report(self) -> str:
        """The figures of the run."""
        sizes = [each for found in self.sizes().values() for each in found]
        journals = [
            json.loads(line)
            for path in self.folder.glob("client-*.jsonl")
            for line in path.read_text().splitlines()
        ]
        outcomes = Counter(
            (each["operation"], each["outcome"].partition(":")[0])
            for each in journals
            if "operation" in each
        )
        lines = [f"seed {self.seed}: {sum(outcomes.values())} operations"]
        lines += [f"  {name}: {count}" for name, count in sorted(self.faults.items())]
        for (operation, outcome), count in sorted(outcomes.items()):
            lines.append(f"  {operation} {outcome}: {count}")
        if sizes:
            lines.append(
                "  at most "
                + ", ".join(
                    f"{max(each[what] for each in sizes):g} {what}"
                    for what in ("threads", "descriptors", "rss_kib")
                )
            )
        for number, own in self.sizes().items():
            if own:  # the first look is before the threads have begun
                begin, end = own[min(10, len(own) - 1)], own[-1]
                lines.append(
                    f"  client {number}: "
                    + ", ".join(
                        f"{what} {begin[what]:g} then {end[what]:g}"
                        for what in ("threads", "descriptors", "rss_kib")
                    )
                )
        return "\n".join(lines)


def _dumped(value: BaseModel | None) -> object:
    return None if value is None else value.model_dump(mode="json")


def _ended(driver: ComputeDriver, uuid: UUID) -> None:
    """Confirm a move, or revert one that is not finished."""
    try:
        driver.confirm_move(uuid)
    except errors.InvalidState:
        driver.revert_move(uuid)


def _moving(driver: ComputeDriver, uuid: UUID) -> list[MovePhase | None]:
    """How far a move of the instance has come here; nothing where it is not here."""
    try:
        return [driver.get_instance(uuid).move]
    except errors.InstanceNotFound:
        return []


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--driver", default="libvirt")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, default=None, help="where journals are kept")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 30) if given.seed is None else given.seed
    folder = given.folder or Path(tempfile.mkdtemp(prefix="hv-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, journals in {folder}", flush=True)
    with hosts(given.driver, given.hosts) as made:
        soak = Soak(
            made,
            seed=seed,
            clients=given.clients,
            threads=given.threads,
            timeout=given.timeout,
            folder=folder,
        )
        good = soak.run(given.minutes * 60)
        print(soak.report())
        for each in soak.violations:
            print(f"VIOLATION {each}")
        print(f"{len(soak.violations)} violations")
        return 0 if good else 1
