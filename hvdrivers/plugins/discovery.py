"""Find what is installed, load one driver, and tell what is wrong with the others."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, Protocol, cast

from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.driver import Driver
from hvdrivers.contract.errors import ConnectionFailed, InvalidRequest, PluginError
from hvdrivers.installing import install_hint
from hvdrivers.models.base import Model
from hvdrivers.plugins.check import faults_of

DRIVERS = "hvdrivers.drivers"
"""Entry-point group of driver classes, by name."""
SCHEMES = "hvdrivers.schemes"
"""Entry-point group of the same classes, by URL scheme (what stands before ``+`` or ``:``)."""


class PluginInfo(Model):
    """One registered driver, and whether it can be used here."""

    name: str
    distribution: str
    """The package that registers it, as ``pip`` names it."""
    version: str
    module: str
    """``package.module:Class``."""
    schemes: tuple[str, ...]
    """URL schemes that lead to it."""
    usable: bool
    reason: str | None = None
    """Why it is not usable."""
    hint: str | None = None
    """What to do about it: the install command where something is missing."""
    capabilities: tuple[Capability, ...] = ()
    """What its code can do beyond Core; a host may narrow that. Empty if it is not usable."""


class Installed(Protocol):
    """What all installed packages register, of every group."""

    def select(self, *, group: str) -> EntryPoints:
        """The entry points of one group."""


def installed() -> Installed:
    """Look at the metadata of each installed package once. What needs several answers about them
    hands this on, so that it does not look again for each."""
    try:
        return entry_points()
    except OSError as error:  # a process that can open no more files, say
        raise ConnectionFailed(
            f"what is installed here cannot be read: {error.strerror or error}",
            hint="the process may be at its limit of open files: see `ulimit -n`",
        ) from error


def registered(group: str = DRIVERS, among: Installed | None = None) -> dict[str, list[EntryPoint]]:
    """Entry points by name. More than one under a name is a conflict, and nobody's to resolve.

    Args:
        among: what has been found installed. None: look.
    """
    found: dict[str, list[EntryPoint]] = {}
    of_group = (among or installed()).select(group=group)
    for entry_point in sorted(of_group, key=lambda each: each.name):
        found.setdefault(entry_point.name, []).append(entry_point)
    return found


def list_plugins() -> list[PluginInfo]:
    """Every registered driver, by name. One that is broken, or whose name is taken twice, is
    listed with the reason, and stops none of the others."""
    among = installed()
    schemes: dict[str, list[str]] = {}
    for scheme, claims in registered(SCHEMES, among).items():
        for claim in claims:
            schemes.setdefault(claim.value, []).append(scheme)
    return [
        _info(entry_point, tuple(schemes.get(entry_point.value, ())), among)
        for claims in registered(among=among).values()
        for entry_point in claims
    ]


def _info(entry_point: EntryPoint, schemes: tuple[str, ...], among: Installed) -> PluginInfo:
    reason = hint = None
    capabilities: Iterable[Capability] = ()
    try:
        capabilities = declared(load_driver(entry_point.name, among))
    except PluginError as error:
        reason, hint = error.message, error.hint
    return PluginInfo(
        name=entry_point.name,
        distribution=entry_point.dist.name if entry_point.dist else "",
        version=entry_point.dist.version if entry_point.dist else "",
        module=entry_point.value,
        schemes=schemes,
        usable=reason is None,
        reason=reason,
        hint=hint,
        capabilities=tuple(sorted(capabilities)),
    )


def load_driver(name: str, among: Installed | None = None) -> type[Driver]:
    """The class registered under this name, imported and judged.

    Args:
        among: what has been found installed. None: look.

    Raises:
        InvalidRequest: no package registers this name.
        PluginError: registered, and not usable; the message says why, the hint what to install.
    """
    entry_point = _only(DRIVERS, "driver", name, among)
    cls = _imported(entry_point)
    faults = faults_of(cls, name)
    if faults:
        raise PluginError(
            f"{_origin(entry_point)} registers the driver {name!r}, which does not keep the"
            f" contract: {'; '.join(faults)}",
            hint="report this to the driver's author",
        )
    return cast(type[Driver], cls)


def driver_of_scheme(scheme: str, among: Installed | None = None) -> str:
    """The name of the driver that a URL scheme leads to.

    Args:
        among: what has been found installed. None: look.

    Raises:
        InvalidRequest: no package registers this scheme.
        PluginError: two do, or it leads to a class that is registered as no driver.
    """
    among = among or installed()
    wanted = _only(SCHEMES, "URL scheme", scheme, among)
    for name, claims in registered(among=among).items():
        if any(claim.value == wanted.value for claim in claims):
            return name
    raise PluginError(
        f"{_origin(wanted)} registers the URL scheme {scheme!r} for {wanted.value}, which no"
        f" package registers as a driver",
        hint="report this to the driver's author",
    )


def alternatives(wanted: str, existing: Iterable[str]) -> str:
    """What a hint says about a name that does not exist: close ones first, then all."""
    names = sorted(existing)
    return f"{close_to(wanted, names)}there are: {', '.join(names) or 'none'}"


def close_to(wanted: str, existing: Iterable[str]) -> str:
    """``did you mean 'libvirt'?`` and a blank, or nothing."""
    close = difflib.get_close_matches(wanted, sorted(existing), n=3)
    return f"did you mean {' or '.join(map(repr, close))}? " if close else ""


def _only(group: str, what: str, name: str, among: Installed | None) -> EntryPoint:
    found = registered(group, among)
    claims = found.get(name, [])
    if not claims:
        raise InvalidRequest(
            f"no package installed here registers the {what} {name!r}",
            hint=alternatives(name, found),
        )
    if len(claims) > 1:
        owners = " and ".join(sorted(_origin(claim) for claim in claims))
        raise PluginError(
            f"the {what} {name!r} is registered by {owners}",
            hint="uninstall all but one of them",
        )
    return claims[0]


def _imported(entry_point: EntryPoint) -> object:
    try:
        return _through_stevedore(entry_point)
    # SystemExit: a module that exits when imported must not end the program that lists it
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{_origin(entry_point)} registers the driver {entry_point.name!r}, which cannot be"
            f" imported: {type(error).__name__}: {error}",
            hint=_install_command(entry_point, error) or "reinstall it, or report it to its author",
        ) from error


def _through_stevedore(entry_point: EntryPoint) -> object:
    from stevedore import DriverManager
    from stevedore.exception import MultipleMatches, NoMatches

    failures: list[BaseException] = []
    try:
        manager: DriverManager[Any] = DriverManager(
            entry_point.group,
            entry_point.name,
            on_load_failure_callback=lambda _manager, _found, error: failures.append(error),
            on_missing_entrypoints_callback=None,
        )
        found = manager[entry_point.name]
        if found.entry_point.value == entry_point.value:
            return found.plugin
    except (NoMatches, MultipleMatches):
        pass
    # It does not load, or stevedore's cache is older than what is installed (it compares times
    # to within two minutes): the metadata decides, and gives the true error.
    return entry_point.load()


def _origin(entry_point: EntryPoint) -> str:
    if entry_point.dist is None:
        return entry_point.value
    return f"{entry_point.dist.name} {entry_point.dist.version}"


def _install_command(entry_point: EntryPoint, error: BaseException) -> str | None:
    """How to install the missing module: the package's extra that has the driver's name."""
    distribution = entry_point.dist
    if distribution is None or not isinstance(error, ImportError):
        return None
    own = entry_point.module.partition(".")[0]
    if error.name is not None and error.name.partition(".")[0] == own:
        return None  # the package misses a part of itself: no extra brings that
    extras = distribution.metadata.get_all("Provides-Extra") or []
    wanted = {_normal(name) for name in (*entry_point.extras, entry_point.name)}
    for extra in extras:
        if _normal(extra) in wanted:
            if _normal(distribution.name) == "hvdrivers":
                return install_hint(extra)
            return f"pip install '{distribution.name}[{extra}]'"
    return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
