"""A move in steps, which can be taken back: to another host, or to another flavor on this one.

The source stays as it is, with a mark (``move_mark.py``), until it is confirmed or reverted. Its
domain has another name meanwhile, by which every operation of every client refuses it.

To another host its disks, its console's log and UEFI's variables are copied
(``move_copies.py``), and finish_move() defines the instance over the copies.

Within one host prepare_move() copies the disks beside the instance. finish_move() gives it the
copies and the new flavor; the old files stay untouched, and revert_move() gives them back.

The steps of one instance take turns, on each host (``turns.py``): a client that dies leaves a mark
and files, which the next step, or destroy(), finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.migration import MoveInSteps
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.metadata import kept, record_in
from hvdrivers.libvirt.move_arrival import arrive, grow, require_arrived
from hvdrivers.libvirt.move_copies import Copying, clear, drop_beside, nothing_prepared
from hvdrivers.libvirt.move_mark import (
    ARRIVED_NAMESPACE,
    Mark,
    Step,
    asked,
    copy_name,
    document_name,
    mark_in,
)
from hvdrivers.libvirt.move_refusals import (
    refuse_blocked,
    refuse_confirmed,
    refuse_unfit,
    require_memory,
    unfinished,
)
from hvdrivers.libvirt.move_shapes import arriving, notes_on_roots
from hvdrivers.libvirt.move_source import Source
from hvdrivers.libvirt.moving import place
from hvdrivers.libvirt.moving_checks import MovingChecks, elsewhere
from hvdrivers.libvirt.moving_plan import Own, own_files
from hvdrivers.libvirt.naming import ROOT, is_moving, label_of
from hvdrivers.libvirt.other_host import reached
from hvdrivers.libvirt.pinning import without_own_pins
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.shown import flavor_now, shown
from hvdrivers.libvirt.turns import Turn
from hvdrivers.libvirt.xml import Element, text
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.migration import Blocker, Destination, Move
from hvdrivers.models.progress import Phase, Progress, ProgressCallback
from hvdrivers.models.state import InstanceState


@dataclass(frozen=True)
class _Begun:
    """A preparation, before its first change."""

    source: Source
    domain: Remote
    xml: Element
    mark: Mark
    copying: Copying
    again: bool
    """What a client that died has copied is there."""


class LibvirtMoveInSteps(Topic, MoveInSteps):
    """The source stays until the move is confirmed."""

    def prepare_move(
        self,
        uuid: UUID,
        destination: Destination | None = None,
        *,
        flavor: Flavor | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> Move:
        """Budget: within the host 17 calls, and 4 for each disk that can be written to. To another
        host 39 with one disk over an image, and 9 for each further disk; there those of a
        connection, about 20, and 4 for each disk. 1 more for the size of a root disk, 5 for UEFI's
        variables, 2 for a password, and those of leaving a rescue. 7
        where it has begun."""
        del timeout
        deadline = current_deadline()
        told = _Told(progress)

        def act(turn: Turn, domain: Remote, state: InstanceState) -> Move:
            del state
            self.rescues.leave(uuid, domain)
            source = Source(self, uuid)
            domain, xml = source.read()
            mark = mark_in(xml)
            wanted = flavor or flavor_now(xml, record_in(xml))
            moving = is_moving(domain.name(), uuid)
            if mark is not None and mark.is_under_way(moving=moving):
                if not mark.asks_for(destination, wanted):
                    raise errors.InvalidState(
                        "another move of the instance has begun",
                        instance=uuid,
                        hint="confirm_move() or revert_move()",
                    )
                if mark.step is not Step.PREPARING:
                    return mark.move(uuid, destination)
            elif mark is not None:
                refuse_confirmed(uuid, mark)
                source.free()  # what is left of an earlier one
                domain, xml = source.read()
                mark = None
            own = list(own_files(self.connection.remote, xml))
            refuse_unfit(domain, xml, wanted, own)
            if (blocker := elsewhere(self, own)) is not None:
                refuse_blocked([blocker], lacks_room=False)
            again = mark is not None
            if mark is None:
                mark = self._new_mark(destination, xml, wanted, own)
            copying = Copying(uuid, mark.token, turn, deadline, told)
            begun = _Begun(source, domain, xml, mark, copying, again)
            if destination is None:
                self._copy_beside(begun, own)
            else:
                self._copy_there(begun, destination)
            return mark.move(uuid, destination)

        return self.turns.change("prepare_move", uuid, deadline, act)

    def _new_mark(
        self, destination: Destination | None, xml: Element, flavor: Flavor, own: list[Own]
    ) -> Mark:
        where, password = None, None
        if destination is not None:
            password = destination.password
            where = destination.model_copy(update={"password": None, "volumes": (), "vifs": ()})
        here = destination is None
        return Mark(
            token=token_hex(4),
            source=self.config.host_label,
            where=where,
            asked=asked(destination),
            has_password=password is not None,
            flavor=flavor,
            before=flavor_now(xml, record_in(xml)),
            step=Step.PREPARING,
            disks={e.role: e.path for e in own if not e.read_only} if here else {},
            roots=notes_on_roots(xml) if here else {},
        )

    def _copy_beside(self, begun: _Begun, own: list[Own]) -> None:
        source, mark = begun.source, begun.mark
        require_memory(self, mark.flavor)
        if begun.again:
            drop_beside(self, source.uuid, mark.token)  # a dead client's
        with undoing() as undo:
            undo.callback(source.free)
            source.keep_as_it_is(begun.domain, mark, None)
            begun.copying.beside(self, {each.role: each for each in own if each.role in mark.disks})
            source.require_kept()
            undo.callback(source.set_step, mark, Step.PREPARING)
            source.set_step(mark, Step.PREPARED)

    def _copy_there(self, begun: _Begun, destination: Destination) -> None:
        source, domain, xml, mark = begun.source, begun.domain, begun.xml, begun.mark
        uuid, password = source.uuid, destination.password
        with self._destination(destination, errors.InvalidRequest) as there:
            if begun.again:
                clear(there, uuid, mark.token, current_deadline())  # a dead client's
            plan = MovingChecks(self, there).plan(
                uuid, domain, destination, running=False, flavor=mark.flavor
            )
            refuse_blocked(plan.blockers, lacks_room=plan.lacks_room)
            if plan.shared or plan.log_shared:
                raise errors.NotSupported(
                    "both hosts have its disks, or its console's log, in one pool: they would"
                    " change under the source",
                    hint="name another pool in Destination.storage, or cold_migrate() it",
                )
            require_memory(there, mark.flavor)
            place(xml, uuid, self, there)
            if self.config.aside:
                without_own_pins(xml)
            document = text(arriving(xml, uuid, label_of(domain.name(), uuid) or "", mark))
            with undoing() as undo:
                free = undo.callback(source.free)
                source.keep_as_it_is(
                    domain, mark, password.get_secret_value() if password is not None else None
                )
                # what could not be removed there is found by a source that is still marked
                undo.callback(
                    lambda: clear(there, uuid, mark.token, current_deadline()), guards=[free]
                )
                begun.copying.there(self, there, plan.disks, document.encode())
                source.require_kept()
                undo.callback(source.set_step, mark, Step.PREPARING, guards=undo.steps)
                source.set_step(mark, Step.PREPARED)

    @contextmanager
    def _destination(
        self, destination: Destination, dead: type[errors.HypervisorError]
    ) -> Iterator[Topic]:
        """The other host.

        Args:
            dead: what is raised where it does not answer.
        """
        with reached(self, destination) as there:
            if isinstance(there, Blocker):
                raise dead(there.reason, hint=there.hint)
            yield there

    # ---- the destination -------------------------------------------------------------------------

    def finish_move(
        self,
        move: Move,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        """Budget: 17 calls at another host, 14 within one; 1 more where the root disk grows, 1 for
        each volume of the host, up to 4 for each NIC, those of attaching for each connection of the
        move. 8 where it is there already, 7 within one host."""
        del timeout, progress
        uuid, deadline = move.uuid, current_deadline()
        with self.turns.take(uuid, deadline):
            if move.destination is None:
                return self._finish_here(move)
            domain = self.domains.if_there(uuid)
            if domain is None:
                domain = arrive(self, move, move.destination, deadline)
            else:
                require_arrived(domain, move)
            with changed():
                self.pools.delete_disk(document_name(uuid, move.token))
                return shown(uuid, domain, self.domains.state(domain))

    def _finish_here(self, move: Move) -> InstanceInfo:
        uuid = move.uuid
        source = Source(self, uuid)
        domain, xml = source.read()
        mark = mark_in(xml)
        moving = is_moving(domain.name(), uuid)
        ours = mark is not None and mark.token == move.token
        if mark is None or not ours or mark.step in {Step.PREPARING, Step.ENDED}:
            raise nothing_prepared(uuid)
        if moving:
            if ROOT in mark.disks:
                path = self.pools.disk_path(copy_name(uuid, ROOT, mark.token))
                grow(self, path, mark.flavor)
            source.finish(mark)
            domain = self.domains.find(uuid)
        elif mark.step is not Step.FINISHED:
            raise nothing_prepared(uuid)
        with changed():
            return shown(uuid, domain, self.domains.state(domain))

    # ---- the end ---------------------------------------------------------------------------------

    def confirm_move(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 17 calls and 1 for each file of the instance; there those of a connection, and
        2. Within one host 10, and 1 for each disk; 3 more for a suspended instance. 8 for one that
        has not moved, 1 for one that is not there."""
        del timeout
        deadline = current_deadline()
        if self.domains.if_there(uuid) is None:
            return  # confirmed already

        def act(turn: Turn, domain: Remote, state: InstanceState) -> None:
            del turn
            source = Source(self, uuid)
            domain, xml = source.read()
            mark = mark_in(xml)
            moving = is_moving(domain.name(), uuid)
            if mark is None:
                return
            if not moving:
                if mark.step is Step.FINISHED:
                    source.forget_before(domain, state, xml, mark)
                else:
                    source.free()
                return
            if mark.step is not Step.ENDED or mark.where is None:
                self._require_finished(uuid, mark)
                source.set_step(mark, Step.ENDED)
            with changed():
                source.remove(domain)

        self.turns.change("confirm_move", uuid, deadline, act)

    def _require_finished(self, uuid: UUID, mark: Mark) -> None:
        """That the destination has the instance. Calls of a connection, and two there."""
        destination = mark.destination(uuid, self.secrets)
        if destination is None or mark.step is Step.PREPARING:
            raise unfinished(uuid)
        with self._destination(destination, errors.ConnectionFailed) as there:
            arrived = there.domains.if_there(uuid)
            if arrived is None or kept(xml_of(arrived), ARRIVED_NAMESPACE) != mark.token:
                raise unfinished(uuid)

    def revert_move(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 12 calls; there those of a connection, and 8 with 1 for each file. Within one
        host 19, and 2 for each disk; before finish_move() 12, and 1 for each disk. 7 more for
        UEFI's variables. 7 for one that has not moved."""
        del timeout

        def act(turn: Turn, domain: Remote, state: InstanceState) -> None:
            del turn, state
            self.rescues.leave(uuid, domain)
            source = Source(self, uuid)
            domain, xml = source.read()
            mark = mark_in(xml)
            if mark is not None:
                refuse_confirmed(uuid, mark)
                if mark.step is Step.FINISHED:
                    source.give_back(domain, mark)
                elif is_moving(domain.name(), uuid):
                    self._clear_destination(uuid, mark)
                source.free()

        self.turns.change("revert_move", uuid, current_deadline(), act)

    def _clear_destination(self, uuid: UUID, mark: Mark) -> None:
        destination = mark.destination(uuid, self.secrets)
        if destination is None:
            return
        with self._destination(destination, errors.ConnectionFailed) as there:
            if not clear(there, uuid, mark.token, current_deadline()):
                raise errors.InvalidState(
                    "the instance is at the destination",
                    instance=uuid,
                    hint="destroy() it there first",
                )


class _Told:
    """The caller's progress callback, told of bytes."""

    def __init__(self, progress: ProgressCallback | None) -> None:
        self._progress = progress
        self._done = 0
        self(0)

    def __call__(self, copied: int) -> None:
        self._done += copied
        if self._progress is not None:
            self._progress(Progress(phase=Phase.MIGRATE, done=self._done))
