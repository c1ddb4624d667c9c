"""Another size: of a stopped machine, and of one that runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from uuid import UUID

import libvirt

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.contract.lifecycle import HotResizeCpu, HotResizeMemory, Resize
from hvdrivers.driverkit.checks import require_growth
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.driverkit.undo import Undo, undoing
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.cold_size import Size, has_nodes, reshape, set_size, size_in, size_of
from hvdrivers.libvirt.devices import as_defined, source_of
from hvdrivers.libvirt.disguised import refuse_disguised
from hvdrivers.libvirt.domain import own_disk
from hvdrivers.libvirt.domains import LookAgain, require_off, xml_of
from hvdrivers.libvirt.encrypted_memory import is_encrypted, refuse_growth
from hvdrivers.libvirt.halves import is_unwritten, put_back, second_half, whole
from hvdrivers.libvirt.huge_pages import pages_in
from hvdrivers.libvirt.metadata import record_in
from hvdrivers.libvirt.naming import ROOT
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import growing
from hvdrivers.libvirt.size_refusals import refuse_other_disks, refuse_placed
from hvdrivers.libvirt.sizes import (
    MEMORY_BLOCK_MIB,
    huge_page_of,
    plugged_in,
    plugged_memory,
    vcpus_of,
)
from hvdrivers.libvirt.snapshot_data import Machine
from hvdrivers.libvirt.turns import Robbed, Turn
from hvdrivers.libvirt.xml import Element, attribute, text
from hvdrivers.models.instance import Flavor
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState

_GIB = 1 << 30
_BOTH = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
_Found = tuple[UUID, Remote, InstanceState, Element, Deadline]


class LibvirtResize(Topic, Resize, HotResizeCpu, HotResizeMemory):
    """Sizes."""

    def resize(
        self,
        uuid: UUID,
        flavor: Flavor,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: 7 calls for the same size, 9 for other CPUs or other memory, 8 for fewer CPUs, 11
        for both; 7 more for a larger disk, so 15 with fewer CPUs. 8 where there are NUMA nodes, or
        memory that can grow. 1 more for a raw disk, which an adopted machine may have. A disk grows
        when no other client is at the snapshots in it."""
        del timeout, progress
        deadline = current_deadline()

        def act(domain: Remote, state: InstanceState) -> None:
            xml = xml_of(domain, inactive=True)
            record = record_in(xml)
            refuse_other_disks(record.flavor, flavor)
            refuse_placed(record, flavor)
            if is_encrypted(xml):
                refuse_growth(flavor)
            self._require_memory(flavor.memory_mib)
            if (size := huge_page_of(flavor)) is not None:
                pages_in(flavor.memory_mib, size)
            with ExitStack() as turns, undoing() as undo:
                root = own_disk(xml, ROOT)
                if root is not None and flavor.disk_gib:
                    found = uuid, domain, state, xml, deadline
                    wanted_bytes = flavor.disk_gib * _GIB
                    self._grow_root(found, root, wanted_bytes, undo, turns)
                if record.numa or not has_nodes(xml, flavor):
                    before = size_in(xml)
                    wanted = size_of(flavor)
                    if record.numa:  # its size is in its nodes, and stays
                        wanted = before._replace(flavor=wanted.flavor)
                    written: list[Size] = []
                    undo.callback(self._put_back_size, uuid, before, written)
                    self._set_size(domain, before, wanted, deadline, written)
                    return
                reshape(self.hub, uuid, domain, flavor)
            require_off(domain)

        self.domains.change("resize", uuid, deadline, act)

    def _set_size(
        self, domain: Remote, now: Size, wanted: Size, deadline: Deadline, written: list[Size]
    ) -> None:
        """Set the size by several calls, and look at what came of it: another client may have set
        another size meanwhile, or have started the machine.

        Args:
            written: gets the size once the definition's file has a part of it.
        """

        @contextmanager
        def noting() -> Iterator[None]:
            yield
            written.append(wanted)

        while True:
            set_size(domain, now, wanted, around=noting)
            found = xml_of(domain)
            now = size_in(found)
            if now == wanted:
                return  # also where it has been started since, with this size
            if found.get("id") is not None:
                raise LookAgain
            deadline.check("another client sets another size")

    def _put_back_size(self, uuid: UUID, before: Size, written: list[Size]) -> None:
        unwritten: list[errors.HypervisorError] = []

        @contextmanager
        def each() -> Iterator[None]:
            """The daemon shows what it could not write; the next call may write it."""
            try:
                yield
                unwritten.clear()
            except errors.HypervisorError as error:
                if not is_unwritten(error):
                    raise
                unwritten.append(error)

        # the machine is looked up now: this is how things are undone after a connection was lost
        with suppress(errors.InstanceNotFound):
            domain = self.domains.find(uuid)
            now = size_in(xml_of(domain, inactive=True))
            set_size(domain, now, before, around=each)
        if unwritten and written:
            raise unwritten[-1]

    def _require_memory(self, memory_mib: int) -> None:
        total = int(self.connection.remote.getInfo()[1])
        if memory_mib > total:
            raise errors.InsufficientResources(
                f"the machine would have {memory_mib} MiB of memory, the host has {total} MiB",
                hint=hints.SMALLER_FLAVOR,
            )

    def _grow_root(
        self, found: _Found, disk: Element, wanted: int, undo: Undo, turns: ExitStack
    ) -> None:
        """Make the root disk larger. Seven calls, two if it is that large;
        one more for a raw disk.

        Args:
            turns: gets the turn at the snapshots, which lasts until after the undo: a snapshot
                that another client made meanwhile would have the larger disk in it.
        """
        path = source_of(disk)
        volume = self.connection.remote.storageVolLookupByPath(path)
        refuse_disguised(disk, volume, "on the host: qemu-img resize -f raw")
        now = int(volume.info()[1])
        require_growth("the root disk", now, wanted)
        if wanted == now:
            return
        uuid, domain, _, _, deadline = found
        turn = turns.enter_context(self.turns.take(uuid, deadline))
        # a revert would make it small again
        self.snapshot_data.require_none(
            Machine(*found, turn), "a disk with snapshots does not grow"
        )
        undo.callback(self._shrink_root, turn, path, wanted, now)
        turn.check()
        with growing(self.connection.remote, [path], capacity=wanted):
            self._grow(domain, volume, wanted)

    @staticmethod
    def _grow(domain: Remote, volume: Remote, wanted: int) -> None:
        try:
            volume.resize(wanted, 0)
        except (errors.HypervisorFault, errors.InvalidRequest, errors.InvalidState) as error:
            if domain.isActive() or int(volume.info()[1]) > wanted:
                raise LookAgain from error  # another client was faster
            raise

    def _shrink_root(self, turn: Turn, path: str, grown: int, before: int) -> None:
        """Undo the growth: nothing has been written beyond the old end as long as the machine has
        not started, and QEMU's lock on the file of a machine that has refuses it."""
        # both are looked up now: this is how things are undone after a connection was lost
        try:
            turn.again(self.connection.remote)
        except Robbed as error:
            raise errors.DeviceBusy(
                "another client has taken the turn at the instance's snapshots: the root disk"
                " stays larger",
                hint=hints.CALL_AGAIN,
            ) from error
        with suppress(errors.VolumeNotFound):
            volume = self.connection.remote.storageVolLookupByPath(path)
            if int(volume.info()[1]) == grown:  # nobody has made it larger still
                volume.resize(before, libvirt.VIR_STORAGE_VOL_RESIZE_SHRINK)

    def hot_resize_cpu(self, uuid: UUID, vcpus: int, *, timeout: float | None = None) -> None:
        """Budget: 4 calls; 4 if it has so many, and 5 if its definition has not. QEMU gives the
        CPUs to the guest whether or not it takes them."""
        del timeout

        def act(domain: Remote, state: InstanceState) -> None:
            del state
            xml = xml_of(domain)
            record = record_in(xml)
            flavor = record.flavor
            now = vcpus_of(xml) or flavor.vcpus
            refuse_placed(record, flavor.model_copy(update={"vcpus": vcpus}))
            _require_headroom(now, vcpus, flavor.max_vcpus)
            if vcpus % (flavor.numa_nodes or 1):
                raise errors.InvalidRequest(
                    f"{vcpus} CPUs are not even over {flavor.numa_nodes} NUMA nodes",
                    hint="give a number that each node has the same part of",
                )
            if vcpus == now:
                self._define_cpus(domain, xml, vcpus)
                return
            try:
                with (
                    self.dedicated.growing(domain, xml, vcpus),
                    whole(partial(_undefine_cpus, domain, now, vcpus)),
                ):
                    domain.setVcpusFlags(vcpus, _BOTH)
            except errors.HypervisorFault as error:
                self._refuse_moved(domain, vcpus_of, now, error)
                raise

        self.domains.change("hot_resize_cpu", uuid, current_deadline(), act)

    def _define_cpus(self, domain: Remote, xml: Element, vcpus: int) -> None:
        """Let the definition have the CPUs that the running machine has got. One call, two if it
        had them not."""
        before = vcpus_of(xml_of(domain, inactive=True))
        if before == vcpus:
            return
        define = partial(domain.setVcpusFlags, flags=libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        with (
            second_half(domain, partial(define, before)),
            self.dedicated.growing(domain, xml, vcpus),
        ):
            define(vcpus)

    def hot_resize_memory(
        self, uuid: UUID, memory_mib: int, *, timeout: float | None = None
    ) -> None:
        """Budget: 5 calls; 4 if it has so much, 6 if its definition lacks a piece of it, and 2 more
        for each other one. QEMU gives the memory to the guest whether or not it takes it."""
        del timeout

        def act(domain: Remote, state: InstanceState) -> None:
            del state
            xml = xml_of(domain)
            record = record_in(xml)
            flavor = record.flavor
            now = _memory_mib(xml)
            refuse_placed(record, flavor.model_copy(update={"memory_mib": memory_mib}))
            _require_headroom(now, memory_mib, flavor.max_memory_mib)
            more = memory_mib - now
            if not more:
                self._define_memory(uuid, domain, xml)
                return
            self._require_memory(memory_mib)
            if more % MEMORY_BLOCK_MIB:
                raise errors.InvalidRequest(
                    f"guests take memory in blocks of {MEMORY_BLOCK_MIB} MiB, and it would be"
                    f" {more} MiB more",
                    hint=f"add a multiple of {MEMORY_BLOCK_MIB} MiB",
                )
            if (flavor.numa_nodes or 1) > 1:
                raise errors.InvalidRequest(
                    "the machine's memory is in several NUMA nodes, and one DIMM goes into one",
                    hint="power_off() and resize() it",
                )
            self.huge_pages.require_more(xml, more)
            # The caller says how much there shall be, and libvirt takes how much more. The name
            # of what is plugged in says what was there before it: of two clients that both saw
            # that, libvirt takes one, and the other finds out here.
            piece = plugged_memory(more, after=now)
            name = attribute(piece, "alias", "name") or ""
            self.plugging.late.forget(uuid, name)
            try:
                with whole(partial(self.plugging.take_back, domain, partial(_piece, name))):
                    domain.attachDeviceFlags(text(piece), _BOTH)
            except (errors.NotSupported, errors.InvalidRequest, errors.HypervisorFault) as error:
                self._refuse_moved(domain, _memory_mib, now, error)
                # what its guest has let go of, the definition may have from another client
                if name not in plugged_in(xml_of(domain, inactive=True)):
                    raise
                domain.attachDeviceFlags(text(piece), libvirt.VIR_DOMAIN_AFFECT_LIVE)

        self.domains.change("hot_resize_memory", uuid, current_deadline(), act)

    def _define_memory(self, uuid: UUID, domain: Remote, xml: Element) -> None:
        """Let the definition have the memory that the running machine has got. One call, and two
        for each piece that it has not."""
        stored = plugged_in(xml_of(domain, inactive=True))
        for name, piece in plugged_in(xml).items():
            self.plugging.late.recall(uuid, name)
            if name not in stored:
                with second_half(domain):
                    domain.attachDeviceFlags(
                        text(as_defined(piece)), libvirt.VIR_DOMAIN_AFFECT_CONFIG
                    )
                self.plugging.require_kept(domain, partial(_piece, name))

    def _refuse_moved(
        self,
        domain: Remote,
        read: Callable[[Element], int | None],
        before: int,
        error: errors.HypervisorError,
    ) -> None:
        """After a refusal: look again if another client has changed the size, or switched the
        machine off. One call."""
        xml = xml_of(domain)
        if xml.get("id") is None or read(xml) != before:
            raise LookAgain from error


def _piece(name: str, domain: Element) -> Element | None:
    return plugged_in(domain).get(name)


def _undefine_cpus(domain: Remote, before: int, vcpus: int) -> bool:
    """Let the definition, as the daemon shows it, have so many CPUs again. Three calls. The guest
    is not asked for those it got: QEMU 7.2 has died of it (TCG), and libvirt cannot tell for long
    whether the guest lets go."""
    put_back(
        partial(domain.setVcpusFlags, before, libvirt.VIR_DOMAIN_AFFECT_CONFIG),
        ours=lambda: vcpus_of(xml_of(domain, inactive=True)) == vcpus,
    )
    if vcpus_of(xml_of(domain)) == before:
        return False
    raise errors.DeviceBusy("a running machine gives no CPU back", hint="power_off() it")


def _memory_mib(domain: Element) -> int:
    return int(domain.findtext("memory") or 0) >> 10


def _require_headroom(now: int, wanted: int, most: int | None) -> None:
    if wanted > max(most or now, now):
        raise errors.InvalidRequest(
            f"the flavor's headroom ends at {most or now}",
            hint="power_off() and resize() to another flavor",
        )
    if wanted < now:
        raise errors.InvalidRequest(
            "a running machine gives nothing back here", hint="power_off() and resize() it"
        )
