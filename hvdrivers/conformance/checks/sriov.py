"""Clauses of NICs that ask for a virtual function of the host's adapter (``sriov``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from hvdrivers.conformance.checks.migration import Elsewhere
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.migration import BlockerKind
from hvdrivers.models.vif import DvsVif, HypervVif, NetworkVif, Vif

SRIOV_001 = clause(
    "SRIOV-001",
    "a NIC that asks for a virtual function has one, by spawn() and by plug_vif() of a stopped"
    " machine, at later starts and after reconnect(), and shows it; a NIC that asks for none has"
    " none. Of a kind that the driver gives none, such a NIC raises NotSupported and changes"
    " nothing",
    operation="plug_vif",
    level=Level.SHOULD,
)
SRIOV_002 = clause(
    "SRIOV-002",
    "a NIC with a virtual function is a blocker that names it where the destination has none for"
    " it, and a move raises InvalidRequest and changes nothing",
    operation="check_live_migration",
    level=Level.SHOULD,
)

_NIC: dict[str, Any] = {"id": "hvct-fast", "sriov": True}
_KINDS: tuple[Vif, ...] = (
    NetworkVif(**_NIC, network="hvct-none"),
    DvsVif(**_NIC, port_group="hvct-none"),
    HypervVif(**_NIC, switch="hvct-none"),
)


def _takes(trial: Trial, vif: Vif) -> bool:
    return "sriov" in trial.driver.takes.get(type(vif), frozenset())


def _fast(trial: Trial) -> Vif | None:
    """A NIC that gets a function; None where the driver takes the field of no kind of NIC. Of those
    of which it does not, it refuses such a NIC."""
    uuid = None
    for vif in _KINDS:
        if _takes(trial, vif):
            continue
        uuid = uuid or trial.spawn(start=False).uuid
        with trial.unchanged(), trial.raises(errors.NotSupported):
            trial.driver.plug_vif(uuid, vif)
        with trial.unchanged(), trial.raises(errors.NotSupported):
            trial.spawn(start=False, vifs=(vif,))
    if not any(_takes(trial, each) for each in _KINDS):
        return None
    return trial.target.sriov_vif(str(_NIC["id"]))


def _has(trial: Trial, uuid: UUID, wanted: dict[str, bool], when: str) -> None:
    for driver in (trial.driver, trial.other):
        shown = {each.id: each.sriov for each in driver.get_instance(uuid).vifs}
        trial.equal(shown, wanted, f"NICs that show a function {when}")
    if trial.observer is None:
        raise PreconditionMissing("there is no observer, which sees what a NIC has")
    options = trial.observer.options(uuid)
    found = {name: options[name].get("sriov") for name in wanted}
    trial.equal(found, wanted, f"NICs that have a function {when}")


def _spawned(trial: Trial, vifs: tuple[Vif, ...]) -> UUID:
    return trial.spawn(start=False, vifs=vifs).uuid


def _plugged(trial: Trial, vifs: tuple[Vif, ...]) -> UUID:
    uuid = trial.spawn(start=False).uuid
    for each in vifs:
        made = trial.driver.plug_vif(uuid, each)
        asked = getattr(each, "sriov", False)
        trial.equal(made.sriov, asked, "whether the NIC that plug_vif() returns has a function")
    return uuid


@check(SRIOV_001, cases=[Case("spawn", (_spawned,)), Case("plug", (_plugged,))])
def has_a_function(trial: Trial, make: Callable[[Trial, tuple[Vif, ...]], UUID]) -> None:
    fast = _fast(trial)
    if fast is None:
        return
    usual = trial.target.vif("hvct-usual")
    uuid = make(trial, (fast, usual))
    _has(trial, uuid, {"hvct-fast": True, "hvct-usual": False}, "when they are made")
    trial.driver.power_on(uuid)
    _has(trial, uuid, {"hvct-fast": True, "hvct-usual": False}, "of a machine that runs")
    trial.driver.power_off(uuid)
    if trial.has(Capability.RECONNECT):
        trial.driver.reconnect(uuid, vifs=[trial.target.vif("hvct-fast")])
        _has(trial, uuid, {"hvct-fast": False, "hvct-usual": False}, "once it asks for none")
        trial.driver.reconnect(uuid, vifs=[fast])
        _has(trial, uuid, {"hvct-fast": True, "hvct-usual": False}, "once it asks for one")
    trial.driver.unplug_vif(uuid, "hvct-fast")
    _has(trial, uuid, {"hvct-usual": False}, "when the first one is gone")


@check(SRIOV_002)
def stays_where_functions_are(trial: Trial) -> None:
    fast = _fast(trial)
    if fast is None:
        return
    there = Elsewhere(trial)
    uuid = trial.spawn(vifs=(fast,)).uuid
    there.expect(uuid)
    with trial.target.without_functions():
        with trial.unchanged():
            plan = trial.driver.check_live_migration(uuid, there.destination)
        named = [each.kind for each in plan.blockers if each.device == "hvct-fast"]
        fits = set(named) <= {BlockerKind.NETWORK, BlockerKind.DEVICE}
        trial.check(named and fits, f"no blocker names the NIC: {plan.blockers}")
        move = partial(trial.driver.live_migrate, uuid, there.destination)
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            move()
        trial.equal(there.picture()["instances"], {}, "instances at the destination")
