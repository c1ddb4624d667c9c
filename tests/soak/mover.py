"""What one thread does to an instance that moves between the hosts, and within one of them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver
from hvdrivers.models.instance import Flavor, InstanceInfo, InstanceSpec
from hvdrivers.models.migration import Destination, Move, MovePhase
from hvdrivers.models.state import InstanceState
from tests.soak.doubts import Doubt, Doubts, Hands, settle
from tests.soak.errors import Violation
from tests.soak.hosts import image_of, uuid_of
from tests.soak.whereabouts import Here, Step, Whereabouts, World

if TYPE_CHECKING:
    from tests.soak.client import Client

_NAME = "mover"
_BETWEEN = 0.05
"""Seconds between two attempts to end a migration that may not have begun."""
_UNTIL_IT_ANSWERS = 0.2
"""Seconds between two attempts to settle what has come of one."""
_WHOLE = frozenset({Here.PLAIN, Here.FINISHED, Here.HALF_CONFIRMED})
_SOURCE = frozenset({Here.AWAY, Here.EMPTIED})


def mover_uuid(seed: int, client: int, thread: int) -> Any:
    """Of the instance of a thread that moves."""
    return uuid_of(seed, client, thread, _NAME)


class Mover:
    """One thread's instance that has no fixed host. There are two."""

    def __init__(self, client: Client, thread: int, rng: random.Random) -> None:
        self.client = client
        self.rng = rng
        self.hosts: Sequence[Any] = client.config["hosts"]
        self.drivers: Sequence[ComputeDriver] = client.drivers
        self.uuid = mover_uuid(client.config["seed"], client.number, thread)
        self.model = Whereabouts(len(self.hosts), known=client.config["fresh"])
        self.off = client.config["fresh"]
        """It is surely not running."""
        self._destroyed = False
        self._doubts = Doubts(client.folder)
        self._move: Move | None = None
        self._wanted: Flavor | None = None
        """The flavor of the move that is open, with which prepare_move() is repeated."""

    def step(self) -> None:
        """One random operation, and often a look at what it did."""
        try:
            if (doubt := self._doubts.of(self.uuid)) is not None:
                self._settle(doubt)
            elif not self.model.known:
                self._take_over()
            else:
                self._act()
                if self._doubts.of(self.uuid) is None and self.rng.random() < 0.5:
                    self._look()
        except Violation as violation:
            self.client.violated(str(violation), self.uuid)
            self.model = Whereabouts(len(self.hosts), known=False)

    def _act(self) -> None:
        if all(world.at == (None,) * len(self.hosts) for world in self.model.possible):
            if self._destroyed and not self._destroy_everywhere():
                return
            self._spawn()
            return
        if self.rng.random() < 0.7:
            self._go_on()
        else:
            self._anything(self.rng.randrange(len(self.hosts)))

    def _go_on(self) -> None:
        """What makes sense in one of the worlds that may be."""
        world = self.rng.choice(sorted(self.model.possible, key=str))
        host = self.rng.choice([n for n, here in enumerate(world.at) if here is not None] or [0])
        here, other = world.at[host], world.at[1 - host]
        power = self._power_on if self.off else self._power_off
        choices: list[Callable[[int], None]] = [self._finish, self._revert]
        if here in {Here.FINISHED, Here.HALF_CONFIRMED}:
            choices = [self._confirm, self._revert, power]
        elif here is Here.PLAIN and other is not None:  # it has arrived
            choices = [lambda host: self._confirm(1 - host), self._destroy, power]
        elif here is Here.PLAIN and self.off:
            cold = partial(self._migrate, "cold_migrate")
            choices = [self._prepare, self._prepare, self._prepare_beside, cold, power]
        elif here is Here.PLAIN:
            choices = [partial(self._migrate, "live_migrate"), power]
        elif here is Here.ENDED or other is not None:
            choices = [self._confirm]
        chosen = self.rng.choice(choices)
        chosen(host)

    def _anything(self, host: int) -> None:
        actions: list[tuple[float, Callable[[int], None]]] = [
            (1, self._power_on),
            (2, self._power_off),
            (0.3, self._destroy),
        ]
        for capability, weight, act in (
            (Capability.MOVE_IN_STEPS, 3, self._prepare),
            (Capability.MOVE_IN_STEPS, 1.5, self._prepare_beside),
            (Capability.MOVE_IN_STEPS, 4, self._finish),
            (Capability.MOVE_IN_STEPS, 2, self._confirm),
            (Capability.MOVE_IN_STEPS, 2, self._revert),
            (Capability.COLD_MIGRATION, 1, partial(self._migrate, "cold_migrate")),
            (Capability.LIVE_MIGRATION, 1, partial(self._migrate, "live_migrate")),
        ):
            if self.drivers[host].why_not(capability) is None:
                actions.append((weight, act))
        weights = [weight for weight, _ in actions]
        self.rng.choices([action for _, action in actions], weights)[0](host)

    # -- life -------------------------------------------------------------------------------------

    def _flavor(self, vcpus: int) -> Flavor:
        values = self.hosts[0]["flavor"] | {"vcpus": vcpus}
        return Flavor.model_validate(values)

    def _spawn(self) -> None:
        host, vcpus = self.rng.randrange(len(self.hosts)), self.rng.choice((1, 2))
        spec = InstanceSpec(
            uuid=self.uuid,
            name=_NAME,
            flavor=self._flavor(vcpus),
            image=image_of(self.hosts[host]),
            start=False,
        )

        def step(world: World) -> list[World]:
            return [world.put(host, Here.PLAIN, vcpus)] if world.at[host] is None else []

        self._move = self._wanted = None
        self.off = True
        self._do("spawn", host, lambda t: self.drivers[host].spawn(spec, timeout=t), step)

    def _destroy(self, host: int) -> None:
        def step(world: World) -> list[World]:
            # that it takes a prepared copy with it, no contract says: libvirt's does
            return [world.put(host, None), _emptied(world.put(host, None), host)]

        def halves(world: World) -> list[World]:
            found = [_emptied(world, host)]
            if world.at[host] is Here.AWAY:
                found.append(world.put(host, Here.EMPTIED))
            if world.at[host] is Here.BESIDE:
                found.append(world.put(host, Here.HALF_BESIDE))
            return found

        self._destroyed = True
        self._do(
            "destroy",
            host,
            lambda t: self.drivers[host].destroy(self.uuid, timeout=t),
            step,
            halves=halves,
        )

    def _power_on(self, host: int) -> None:
        self.off = False
        self._power("power_on", host)

    def _power_off(self, host: int) -> None:
        if self._power("power_off", host) is None:
            self.off = True

    def _power(self, operation: str, host: int) -> errors.HypervisorError | None:
        def step(world: World) -> list[World]:
            return [world] if world.at[host] in _WHOLE else []

        return self._do(
            operation,
            host,
            lambda t: getattr(self.drivers[host], operation)(self.uuid, timeout=t),
            step,
            refusable=True,
        )

    # -- moves in steps ---------------------------------------------------------------------------

    def _to(self, host: int) -> Destination:
        return Destination.model_validate(self.hosts[host]["destination"])

    def _prepare(self, host: int) -> None:
        other = 1 - host

        def step(world: World) -> list[World]:
            here = world.at[host]
            if here is Here.PLAIN and world.at[other] is None:
                return [world.put(host, Here.AWAY)]
            if here is Here.EMPTIED:
                return [world, world.put(host, Here.AWAY)]
            return [world] if here is Here.AWAY else []

        self._prepared(host, self._to(other), step, Here.EMPTIED)

    def _prepare_beside(self, host: int) -> None:
        def step(world: World) -> list[World]:
            here = world.at[host]
            if here is Here.PLAIN:
                return [world.put(host, Here.BESIDE)]
            if here is Here.HALF_BESIDE:
                return [world, world.put(host, Here.BESIDE)]
            same = {Here.BESIDE, Here.FINISHED, Here.HALF_FINISHED, Here.HALF_CONFIRMED}
            return [world] if here in same else []

        self._prepared(host, None, step, Here.HALF_BESIDE)

    def _prepared(self, host: int, to: Destination | None, step: Step, half: Here) -> None:
        here = {each for world in self.model.possible for each in world.at}
        if self._wanted is None or here <= {None, Here.PLAIN}:
            self._wanted = self._flavor(self.rng.choice((1, 2)))
        wanted = self._wanted

        def halves(world: World) -> list[World]:
            return [world.put(host, half)] if world.at[host] is Here.PLAIN else []

        def prepare(timeout: float) -> None:
            self._move = self.drivers[host].prepare_move(
                self.uuid, to, flavor=wanted, timeout=timeout
            )

        name = "prepare_move" if to is not None else "prepare_move beside"
        self._do(name, host, prepare, step, halves=halves, refusable=not self.off)

    def _finish(self, host: int) -> None:
        move = self._move
        if move is None:
            return
        if move.destination is None:
            self._finish_beside(host, move)
            return
        there = next(n for n, _ in enumerate(self.hosts) if self._to(n) == move.destination)
        source = 1 - there

        def step(world: World) -> list[World]:
            if world.at[there] is not None:
                return [world]
            arrives = world.at[source] is Here.AWAY
            return [world.put(there, Here.PLAIN, move.flavor.vcpus)] if arrives else []

        self._do(
            "finish_move",
            there,
            lambda t: self.drivers[there].finish_move(move, timeout=t),
            step,
            # what is there may have come there by this move, long ago
            maybe=lambda world: world.at[source] is not Here.AWAY,
        )

    def _finish_beside(self, host: int, move: Move) -> None:
        vcpus = move.flavor.vcpus

        def become(world: World, here: Here) -> World:
            return world.put(host, here, vcpus)._replace(before=world.vcpus[host])

        def step(world: World) -> list[World]:
            if world.at[host] is Here.BESIDE:
                return [become(world, Here.FINISHED)]
            if world.at[host] is Here.HALF_FINISHED:
                return [world.put(host, Here.FINISHED)]
            return [world] if world.at[host] in {Here.FINISHED, Here.HALF_CONFIRMED} else []

        def halves(world: World) -> list[World]:
            beside = world.at[host] is Here.BESIDE
            return [become(world, Here.HALF_FINISHED)] if beside else []

        self._do(
            "finish_move beside",
            host,
            lambda t: self.drivers[host].finish_move(move, timeout=t),
            step,
            halves=halves,
        )

    def _confirm(self, host: int) -> None:
        other = 1 - host

        def step(world: World) -> list[World]:
            here = world.at[host]
            if here in {None, Here.PLAIN}:
                return [world]
            if here is Here.ENDED or (here in _SOURCE and world.at[other] is not None):
                return [world.put(host, None)]
            done = {Here.FINISHED, Here.HALF_CONFIRMED}
            return [world.put(host, Here.PLAIN)] if here in done else []

        def halves(world: World) -> list[World]:
            if world.at[host] is Here.FINISHED:
                return [world.put(host, Here.HALF_CONFIRMED)]
            ends = world.at[host] in _SOURCE and world.at[other] is not None
            return [world.put(host, Here.ENDED)] if ends else []

        self._do(
            "confirm_move",
            host,
            lambda t: self.drivers[host].confirm_move(self.uuid, timeout=t),
            step,
            halves=halves,
            waits=False,
        )

    def _revert(self, host: int) -> None:
        other = 1 - host

        def step(world: World) -> list[World]:
            here = world.at[host]
            if here in {Here.FINISHED, Here.HALF_FINISHED, Here.HALF_CONFIRMED}:
                return [world.put(host, Here.PLAIN, world.before)]
            away = here in _SOURCE and world.at[other] is None
            if away or here in {Here.PLAIN, Here.BESIDE, Here.HALF_BESIDE}:
                return [world.put(host, Here.PLAIN)]
            return []

        def halves(world: World) -> list[World]:
            here = world.at[host]
            if here is Here.AWAY and world.at[other] is None:
                return [world.put(host, Here.EMPTIED)]
            if here is Here.BESIDE:
                return [world.put(host, Here.HALF_BESIDE)]
            if here is Here.HALF_FINISHED:
                return [world.put(host, Here.HALF_BESIDE, world.before)]
            return []

        half = any(w.at[host] is Here.HALF_CONFIRMED for w in self.model.possible)
        self._do(
            "revert_move",
            host,
            lambda t: self.drivers[host].revert_move(self.uuid, timeout=t),
            step,
            halves=halves,
            refusable=half or not self.off,
        )

    # -- migration --------------------------------------------------------------------------------

    def _migrate(self, operation: str, host: int) -> None:
        capability = OPERATIONS[operation].capability
        assert capability is not None
        if self.drivers[host].why_not(capability) is not None:
            return
        other = 1 - host

        def step(world: World) -> list[World]:
            if world.at[host] not in _WHOLE or world.at[other] is not None:
                return []
            return [world.put(host, None).put(other, world.at[host], world.vcpus[host])]

        live = operation == "live_migrate"

        def move(timeout: float) -> object:
            meddling = self._meddled(host) if live and self.rng.random() < 0.5 else nullcontext()
            with meddling:
                call = getattr(self.drivers[host], operation)
                return call(self.uuid, self._to(other), timeout=timeout)

        self._doubts.begin(self.uuid, Doubt(operation, host))
        try:
            error = self._do(
                operation,
                host,
                move,
                step,
                refusable=live or not self.off,
                maybe=lambda world: world.at[host] is not Here.PLAIN,
            )
        except Violation:
            self._doubts.settled(self.uuid)
            raise
        self._doubts.end(self.uuid, error)
        if error is not None:
            self.off = False

    def _settle(self, doubt: Doubt) -> None:
        """The model has both outcomes, and learns nothing from this: the instance may be on both
        hosts meanwhile."""
        destinations = [self._to(host) for host in range(len(self.hosts))]
        if settle(Hands(self.uuid, self.drivers, destinations, self.client.call), doubt):
            self._doubts.settled(self.uuid)
        else:
            self.client.stopping.wait(_UNTIL_IT_ANSWERS)

    @contextmanager
    def _meddled(self, host: int) -> Iterator[None]:
        """Meanwhile the migration is aborted, or told to come to its end. Either may come too
        early, too late or be refused: the migration succeeds, or leaves the machine as it was."""
        driver, over = self.drivers[host], threading.Event()
        operation = self.rng.choice(("abort_migration", "force_migration"))
        if driver.why_not(OPERATIONS[operation].capability or Capability.LIVE_MIGRATION):
            yield
            return

        def meddle() -> None:
            call = getattr(driver, operation)
            while not over.wait(_BETWEEN):
                try:
                    self.client.call(
                        self.uuid, operation, lambda t: call(self.uuid, timeout=t), host
                    )
                except errors.HypervisorError:
                    continue  # it has not begun yet
                except Violation as violation:
                    self.client.violated(str(violation), self.uuid)
                return

        thread = threading.Thread(target=meddle, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    # -- looks ------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        """What an earlier client, or one that has seen a violation, has left: one whole instance
        at most, and a way on."""
        found = [self._read(host) for host in range(len(self.hosts))]
        if any(isinstance(each, errors.HypervisorError) for each in found):
            return
        shown = [each for each in found if isinstance(each, InstanceInfo)]
        if any(each.state is InstanceState.BUILDING for each in shown):
            return  # a migration whose client was killed goes on by itself
        whole = [each for each in shown if each.move is not MovePhase.PREPARED]
        if len(whole) > 1:
            self.client.violated("two hosts have the instance whole", self.uuid)
        for host, info in enumerate(found):
            if isinstance(info, InstanceInfo) and info.move is not None and self._end(host) is None:
                return
        self._destroy_everywhere()

    def _destroy_everywhere(self) -> bool:
        """The way on where a source was destroyed whose destination did not answer: what was
        prepared there is left. Whether it was done."""
        for host, driver in enumerate(self.drivers):
            try:
                self.client.call(
                    self.uuid,
                    "destroy",
                    lambda t, each=driver: each.destroy(self.uuid, timeout=t),
                    host,
                )
            except errors.HypervisorError:
                return False
        self.model.gone()
        self.off, self._destroyed = True, False
        return True

    def _end(self, host: int) -> bool | None:
        """Confirm a move, or revert it; None: it could not be tried."""
        driver = self.drivers[host]
        for operation in ("confirm_move", "revert_move"):
            try:
                self.client.call(
                    self.uuid,
                    operation,
                    lambda t, o=operation: getattr(driver, o)(self.uuid, timeout=t),
                    host,
                )
            except (errors.InvalidState, errors.InstanceNotFound):
                continue
            except errors.HypervisorError:
                return None
            return True
        return False

    def _look(self) -> None:
        for host in range(len(self.hosts)):
            found = self._read(host)
            if not isinstance(found, errors.HypervisorError):
                self.model.seen(host, found)

    def _read(self, host: int) -> InstanceInfo | errors.HypervisorError | None:
        driver = self.drivers[host]
        try:
            found: InstanceInfo = self.client.call(
                self.uuid,
                "get_instance",
                lambda t: driver.get_instance(self.uuid, timeout=t),
                host,
            )
        except errors.InstanceNotFound:
            return None
        except errors.HypervisorError as error:
            return error
        return found

    def _do(
        self,
        operation: str,
        host: int,
        work: Callable[[float], Any],
        step: Step,
        *,
        halves: Step = lambda _: (),
        refusable: bool = False,
        maybe: Callable[[World], bool] = lambda _: False,
        waits: bool = True,
    ) -> errors.HypervisorError | None:
        """One change, and its error."""
        try:
            self.client.call(self.uuid, operation, work, host)
        except errors.HypervisorError as error:
            self.model.failed(
                operation, host, error, step, halves=halves, refusable=refusable, maybe=maybe
            )
            return error
        self.model.succeeded(operation, host, step, waits=waits)
        return None


def _emptied(world: World, host: int) -> World:
    """The world after what was prepared at this host has gone."""
    for number, here in enumerate(world.at):
        if number != host and here is Here.AWAY:
            return world.put(number, Here.EMPTIED)
    return world
