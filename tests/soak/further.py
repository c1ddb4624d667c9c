"""Further operations of a worker: each leaves the machine's state as it is, or pauses it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import SecretStr, TypeAdapter

from hvdrivers.contract import errors
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.vif import Bandwidth, Vif, VifQos
from hvdrivers.models.volume import DiskQos, PoolVolume, VolumeSpec
from tests.soak.hosts import image_of

if TYPE_CHECKING:
    from tests.soak.worker import Worker

_VIF: TypeAdapter[Vif] = TypeAdapter(Vif)
_KINDS = (ConsoleKind.SERIAL, ConsoleKind.VNC)
_WITHOUT_AGENT = 3.0
"""Seconds: no machine of the soak has a guest agent, and so it says."""


SCRATCH = "soak-scratch-"
"""In front of the names of volumes that workers make and delete."""


class Further:
    """What a worker does beside life, power and size."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._points: list[str] = []
        """Backups that have been made, of which the machine may still know."""
        self._pools: list[str] = []
        """Of the host, as it has told last."""

    def actions(self) -> list[tuple[str, float, Callable[[], object]]]:
        """Name, weight and what to do."""
        plain = self.worker.plain
        return [
            ("start_paused", 0.7, lambda: plain("start_paused")),
            ("inject_nmi", 0.3, lambda: plain("inject_nmi")),
            ("begin_backup", 1.5, self._begin_backup),
            ("end_backup", 1, lambda: self.worker.changing("end_backup")),
            ("set_disk_qos", 0.7, self._limit),
            ("swap_volume", 1, self._swap),
            ("migrate_storage", 0.7, self._to_another_pool),
            *self._of_the_nic(),
            ("reconnect", 0.5, self._reconnect),
            ("get_console", 0.5, self._console),
            ("screenshot", 0.5, lambda: self._read("screenshot")),
            ("get_console_log", 0.5, lambda: self._read("get_console_log")),
            ("create_volume", 0.5, self._make_volume),
            ("cache_image", 0.3, self._cache),
            ("evict_image", 0.2, self._evict),
            ("guest_addresses", 0.1, lambda: self._read("guest_addresses", _WITHOUT_AGENT)),
            ("guest_exec", 0.1, lambda: self._asking_the_guest("guest_exec", ("true",))),
            (
                "set_guest_password",
                0.1,
                lambda: self._asking_the_guest("set_guest_password", "root", SecretStr("soaked")),
            ),
            ("freeze", 0.1, lambda: self._asking_the_guest("freeze")),
            ("thaw", 0.1, lambda: self._asking_the_guest("thaw")),
        ]

    # -- backups ----------------------------------------------------------------------------------

    def _begin_backup(self) -> None:
        worker = self.worker
        since = worker.rng.choice([None, *self._points[-3:]])
        made: list[str] = []
        worker.changing("begin_backup", keywords={"since": since}, keep=lambda b: made.append(b.id))
        self._points += made
        if made and worker.rng.random() < 0.6:
            worker.changing("end_backup", made[0])

    # -- disks ------------------------------------------------------------------------------------

    def _limit(self) -> None:
        worker = self.worker
        rate = worker.rng.choice((None, DiskQos(total_iops_sec=worker.rng.randrange(100, 900))))
        worker.changing("set_disk_qos", worker.rng.choice(worker.volumes), rate)

    def _to_another_pool(self) -> None:
        worker = self.worker
        with suppress(errors.HypervisorError):
            found = worker.client.call(
                worker.uuid,
                "get_available_resource",
                lambda timeout: worker.driver.get_available_resource(timeout=timeout),
            )
            self._pools = sorted(each.name for each in found.storage)
        if self._pools:
            worker.changing("migrate_storage", worker.rng.choice(self._pools))

    def _of_the_nic(self) -> list[tuple[str, float, Callable[[], object]]]:
        worker, nic = self.worker, self.worker.nic
        if nic is None:
            return []
        vif = _VIF.validate_python({**worker.host["vif"], "id": nic})

        def limit() -> None:
            rate = Bandwidth(average=worker.rng.randrange(64_000, 512_000, 1000))
            worker.changing("set_vif_qos", nic, worker.rng.choice((None, VifQos(inbound=rate))))

        return [
            ("plug_vif", 1.5, lambda: worker.device("plug_vif", nic, vif, attached=True)),
            ("unplug_vif", 1.5, lambda: worker.device("unplug_vif", nic, nic, attached=False)),
            ("set_vif_qos", 0.5, limit),
        ]

    def _swap(self) -> None:
        """From the first volume to the spare one, and back. Only a whole copy of the first volume
        is ever in the spare one while that is attached, so the first keeps its content."""
        worker = self.worker
        first, spare = worker.volumes[0], worker.spare
        attached = worker.model.attached
        pair = (spare, first) if attached.get(spare) else (first, spare)
        done = worker.changing("swap_volume", pair[0], worker.attachment(pair[1]))
        if done is not False:
            worker.model.device_swapped(*pair, sure=bool(done))

    def _reconnect(self) -> None:
        worker = self.worker
        there = [each for each in worker.volumes if worker.model.attached.get(each)]
        attachments = tuple(worker.attachment(each) for each in there[:1])
        worker.changing("reconnect", keywords={"volumes": attachments})

    # -- looks ------------------------------------------------------------------------------------

    def _console(self) -> None:
        self.worker.changing("get_console", self.worker.rng.choice(_KINDS))

    def _read(self, name: str, longest: float | None = None, *arguments: object) -> None:
        worker = self.worker
        call = getattr(worker.driver, name)
        with suppress(errors.HypervisorError):
            worker.client.call(
                worker.uuid,
                name,
                lambda timeout: call(worker.uuid, *arguments, timeout=longest or timeout),
            )

    def _asking_the_guest(self, name: str, *arguments: object) -> None:
        self._read(name, _WITHOUT_AGENT, *arguments)

    # -- of the host ------------------------------------------------------------------------------

    def _make_volume(self) -> None:
        """Make a volume, and delete it: whatever a cut leaves, the next turn or the judge
        deletes."""
        worker = self.worker
        spec = VolumeSpec(name=f"{SCRATCH}{worker.uuid}", size_bytes=1 << 20)
        with suppress(errors.HypervisorError):
            made = worker.client.call(
                worker.uuid,
                "create_volume",
                lambda timeout: worker.driver.create_volume(spec, timeout=timeout),
            )
            assert isinstance(made, PoolVolume)
            worker.client.call(
                worker.uuid,
                "delete_volume",
                lambda timeout: worker.driver.delete_volume(made.volume_id, timeout=timeout),
            )

    def _cache(self) -> None:
        worker = self.worker
        with suppress(errors.HypervisorError):
            worker.client.call(
                worker.uuid,
                "cache_image",
                lambda timeout: worker.driver.cache_image(image_of(worker.host), timeout=timeout),
            )

    def _evict(self) -> None:
        worker = self.worker
        with suppress(errors.HypervisorError):
            found = worker.client.call(
                worker.uuid,
                "list_cached_images",
                lambda timeout: worker.driver.list_cached_images(timeout=timeout),
            )
            for each in found:
                worker.client.call(
                    worker.uuid,
                    "evict_image",
                    lambda timeout, key=each.key: worker.driver.evict_image(key, timeout=timeout),
                )
