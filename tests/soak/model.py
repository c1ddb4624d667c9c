"""What must be true of one instance, after any sequence of outcomes.

The model keeps the *set* of states that the instance may be in. A success narrows it to what the
contract's table says; an error that promises "nothing has changed" leaves it; OutcomeUnknown adds
what the operation might have made. A read that shows something else is a violation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.contract.states import End
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState
from tests.soak.errors import Violation
from tests.soak.late import Late, State
from tests.soak.snapshots import ExpectedSnapshots

ANYTHING: frozenset[State] = frozenset({*InstanceState, None})
_ALIVE = frozenset(
    {InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.RESCUED, InstanceState.BUILDING}
)
_DEAD = frozenset({InstanceState.CRASHED, InstanceState.STOPPED})

_BEGINS = frozenset({"power_on", "resume", "reboot", "rebuild", "rescue", "unrescue"}) | {
    "start_paused"
}
_DEFINES = frozenset(
    {"spawn", "destroy", "power_off", "set_metadata", "attach_volume", "snapshot_to_image"}
    | {"rename", "rebuild", "resize", "hot_resize_cpu", "hot_resize_memory"}
)
"""Changes after which a machine has a definition, if it is there."""
_STEPS = frozenset({"destroy", "reboot", "rebuild", "rescue", "unrescue"})
"""Changes that may switch a machine off first."""
_UNDOES = frozenset({"rebuild", "rescue", "unrescue", "revert_snapshot"})
"""Changes that may switch a machine off, and start it again if they fail."""
_STAND_STILL = frozenset({"suspend", "create_snapshot"})
"""Changes in which a machine stands still while its memory is written."""
_ENDS = frozenset({"power_off", "suspend", "destroy"})

UNCHANGED = (
    errors.ConnectionFailed,
    errors.OperationTimeout,
    errors.DeviceBusy,
    errors.InsufficientResources,
    errors.InvalidRequest,
    errors.NotSupported,
    errors.PermissionDenied,
    errors.GuestAgentUnavailable,
    errors.NetworkNotFound,
    errors.VolumeNotFound,
)
"""Errors that promise that the operation has changed nothing."""


class Expected:
    """One instance, as far as its only client knows."""

    def __init__(
        self,
        *,
        known: bool,
        forgets_crashes: bool = False,
        runs_to_the_end: bool = False,
        capabilities: Collection[Capability] = frozenset(),
    ) -> None:
        """``known=False``: an earlier client had the instance, and nobody knows how it left it.
        ``forgets_crashes``, ``runs_to_the_end``: as of :class:`~tests.soak.hosts.SoakHost`."""
        self._forgets_crashes = forgets_crashes
        self._runs_to_the_end = runs_to_the_end
        self._capabilities = capabilities
        self.possible: frozenset[State] = frozenset({None}) if known else ANYTHING
        self.metadata: list[dict[str, str]] | None = [{}] if known else None
        """What set_metadata() may have left; None if nobody knows."""
        self.values: dict[str, list[object] | None] = {}
        """What else get_instance() may show, by ``name``, ``vcpus`` and ``memory_mib``; None, or
        absent: nobody knows."""
        self.snapshots = ExpectedSnapshots(known=known)
        self._rebuild_lost = not known
        """A rebuild() that did not come to its end may have switched the machine off. The next
        one starts it again."""
        self.attached: dict[str, bool | None] = {}
        """Volumes and NICs by id: attached, not attached, or (None) nobody knows. Absent: not
        attached, or unknown where ``metadata`` is."""
        self.leaving: set[str] = set()
        """Volumes that the guest was asked for and did not give in time: it may still do so, at
        the latest when it is reset."""
        self._recalled: set[str] = set()
        """Volumes of ``leaving`` that were attached again since then: the guest may let go of them
        all the same, and then they come back with the next start."""
        self._may_vanish = not known
        """A spawn whose reply was lost may have left the machine running without a definition: if
        its guest dies before a change has completed it, it is gone."""
        self._known = known
        # what the earlier client was at when it was killed may be under way
        self._late = Late() if known else Late(lost=2, states=ANYTHING)

    @property
    def only(self) -> State | str:
        """The state, if there is one possibility; else ``"?"``."""
        return next(iter(self.possible)) if len(self.possible) == 1 else "?"

    # -- outcomes ---------------------------------------------------------------------------------

    def succeeded(
        self, operation: str, variant: Enum | None = None, *, started: bool = True
    ) -> None:
        """The operation returned."""
        if self._surely_changes(operation, variant):
            self._late = Late()
        self._forgetting()
        if operation in _DEFINES:
            self._may_vanish = False
        if operation == "spawn":
            if None not in self.possible:
                raise Violation(f"spawn() succeeded while the instance was {self.named()}")
            self._fresh(started)
            return
        self.possible = self._ends(operation, variant, self.possible)
        if operation == "rebuild":
            if self._rebuild_lost and InstanceState.STOPPED in self.possible:
                self.possible |= {InstanceState.RUNNING}
            self._rebuild_lost = False
        if not self.possible:
            raise Violation(f"{operation}() succeeded, and no state that was possible allows it")
        self.possible |= self._late.states
        if operation == "destroy":
            self._gone()

    def _surely_changes(self, operation: str, variant: Enum | None) -> bool:
        if operation in {"spawn", "destroy", "set_metadata", "reboot", "rebuild"}:
            return True
        return not self._ends(operation, variant, self.possible) & self.possible

    def failed(
        self,
        operation: str,
        error: errors.HypervisorError,
        variant: Enum | None = None,
        *,
        started: bool = True,
        died: bool = False,
    ) -> None:
        """The operation raised.

        Args:
            died: the disturber has ended the guest's process, perhaps since the last read.
        """
        self._forgetting()
        self._vanishing(died)
        self._rebuild_lost = self._rebuild_lost or operation == "rebuild"
        if isinstance(error, errors.ContractViolation):
            raise Violation(f"{operation}(): {error}")
        if isinstance(error, errors.InstanceNotFound):
            self._keep({None}, f"{operation}() says that there is no such instance")
            self.possible |= self._late.states
            self._gone()
        elif isinstance(error, errors.InstanceExists):
            self._keep(set(InstanceState), f"{operation}() says that the instance exists")
            self._late.states -= {None}
        elif isinstance(error, errors.InvalidState):
            if died and self.possible & _ALIVE:
                self.possible |= _DEAD
            illegal = {
                state
                for state in self.possible
                if state is not None and not self._row(operation, variant)[state].legal
            }
            self._keep(illegal, f"{operation}() says that the state forbids it")
            self.possible |= self._late.states  # a refusal is a read, and waits for nothing
            self._goes_on()
        elif not isinstance(error, UNCHANGED):
            before = self.possible
            self._unknown(operation, variant, started)
            # whatever the error tells, the start that takes such a change back may be under way
            if isinstance(error, errors.OutcomeUnknown) or operation in _UNDOES:
                self._lost(operation, variant, before)

    def _lost(self, operation: str, variant: Enum | None, before: frozenset[State]) -> None:
        """``before``: the states that were possible. The operation may still bring what it brings
        from any of them, also where another of them was that already."""
        self._late.lost += 1
        self._late.states |= self.possible - before
        for state in before if operation != "spawn" else ():
            self._late.states |= self._ends(operation, variant, (state,)) - {state}
        self._late.ends = (
            frozenset({InstanceState.RUNNING})
            if operation == "spawn"
            else self._ends(operation, variant, before)
        )
        if operation in _STAND_STILL | _UNDOES:  # without success the machine goes on as before
            self._late.states |= before & _ALIVE

    def _unknown(self, operation: str, variant: Enum | None, started: bool) -> None:
        if operation == "spawn":
            self._may_vanish = True
            ends: set[State] = {InstanceState.RUNNING if started else InstanceState.STOPPED, None}
            if started:
                ends.add(InstanceState.BUILDING)  # the host may still be at it
            self.possible |= ends
            self.metadata = None
            self.values = {}
            return
        alive = self.possible & _ALIVE
        self.possible |= self._ends(operation, variant, self.possible)
        # A host service that dies while it ends or begins a guest's process finds that process
        # gone when it is back, and cannot tell why: the guest has crashed, as far as it knows.
        if operation in _BEGINS or (operation in _ENDS and alive):
            self.possible |= {InstanceState.CRASHED}
        if self._runs_to_the_end and alive and operation in _ENDS | {"reboot", "rebuild"}:
            self.possible |= {InstanceState.RUNNING}
        if operation in _STAND_STILL and alive:
            self.possible |= {InstanceState.PAUSED}
        # operations of several steps: a machine is switched off first
        if operation in _STEPS and self.possible != {None}:
            self.possible |= {InstanceState.STOPPED}
        if operation == "destroy":
            self.attached = dict.fromkeys(self.attached)

    # -- reads ------------------------------------------------------------------------------------

    def seen(self, state: State, where: str, *, died: bool = False) -> None:
        """A read shows this state.

        Args:
            died: the disturber has ended the guest's process since the last read.
        """
        self._forgetting()
        self._vanishing(died)
        possible = self.possible
        if died and possible & _ALIVE:
            possible |= _DEAD
        if state not in possible:
            raise Violation(f"{where} shows {_named(state)}, possible is {self.named()}")
        if state in self._late.ends and self._late.lost == 1:
            self._late.states = frozenset()  # this is what came
        self.possible = frozenset({state}) | self._late.states
        self._goes_on()
        if state is None:
            self._gone()

    def seen_whole(self, info: InstanceInfo) -> None:
        """get_instance() shows this, beside the state."""
        metadata = dict(info.metadata)
        if self.metadata is not None and metadata not in self.metadata:
            raise Violation(f"metadata is {metadata}, possible is {self.metadata}")
        self.metadata = [metadata, *self._late.metadata]
        shown = {
            "name": info.name,
            "vcpus": info.flavor.vcpus,
            "memory_mib": info.flavor.memory_mib,
        }
        for what, value in shown.items():
            possible = self.values.get(what)
            if possible is not None and value not in possible:
                raise Violation(f"{what} is {value!r}, possible is {possible}")
            self.values[what] = [value, *self._late.values.get(what, [])]
        found = {each.volume_id for each in info.volumes} | {each.id for each in info.vifs}
        for volume, attached in self.attached.items():
            if (
                attached is not None
                and volume not in self.leaving
                and attached is not (volume in found)
            ):
                wanted = "attached" if attached else "not attached"
                raise Violation(f"{volume} should be {wanted}, and is not")
        if self._known and (strange := found - self.attached.keys()):
            raise Violation(f"{sorted(strange)} are attached, and never were")
        self._known = True
        self.leaving &= found
        self._recalled -= found - self.leaving
        returning = self._recalled - found
        self.attached = {
            volume: None if volume in self._late.devices | returning else volume in found
            for volume in found | self.attached.keys()
        }

    # -- details ----------------------------------------------------------------------------------

    def metadata_set(self, value: dict[str, str], *, sure: bool) -> None:
        """set_metadata() returned (``sure``), or nobody knows whether it did anything."""
        if sure:
            self.metadata = [value]
        else:
            self._late.metadata.append(value)
            if self.metadata is not None:
                self.metadata.append(value)

    def value_set(self, what: str, value: object, *, sure: bool) -> None:
        """An operation has changed the name or the size, or nobody knows whether it did."""
        if sure:
            self.values[what] = [value]
            return
        self._late.values.setdefault(what, []).append(value)
        possible = self.values.get(what)
        if possible is not None:
            possible.append(value)

    def device_set(self, volume: str, attached: bool, *, sure: bool) -> None:
        """attach_volume() or detach_volume() returned, or nobody knows whether it did anything."""
        self.attached[volume] = attached if sure else None
        if not attached and sure:
            self._recalled.discard(volume)
        elif attached and volume in self.leaving:
            self._recalled.add(volume)
        if not sure:
            self._late.devices.add(volume)

    def taken_over(self, volumes: Iterable[str]) -> None:
        """The client that was killed may have asked the guest for any of these. If it lets go
        of one, nobody is there to change the definition: the volume is back at the next start."""
        self.leaving = set(volumes)
        self._recalled = set(volumes)

    def device_kept(self, volume: str) -> None:
        """detach_volume() says that the guest did not let go in time."""
        self.leaving.add(volume)

    def device_swapped(self, old: str, new: str, *, sure: bool) -> None:
        """swap_volume() returned (``sure``), or nobody knows whether it did anything. The guest may
        have been asked for the disk, which holds the new volume now."""
        if old in self.leaving:
            self.leaving.add(new)
        self.device_set(old, False, sure=sure)
        self.device_set(new, True, sure=sure)

    def reverted(self, *, with_memory: bool) -> None:
        """revert_snapshot() returned: a machine without memory starts from its disks."""
        ends = (
            {InstanceState.RUNNING, InstanceState.PAUSED}
            if with_memory
            else {InstanceState.STOPPED}
        )
        self.possible = (self.possible & ends) | self._late.states

    def named(self) -> str:
        """The possible states in words."""
        return " or ".join(sorted(_named(each) for each in self.possible))

    def _fresh(self, started: bool) -> None:
        self.possible = frozenset({InstanceState.RUNNING if started else InstanceState.STOPPED})
        self.metadata = [{}]
        self.values = {}
        self.snapshots = ExpectedSnapshots(known=True)
        self._rebuild_lost = False
        self.attached = dict.fromkeys(self.attached, False)
        self._recalled.clear()
        self._known = True

    def _forgetting(self) -> None:
        if self._forgets_crashes and InstanceState.CRASHED in self.possible:
            self.possible |= {InstanceState.STOPPED}

    def _vanishing(self, died: bool) -> None:
        if died and self._may_vanish and self.possible & _ALIVE:
            self.possible |= {None}

    def _goes_on(self) -> None:
        """A start that is under way ends by itself, and may fail."""
        if InstanceState.BUILDING in self.possible:
            self.possible |= {InstanceState.RUNNING, None}

    def _gone(self) -> None:
        self.metadata = [{}]
        self.values = {}
        self.snapshots = ExpectedSnapshots(known=True)
        self._rebuild_lost = False
        self.attached = dict.fromkeys(self.attached, False)
        self._recalled.clear()
        self._known = True

    def _keep(self, states: Iterable[State], claim: str) -> None:
        left = self.possible & frozenset(states)
        if not left:
            raise Violation(f"{claim}, possible is {self.named()}")
        self.possible = left

    def _row(self, operation: str, variant: Enum | None):  # type: ignore[no-untyped-def]
        found = OPERATIONS[operation].row_for({"variant": variant}, self._capabilities)
        assert found is not None
        return found

    def _ends(
        self, operation: str, variant: Enum | None, states: Iterable[State]
    ) -> frozenset[State]:
        ends: set[State] = set()
        for state in states:
            if state is None:
                if operation == "destroy":
                    ends.add(None)
                continue
            after = self._row(operation, variant)[state]
            if not after.legal:
                continue
            end = after.after(state)
            if end is End.GONE:
                ends.add(None)
            elif end is End.DEPENDS:
                ends |= set(InstanceState)
            else:
                assert isinstance(end, InstanceState)
                ends.add(end)
        return frozenset(ends)


def _named(state: State) -> str:
    return "absent" if state is None else str(state)
