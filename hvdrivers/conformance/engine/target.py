"""A target: the driver under test, the host it talks to, and what only its author can give.

The least target is ``DriverTarget("fake")``: a driver by name and what to connect with. An author
who can do more gives more, by overriding a method: an *observer* that reads the truth by another
path, a *fault seam* in the transport, a way to crash a guest, a machine made by others. What is
not given makes the checks that need it "precondition missing", which counts against the level:
never a silent skip, never a pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from hvdrivers.conformance.engine.observer import FaultSeam, Observer, PreconditionMissing
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver, Driver
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import Volume

FOREIGN_TEXT: Final = "hvct-" + "f00d" * 8
"""What stands on the root disk of each foreign_machine()."""


class Target(ABC):
    """What the suite runs against."""

    name: str = "driver"
    """For reports."""
    simulated: bool = False
    """True: the host is a simulator of the hypervisor; the report says so. Each property below says
    one thing that mostly goes with it, and a target may say otherwise."""
    makes_host: bool = False
    """Whether each target of this kind makes a host for itself, as a simulator can: then several
    run at once (``--jobs``), each in a process of its own. There the folder for temporary files
    (``TMPDIR``) is one of that process, and is removed after it."""
    not_shown: Mapping[str, str] = MappingProxyType({})
    """Checks by their id (``METR-004/counts[disk]``) that this simulator cannot show, each with the
    reason. They are run all the same, and an entry whose check passes is a failure. Only for a
    target that is ``simulated``."""
    time_scale: float = 1.0
    """Multiplies every deadline of the suite."""
    at_once: float = 20.0
    """Seconds that the suite waits at most for what a host does that is ``immediate``. Only a check
    that fails waits so long, so a machine ten times slower than usual passes too."""
    flavor: Flavor = Flavor(vcpus=1, memory_mib=192, disk_gib=1)
    machine_type: str = "hvct-type"
    """One that the hypervisor has, for a driver that takes ``Hardware.machine_type``."""
    boot_mark: bytes | None = None
    """What the guest writes to its serial console exactly once each time it starts."""

    @property
    def guests_run(self) -> bool:
        """Whether guests really run. If not, nothing boots and nothing writes by itself."""
        return not self.simulated

    @property
    def thorough(self) -> bool:
        """Whether every call of each change is cut, and sequences of operations are long. It needs
        a host where an operation takes milliseconds; on any other a few calls are cut, by the seed
        of the run."""
        return self.simulated

    @property
    def immediate(self) -> bool:
        """Whether the host does at once what takes a real one seconds or minutes: to boot, to tell
        an event, to reboot itself. Then the suite waits for :attr:`at_once` at most, and gives
        operations that must run into their deadline a short one."""
        return self.simulated

    @property
    def fillable(self) -> bool:
        """Whether the suite may fill the host's pools: nobody else has a use for them."""
        return self.simulated

    thin: bool = False
    """Whether a disk takes no room before it is written to, so that a full pool lets it grow."""

    @abstractmethod
    def connect(self) -> ComputeDriver:
        """A new connection to the same host."""

    def connect_nowhere(self, seconds: float, *, silent: bool) -> ComputeDriver:
        """What :meth:`connect` does, to an address at which there is no host.

        ``hvdrivers.conformance.engine.dead_ends`` makes such addresses on this machine.

        Args:
            seconds: the driver's limit for an attempt to connect, where its configuration has one.
            silent: connections to the address are accepted, and nobody answers, as a host that
                hangs does. False: they are refused.
        """
        raise PreconditionMissing("the target has no address without a host (connect_nowhere)")

    @abstractmethod
    def driver_class(self) -> type[Driver]:
        """The class under test, for the checks that need no host."""

    @abstractmethod
    def image(self) -> ImageRef:
        """An image from which a small guest boots within a few seconds."""

    def vif(self, vif_id: str) -> Vif:
        """A NIC that can be plugged on this host."""
        raise PreconditionMissing("the target names no network (vif)")

    def sriov_vif(self, vif_id: str) -> Vif:
        """A NIC that asks for a virtual function (``sriov=True``) which this host can give it. Only
        for a driver that takes the field of a kind of NIC."""
        raise PreconditionMissing("the target names no network with virtual functions (sriov_vif)")

    @contextmanager
    def without_functions(self) -> Iterator[None]:
        """The networks of other_host() have no virtual functions during the block, as far as
        that matters to a machine that comes."""
        raise PreconditionMissing("the other host keeps its functions (without_functions)")
        yield

    def vif_to_nowhere(self, vif_id: str) -> Vif:
        """The same kind of NIC, on a network that does not exist."""
        raise PreconditionMissing("the target names no absent network (vif_to_nowhere)")

    @contextmanager
    def passing_network(self, vif_id: str) -> Iterator[Vif]:
        """A NIC on a network that is there during the block, and gone after it."""
        raise PreconditionMissing("the target makes no network that goes away (passing_network)")
        yield

    def observer(self) -> Observer | None:
        """The observer, which reads the host without the driver."""
        return None

    def faults(self, driver: ComputeDriver) -> FaultSeam | None:
        """The seam in this connection's transport."""
        return None

    def crash(self, driver: ComputeDriver, uuid: UUID) -> None:
        """Make the guest or its virtual machine process die."""
        raise PreconditionMissing("the target cannot crash a guest (crash)")

    def wait_booted(self, driver: ComputeDriver, uuid: UUID) -> None:  # noqa: B027
        """Wait until the guest reacts: to the power button, to hot-plug, by its agent."""

    def boots(self, driver: ComputeDriver, uuid: UUID) -> int:
        """How often the guest has started from its disks since it was spawned. A guest that went
        on from memory (unpause, resume) has not started again."""
        if self.boot_mark is None:
            raise PreconditionMissing("the target cannot tell when its guest starts (boot_mark)")
        if Capability.CONSOLE_LOG not in driver.capabilities:
            raise PreconditionMissing("without a console log nobody sees the guest start (boots)")
        log = driver.get_console_log(uuid, max_bytes=1 << 20)
        return log.data.count(self.boot_mark)

    def on_disk(self, driver: ComputeDriver, uuid: UUID, text: str) -> bool:
        """Whether the mark is on the instance's root disk, whatever the machine booted from."""
        raise PreconditionMissing("the target cannot look into a disk (on_disk)")

    @contextmanager
    def slowed(self, operation: str, seconds: float) -> Iterator[None]:
        """Make this operation take so much longer on the host meanwhile, whoever calls it."""
        raise PreconditionMissing("the target cannot slow its host down (slowed)")
        yield

    @contextmanager
    def foreign_machine(self, name: str | None = None) -> Iterator[UUID]:
        """A machine on the host that this library did not make. The block may adopt and destroy
        it.

        Of a driver that adopts machines it has one disk, of at most 1 GiB, which is based on no
        other, and which has :data:`FOREIGN_TEXT` on it, so that :meth:`on_disk` finds it.

        Args:
            name: its own name; only of a driver that adopts machines a certain one is asked for.
        """
        raise PreconditionMissing("the target cannot make a foreign machine (foreign_machine)")
        yield

    @contextmanager
    def copied_machine(self, driver: ComputeDriver, uuid: UUID) -> Iterator[UUID]:
        """A copy of a stopped instance that somebody else makes with the hypervisor's own means
        (clone, export and import), with everything that marks the instance as ours."""
        raise PreconditionMissing("the target cannot copy a machine (copied_machine)")
        yield

    @contextmanager
    def broken_connection(self, driver: ComputeDriver) -> Iterator[None]:
        """Break the driver's connection, as a restarted daemon does; it comes back by itself or
        at the end of the block."""
        raise PreconditionMissing("the target cannot break a connection (broken_connection)")
        yield

    @contextmanager
    def keeping_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """Make the guest keep its devices, and refuse new CPUs and memory, meanwhile."""
        raise PreconditionMissing("the target's guest lets go of everything (keeping_guest)")
        yield

    @contextmanager
    def deaf_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """Make the guest ignore the power button meanwhile, or the message of the hypervisor's
        guest tools that stands for it."""
        raise PreconditionMissing("the target's guest heeds the power button (deaf_guest)")
        yield

    @contextmanager
    def refusing_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """Make the guest answer, when it is asked for a device meanwhile, that it keeps it."""
        raise PreconditionMissing("the target's guest never says no (refusing_guest)")
        yield

    # ---- inside the guest: for snapshots, backups and the agent ---------------------------------

    def write_disk(self, driver: ComputeDriver, uuid: UUID, text: str, disk: str = "root") -> None:
        """Let the running guest write a text to a disk of its own (``root``, ``ephemeral``,
        ``swap``), or to a volume (by its id)."""
        raise PreconditionMissing("the target cannot write inside a guest (write_disk)")

    def written(self, driver: ComputeDriver, uuid: UUID, disk: str = "root") -> Sequence[str]:
        """The texts of write_disk() that the running guest finds on the disk, oldest first."""
        raise PreconditionMissing("the target cannot read inside a guest (written)")

    def accepts_password(self, driver: ComputeDriver, uuid: UUID, user: str, password: str) -> bool:
        """Whether the guest takes this password for this user."""
        raise PreconditionMissing("the target cannot log in to a guest (accepts_password)")

    def guest_account(self, driver: ComputeDriver, uuid: UUID) -> GuestCredentials | None:
        """An account that may do everything in the guest, where its agent always asks for one
        (VMware Tools do). No check changes its password. None: the agent asks for none."""
        return None

    @contextmanager
    def account_needed(self, driver: ComputeDriver, uuid: UUID) -> Iterator[GuestCredentials]:
        """Make the guest's agent ask for this account meanwhile."""
        raise PreconditionMissing("the guest's agent asks for no account (account_needed)")
        yield

    @contextmanager
    def silent_agent(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """Make the guest's agent not answer meanwhile."""
        raise PreconditionMissing("the target cannot silence an agent (silent_agent)")
        yield

    @contextmanager
    def endless_program(self, driver: ComputeDriver, uuid: UUID) -> Iterator[Sequence[str]]:
        """A command that runs in the guest for longer than anybody waits."""
        raise PreconditionMissing("the target names no endless program (endless_program)")
        yield

    def program_runs(self, driver: ComputeDriver, uuid: UUID) -> bool:
        """Whether the command of endless_program() runs in the guest by now."""
        raise PreconditionMissing("the target does not see what runs in a guest (program_runs)")

    # ---- other hosts: for migration -------------------------------------------------------------

    def other_host(self) -> tuple[Destination, ComputeDriver]:
        """A host that every machine of the suite can move to, and a new connection to it."""
        raise PreconditionMissing("the target has no second host (other_host)")

    def movable_vif(self, vif_id: str) -> Vif:
        """A NIC on a network that the other host has too."""
        return self.vif(vif_id)

    def other_observer(self) -> Observer | None:
        """Looks at the host of other_host(), beside the driver."""
        return None

    def unfit_host(self) -> tuple[Destination, frozenset[BlockerKind]]:
        """A host that no machine of the suite can move to, for at least two reasons."""
        raise PreconditionMissing("the target has no host that is unfit (unfit_host)")

    @contextmanager
    def restless_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """Make the guest write memory faster than a live migration copies it."""
        raise PreconditionMissing("the target's guest dirties no memory (restless_guest)")
        yield

    @contextmanager
    def dead_host(self, destination: Destination) -> Iterator[None]:
        """Make the host of other_host() die at once, so that nothing reaches it; it is back at the
        end of the block."""
        raise PreconditionMissing("the target's second host does not die (dead_host)")
        yield

    # ---- the host as a whole --------------------------------------------------------------------

    @contextmanager
    def expendable_host(self) -> Iterator[None]:
        """The host may be rebooted and shut down meanwhile; it is up again afterwards."""
        raise PreconditionMissing("the host must stay up (expendable_host)")
        yield

    def grow_volume(self, driver: ComputeDriver, volume_id: str, size_bytes: int) -> None:
        """Make a volume larger at its server, as its administrator does."""
        raise PreconditionMissing("the target cannot make a volume grow (grow_volume)")

    @contextmanager
    def served_volume(self, driver: ComputeDriver, kind: Capability) -> Iterator[Volume]:
        """A volume of a storage server that the host reaches, for this run alone.

        Args:
            kind: ``VOLUME_ISCSI``, ``VOLUME_RBD``, ...
        """
        raise PreconditionMissing(f"the target has no server for {kind} (served_volume)")
        yield

    @contextmanager
    def locked_volume(self, driver: ComputeDriver, passphrase: bytes) -> Iterator[Volume]:
        """A volume that its owner has encrypted with LUKS, under this passphrase."""
        raise PreconditionMissing("the target has no encrypted volume (locked_volume)")
        yield

    def opened(self, driver: ComputeDriver, uuid: UUID, volume_id: str) -> bool:
        """Whether the running machine has opened the volume of :meth:`locked_volume`, which only
        its passphrase does."""
        raise PreconditionMissing("the target cannot tell whether a volume is open (opened)")

    def lose_volume(self, driver: ComputeDriver, volume_id: str) -> None:
        """Delete a volume of create_volume() behind the driver's back, attached or not."""
        raise PreconditionMissing("the target cannot take a volume away (lose_volume)")

    @contextmanager
    def filled(self, driver: ComputeDriver, pool: str, leaving: int) -> Iterator[None]:
        """A pool in which ``leaving`` bytes are free, and less than 1 MiB more, in the block. Asked
        for where the target is :attr:`fillable` and :attr:`thin`."""
        raise PreconditionMissing("the target cannot fill a pool (filled)")
        yield

    def shared_directories(self) -> tuple[str, str]:
        """Two directories of the host that can be shared into a guest."""
        raise PreconditionMissing("the target names no directories (shared_directories)")

    @contextmanager
    def dead_upload(self, driver: ComputeDriver, key: str, *, quiet: bool) -> Iterator[str]:
        """What a client leaves that is killed in the middle of an upload of an image; removed at
        the end, if it is still there. Yields its key in the cache's list.

        Args:
            key: the image's ``cache_key()``.
            quiet: its last write was hours ago. False: it was a moment ago.
        """
        raise PreconditionMissing("the target leaves no partial upload (dead_upload)")
        yield

    def hostile_images(self) -> Sequence[tuple[str, ImageRef]]:
        """Images that must be refused, each with a word that says why."""
        raise PreconditionMissing("the target names no hostile images (hostile_images)")

    def close(self) -> None:  # noqa: B027 - most targets hold nothing
        """The run is over."""


class DriverTarget(Target):
    """A driver by name: ``hvdrivers conformance run NAME`` makes one of these where the driver
    brings no target of its own (entry-point group ``hvdrivers.conformance``)."""

    def __init__(self, driver: str, image: ImageRef | None = None, **options: Any) -> None:
        self.name = driver
        self._image = image
        self._options: Mapping[str, Any] = options

    def driver_class(self) -> type[Driver]:
        from hvdrivers.plugins import load_driver

        return load_driver(self.name)

    def connect(self) -> ComputeDriver:
        from hvdrivers.plugins import connect

        return connect(self.name, **self._options)

    def image(self) -> ImageRef:
        if self._image is None:
            raise PreconditionMissing("no image given (--image)")
        return self._image
