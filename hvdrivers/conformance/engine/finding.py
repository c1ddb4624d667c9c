"""From a driver's name to its target, for the command and the pytest plug-in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from hvdrivers import raised
from hvdrivers.conformance.engine.target import DriverTarget, Target
from hvdrivers.contract.errors import HypervisorError, InvalidRequest, PluginError
from hvdrivers.invalid import in_words
from hvdrivers.models.image import ImageRef
from hvdrivers.plugins.discovery import alternatives, driver_of_scheme, load_driver, registered

TARGETS = "hvdrivers.conformance"
"""Entry-point group of targets, by the driver's name. Each is called with the options of the
command line as keyword arguments, and ``image=`` if one was given."""

_NEEDS_HOST = (
    "the suite runs against a host of yours: give each of these by --option NAME=VALUE, or in the"
    " TOML file of --config"
)
_AUTHOR = "this is a bug in the target: tell the author of the driver's package"


def find_target(
    driver: str, *, image: ImageRef | None = None, options: Mapping[str, Any] | None = None
) -> Target:
    """The target that the driver's package brings, or a DriverTarget.

    Raises:
        InvalidRequest: no such driver, or options that it does not take.
        PluginError: the target is registered, and not usable.
    """
    arguments: dict[str, Any] = dict(options or {})
    if image is not None:
        arguments["image"] = image
    claims = registered(TARGETS).get(driver, [])
    if not claims:
        drivers = registered()
        if driver not in drivers:
            raise InvalidRequest(
                "a URL is no driver's name"
                if "://" in driver
                else f"no package installed here registers the driver {driver!r}",
                hint=_hint(driver, drivers),
            )
        return DriverTarget(driver, **arguments)
    if len(claims) > 1:
        owners = " and ".join(sorted(claim.value for claim in claims))
        raise PluginError(
            f"the conformance target {driver!r} is registered by {owners}",
            hint="uninstall all but one of them",
        )
    try:
        make = claims[0].load()
    except (Exception, SystemExit) as error:
        if isinstance(error, ImportError):
            # where the driver lacks a package too, its own error says how to get it
            load_driver(driver)
        raise PluginError(
            f"the conformance target {claims[0].value} cannot be imported:"
            f" {type(error).__name__}: {error}",
            hint=f"hvdrivers drivers says whether the driver {driver!r} itself can be used",
        ) from error
    try:
        target = make(**arguments)
    except TypeError as error:
        raise InvalidRequest(f"{claims[0].value} does not take these options: {error}") from error
    except ValidationError as error:
        missing = any(each["type"] == "missing" for each in error.errors())
        raise InvalidRequest(
            f"{driver}: {in_words(error)}", hint=_NEEDS_HOST if missing else None
        ) from None
    except HypervisorError:
        raise
    except Exception as error:
        raise PluginError(
            f"the conformance target {claims[0].value} cannot be made: {raised.in_words(error)}",
            hint=_AUTHOR,
        ) from error
    if not isinstance(target, Target):
        raise PluginError(f"{claims[0].value} made {target!r}, which is no conformance Target")
    return target


def _hint(wanted: str, drivers: Collection[str]) -> str:
    """What helps who named no driver; a URL is shown as its scheme, as it may hold a password."""
    if "://" not in wanted:
        return alternatives(wanted, drivers)
    try:
        name = driver_of_scheme(wanted.partition(":")[0].partition("+")[0].lower())
        fields = load_driver(name).config_model.model_fields
    except HypervisorError:
        return f"name a driver in place of a URL; {alternatives('', drivers)}"
    option = next((each for each in ("uri", "host", "address") if each in fields), None)
    given = "" if option is None else f" --option {option}={'URL' if option == 'uri' else 'HOST'}"
    return f"name the driver in place of a URL: hvdrivers conformance run {name}{given}"


def close_target(target: Target) -> None:
    """End a target.

    Raises:
        PluginError: its close() failed.
    """
    try:
        target.close()
    except HypervisorError:
        raise
    except Exception as error:
        raise PluginError(
            f"close() of the conformance target {target.name!r} raised {raised.in_words(error)}",
            hint=_AUTHOR,
        ) from error


def is_observed(target: Target) -> bool:
    """Whether the target has an observer. One that cannot be made is none: its checks say why."""
    try:
        return target.observer() is not None
    except Exception:  # noqa: BLE001 - a report of the whole run must not be lost to it
        return False
