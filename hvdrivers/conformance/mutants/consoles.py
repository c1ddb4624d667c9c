"""Mutants of consoles."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract.power import RebootKind
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.console import ConsoleAccess, ConsoleKind, ConsoleLog, Screenshot


@mutant("CONS-001")
class LogFromItsBeginning(FakeDriver):
    """get_console_log() returns the first bytes of the log instead of the last."""

    def _log(self, uuid: UUID, max_bytes: int) -> ConsoleLog:
        log = bytes(self.machines.checked("get_console_log", uuid).console)
        return ConsoleLog(data=log[:max_bytes], truncated=len(log) > max_bytes)


@mutant("CONS-001")
class LogOfFullLengthIsTruncated(FakeDriver):
    """A log of exactly max_bytes is said to have more before it."""

    def _log(self, uuid: UUID, max_bytes: int) -> ConsoleLog:
        log = super()._log(uuid, max_bytes)
        return log.model_copy(update={"truncated": len(log.data) == max_bytes})


@mutant("CONS-001")
class LogIgnoresMaxBytes(FakeDriver):
    """max_bytes is rounded up to whole blocks."""

    def _log(self, uuid: UUID, max_bytes: int) -> ConsoleLog:
        return super()._log(uuid, -(-max_bytes // 16) * 16)


@mutant("CONS-002")
class RebootBeginsANewLog(FakeDriver):
    """reboot() empties the console log."""

    def reboot(
        self, uuid: UUID, kind: RebootKind = RebootKind.HARD, *, timeout: float | None = None
    ) -> None:
        del self.fake_host.machines[uuid].console[:]
        super().reboot(uuid, kind, timeout=timeout)


@mutant("CONS-003")
class LogOutlivesTheMachine(FakeDriver):
    """A new machine under an old UUID goes on with the old one's log."""

    def _log(self, uuid: UUID, max_bytes: int) -> ConsoleLog:
        kept = self.__dict__.setdefault("_kept", {})
        kept[uuid] = self.machines.checked("get_console_log", uuid).console or kept.get(
            uuid, bytearray()
        )
        log = bytes(kept[uuid])
        return ConsoleLog(data=log[-max_bytes:], truncated=len(log) > max_bytes)


class _Access(FakeDriver):
    def _open(self, uuid: UUID, kind: ConsoleKind, token: int) -> ConsoleAccess:
        return self.changed(uuid, super()._open(uuid, kind, token))

    def changed(self, uuid: UUID, access: ConsoleAccess) -> ConsoleAccess:
        return access


@mutant("CONS-004")
class SpiceIsVnc(_Access):
    """Who asks for SPICE gets the VNC console."""

    def changed(self, uuid: UUID, access: ConsoleAccess) -> ConsoleAccess:
        if access.kind is ConsoleKind.SPICE:
            return access.model_copy(update={"kind": ConsoleKind.VNC})
        return access


@mutant("CONS-004")
class TicketHasExpired(_Access):
    """Tickets are valid until the moment at which they are made."""

    def changed(self, uuid: UUID, access: ConsoleAccess) -> ConsoleAccess:
        now = self.fake_host.clock.wall() - timedelta(seconds=1)
        return access.model_copy(update={"expires_at": now})


@mutant("CONS-005")
class TicketNeverChanges(_Access):
    """A machine has one ticket for ever."""

    def changed(self, uuid: UUID, access: ConsoleAccess) -> ConsoleAccess:
        return access.model_copy(update={"ticket": SecretStr(f"ticket-{uuid}")})


@mutant("CONS-006")
class OpeningAConsoleLeavesAMark(_Access):
    """get_console() writes a mark of its own into the metadata."""

    def changed(self, uuid: UUID, access: ConsoleAccess) -> ConsoleAccess:
        self.machines.find(uuid).metadata["console"] = "open"
        return access


@mutant("CONS-007")
class PictureOfAnotherType(FakeDriver):
    """A portable pixmap is said to be a PNG."""

    def _picture(self, uuid: UUID) -> Screenshot:
        return super()._picture(uuid).model_copy(update={"media_type": "image/png"})


@mutant("CONS-008")
class ReadingEmptiesTheLog(FakeDriver):
    """What has been read from the log is gone."""

    def _log(self, uuid: UUID, max_bytes: int) -> ConsoleLog:
        log = super()._log(uuid, max_bytes)
        if max_bytes == 65536:
            del self.machines.find(uuid).console[:]
        return log


@mutant("CONS-002")
class RescueBeginsANewLog(FakeDriver):
    """What the guest wrote before it was rescued, and why it had to be, is gone."""

    def _start_rescue(self, uuid: UUID) -> None:
        self.machines.find(uuid).console.clear()
        super()._start_rescue(uuid)


@mutant("CONS-002")
class SuspendDropsTheLog(FakeDriver):
    """The log of a machine goes with its process when that is saved to disk."""

    def _suspended(self, uuid: UUID) -> None:
        super()._suspended(uuid)
        self.machines.find(uuid).console.clear()


@mutant("CONS-002")
class SoftRebootBeginsANewLog(FakeDriver):
    """A soft reboot empties the console log, a hard one does not."""

    def _reset(self, uuid: UUID, kind: RebootKind) -> None:
        if kind is RebootKind.SOFT:
            self.machines.find(uuid).console.clear()
        super()._reset(uuid, kind)
