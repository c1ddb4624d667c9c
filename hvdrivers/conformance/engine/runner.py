"""The engine behind all three doors: it runs checks against a target and makes a report.

The command, the pytest plug-in and the subclass all call ``Session.run_check``; so ids, statuses
and verdicts are the same whichever way one comes in.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hvdrivers.conformance.engine.clauses import CONTRACT_VERSION, Check, Level, Tier, catalogue
from hvdrivers.conformance.engine.finding import close_target, is_observed
from hvdrivers.conformance.engine.journal import PREFIX, Journal, is_suites
from hvdrivers.conformance.engine.latencies import Latencies
from hvdrivers.conformance.engine.observer import NotShown, PreconditionMissing
from hvdrivers.conformance.engine.refusals import refuse
from hvdrivers.conformance.engine.report import (
    GOOD,
    CheckResult,
    Report,
    Status,
    judge,
    overall,
    suite_hash,
)
from hvdrivers.conformance.engine.target import Target
from hvdrivers.conformance.engine.trial import Declined, Failed, Limited, Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.fields import names_of
from hvdrivers.models.host import HostInfo

WATCHDOG_SECONDS = 180.0
"""A check that takes longer has its stacks printed: that is how a deadlock is found."""


@dataclass(frozen=True)
class KnownIssue:
    """A check that is known to fail. It still runs; when it passes, the entry is wrong."""

    check: str
    bug: str
    expires: date


class LeftoversFound(Exception):
    """The host has instances of an earlier run: reap them first."""


class Session:
    """One run: one connection, opened late and kept, one journal, one fingerprint of what was on
    the host before."""

    def __init__(
        self,
        target: Target,
        *,
        journal: Path | None = None,
        known_issues: Iterable[KnownIssue] = (),
        seed: int | None = None,
    ) -> None:
        self.target = target
        self.journal = Journal(journal)
        self.seed = random.SystemRandom().randrange(2**31) if seed is None else seed
        self.results: list[CheckResult] = []
        self._known = {each.check: each for each in known_issues}
        self._driver: ComputeDriver | None = None
        self._second: ComputeDriver | None = None
        self._refusals: dict[Capability, str | None] = {}
        self._limit: str | None = None
        self._foreign: object = None
        self._began = datetime.now(UTC)
        self._clock = time.monotonic()
        self.latencies = Latencies()

    def __enter__(self) -> Self:
        log = logging.getLogger("hvdrivers.operations")
        log.addHandler(self.latencies)
        self._log_before = (log.level, log.propagate)
        # every operation is measured, and the console is not flooded with what is expected
        log.setLevel(logging.DEBUG)
        log.propagate = False
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        log = logging.getLogger("hvdrivers.operations")
        log.removeHandler(self.latencies)
        log.setLevel(self._log_before[0])
        log.propagate = self._log_before[1]
        with ExitStack() as closing:
            closing.callback(close_target, self.target)
            if self._driver is not None:
                closing.callback(self._driver.close)
            if self._second is not None:
                closing.callback(self._second.close)

    @property
    def driver(self) -> ComputeDriver:
        """The connection that the checks share."""
        if self._driver is None:
            driver = self.target.connect()
            try:
                found = [each for each in driver.list_instances() if each.name.startswith(PREFIX)]
                if found:
                    raise LeftoversFound(
                        f"{len(found)} instances of an earlier run are on the host:"
                        " 'hvdrivers conformance reap' removes them"
                    )
                self._foreign = _fingerprint(driver)
            except BaseException:
                driver.close()
                raise
            self._driver = driver
        return self._driver

    def second(self) -> ComputeDriver:
        """The second connection, which the checks share until one of them fails."""
        if self._second is None:
            self._second = self.target.connect()
        return self._second

    def _drop_second(self) -> None:
        """The check that failed may have spoiled it: the next check gets a new one."""
        second, self._second = self._second, None
        if second is not None:
            with suppress(Exception):  # the check has failed already
                second.close()

    def run(
        self,
        checks: Iterable[Check],
        *,
        on_result: Callable[[CheckResult], None] | None = None,
    ) -> list[CheckResult]:
        """Run several checks."""
        found = []
        for check in checks:
            result = self.run_check(check)
            found.append(result)
            if on_result is not None:
                on_result(result)
        return found

    def run_check(self, check: Check) -> CheckResult:
        """Run one check and remember its result."""
        began = time.monotonic()
        random.seed(f"{self.seed}/{check.id}")
        faulthandler.dump_traceback_later(
            WATCHDOG_SECONDS * self.target.time_scale, file=sys.__stderr__ or sys.stderr
        )
        self._limit = None
        try:
            status, message, detail = self._judged(check)
        finally:
            faulthandler.cancel_dump_traceback_later()
        result = CheckResult(
            check=check.id,
            clause=check.clause.id,
            level=check.clause.level,
            profile=check.clause.profile,
            status=status,
            message=message,
            limit=self._limit,
            detail=detail,
            seconds=round(time.monotonic() - began, 4),
        )
        self.results.append(result)
        return result

    def _judged(self, check: Check) -> tuple[Status, str, str]:
        status, message, detail = self._shown(check, *self._tried(check))
        known = self._known.get(check.id)
        if known is None:
            return status, message, detail
        if status is Status.PASSED:
            return Status.FAILED, f"passes although {known.bug} says that it fails", ""
        if datetime.now(UTC).date() > known.expires:
            return Status.FAILED, f"{known.bug} has expired on {known.expires}: {message}", detail
        return Status.KNOWN_ISSUE, f"{known.bug}: {message}", detail

    def _shown(
        self, check: Check, status: Status, message: str, detail: str
    ) -> tuple[Status, str, str]:
        """What the target says that its simulator cannot show."""
        target = self.target
        reason = target.not_shown.get(check.id)
        if status is Status.NOT_SHOWN or (reason is not None and status not in GOOD):
            if not target.simulated:
                return Status.ERROR, "the target is no simulator: it must show everything", detail
            return Status.NOT_SHOWN, reason or message, detail
        if reason is not None and status is Status.PASSED:
            return Status.FAILED, f"passes, although the target says: {reason}", ""
        return status, message, detail

    def _tried(self, check: Check) -> tuple[Status, str, str]:
        try:
            if check.tier is Tier.STATIC:
                static = StaticTrial(self.target)
                check.run(static)
                return _passed(static)
            driver = self.driver
        except Exception as error:  # noqa: BLE001 - any outcome of a check is a result
            return _classified(error)
        missing = check.all_needs - driver.capabilities
        if missing:
            return self._refused(missing)
        trial = Trial(self.target, driver, self.journal, self.second)
        try:
            try:
                check.run(trial)
                trial.expect_agreement()
            finally:
                trial.close()
        except Exception as error:  # noqa: BLE001 - any outcome of a check is a result
            if _plain_end(error, check.clause.level) is None:
                self._drop_second()
            if isinstance(error, Limited):
                self._limit = error.limit.value
            return _classified(error, check.clause.level)
        return _passed(trial)

    def _refused(self, missing: frozenset[Capability]) -> tuple[Status, str, str]:
        """The other side of a capability: not declared, so it must be refused."""
        for capability in sorted(missing):
            if capability not in self._refusals:
                self._refusals[capability] = self._refusal(capability)
            problem = self._refusals[capability]
            if problem is not None:
                return Status.FAILED, problem, ""
        return Status.REFUSED, f"not declared: {', '.join(sorted(missing))}", ""

    def _refusal(self, capability: Capability) -> str | None:
        trial = Trial(self.target, self.driver, self.journal, self.second)
        try:
            try:
                refuse(trial, capability)
            finally:
                trial.close()
        except Exception as error:  # noqa: BLE001 - any outcome of a check is a result
            return f"{capability} is not declared, but: {_classified(error)[1]}"
        return None

    def report(self, *, complete: bool) -> Report:
        """What was found so far."""
        driver = self._driver
        leftovers = self._leftovers()
        profiles = judge(self.results)
        return Report(
            contract_version=CONTRACT_VERSION,
            suite_hash=suite_hash(),
            driver=self.target.name,
            driver_version=_version_of(self.target),
            host=_host(driver),
            simulated=self.target.simulated,
            observed=is_observed(self.target),
            seed=self.seed,
            started_at=self._began,
            seconds=round(time.monotonic() - self._clock, 2),
            complete=complete,
            capabilities=tuple(sorted(driver.capabilities)) if driver is not None else (),
            absent={
                capability.value: reason
                for capability in Capability
                if driver is not None and (reason := driver.why_not(capability)) is not None
            },
            limits={limit.value: reason for limit, reason in driver.limits.items()}
            if driver is not None
            else {},
            takes=tuple(sorted(names_of(driver.takes))) if driver is not None else (),
            results=tuple(self.results),
            profiles=tuple(profiles),
            verdict=overall(profiles, leftovers=bool(leftovers)),
            leftovers=leftovers,
            latencies=self.latencies.table(),
        )

    def _leftovers(self) -> tuple[str, ...]:
        if self._driver is None:
            return ()
        driver = self._driver
        try:
            found = [
                f"instance {each.uuid}"
                for each in driver.list_instances()
                if each.name.startswith(PREFIX)
            ]
            if Capability.HOST_VOLUMES in driver.capabilities:
                found += [
                    f"volume {each.name}" for each in driver.list_volumes() if is_suites(each)
                ]
            if _fingerprint(driver) != self._foreign:
                found.append("the foreign machines are not what they were before the run")
        except errors.HypervisorError as error:
            return (f"nobody knows: the host does not tell ({error.message})",)
        return tuple(found)


class StaticTrial(Trial):
    """For checks of the driver class alone."""

    def __init__(self, target: Target) -> None:
        super().__init__(target, _NoDriver(), Journal())  # type: ignore[arg-type]


class _NoDriver:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a static check asked the host ({name})")


def _passed(trial: Trial) -> tuple[Status, str, str]:
    if trial.checked == 0:
        return Status.ERROR, "the check has checked nothing", ""
    return Status.PASSED, "", ""


def _classified(error: Exception, level: Level = Level.MUST) -> tuple[Status, str, str]:
    plain = _plain_end(error, level)
    if plain is not None:
        return plain, str(error), ""
    # the same report wherever the package lies
    root = f"{Path(__file__).parents[3]}{os.sep}"
    detail = "".join(traceback.format_exception(error)).replace(root, "")[-4000:]
    if isinstance(error, Failed):
        return Status.FAILED, str(error), detail
    if isinstance(error, errors.HypervisorError):
        return Status.FAILED, f"raised {type(error).__name__}: {error}", detail
    return Status.ERROR, f"{type(error).__name__}: {error}", detail


def _plain_end(error: Exception, level: Level) -> Status | None:
    """The status of what is no fault of the driver, and whose sentence says everything."""
    match error:
        case Limited():
            return Status.REFUSED
        case NotShown():
            return Status.NOT_SHOWN
        case PreconditionMissing():
            return Status.PRECONDITION_MISSING
        case Declined() if level is Level.MAY:
            return Status.DECLINED
        case _:
            return None


def _fingerprint(driver: ComputeDriver) -> object:
    return sorted((each.uuid.hex, each.name, each.state) for each in driver.list_foreign())


def _host(driver: ComputeDriver | None) -> HostInfo | None:
    try:
        return driver.host() if driver is not None else None
    except errors.HypervisorError:
        return None  # the checks have told of it; the report must come out all the same


def _version_of(target: Target) -> str:
    from importlib.metadata import PackageNotFoundError, packages_distributions, version

    try:
        package = target.driver_class().__module__.partition(".")[0]
        return version(packages_distributions().get(package, [package])[0])
    except (PackageNotFoundError, errors.HypervisorError):
        return "unknown"


def selected(
    *,
    profiles: Iterable[str] = (),
    clauses: Iterable[str] = (),
    tiers: Iterable[Tier] = tuple(Tier),
) -> list[Check]:
    """The checks to run: all, or those of these profiles, clauses (or single checks) and tiers."""
    wanted_profiles, wanted_clauses, wanted_tiers = set(profiles), set(clauses), set(tiers)
    return [
        each
        for each in catalogue().checks.values()
        if each.tier in wanted_tiers
        and (not wanted_profiles or each.clause.profile in wanted_profiles)
        and (not wanted_clauses or wanted_clauses & {each.clause.id, each.id})
    ]
