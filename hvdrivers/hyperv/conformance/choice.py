"""Which target ``hvdrivers conformance run hyperv`` makes: its guests are played, or real."""

from __future__ import annotations

from typing import Any

from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.hyperv.conformance.needs import need_engine, need_program
from hvdrivers.hyperv.conformance.real import RealGuestTarget
from hvdrivers.hyperv.conformance.target import HypervTarget


def hyperv_target(*, guests: str = "played", **options: Any) -> HypervTarget:
    """A simulated host of its own.

    Args:
        guests: ``played``, or ``real``: they boot in QEMU.
        options: fields of HypervConfig.

    Raises:
        InvalidRequest: there are no such guests.
        ConnectionFailed: this machine lacks what a simulated host needs.
    """
    kinds = {"played": HypervTarget, "real": RealGuestTarget}
    if guests not in kinds:
        raise InvalidRequest(f"there are no guests {guests!r}", hint="guests=played, or real")
    need_engine()
    need_program("qemu-img")
    return kinds[guests](**options)
