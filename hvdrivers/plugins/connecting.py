"""connect(): from a name or a URL to a driver behind the guard."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from hvdrivers.contract.driver import ComputeDriver, Driver
from hvdrivers.contract.errors import ContractViolation, HypervisorError, InvalidRequest
from hvdrivers.guard import guarded
from hvdrivers.invalid import field_of, plain
from hvdrivers.models.config import CREDENTIALS_HINT, DriverConfig
from hvdrivers.plugins import hosts
from hvdrivers.plugins.discovery import (
    Installed,
    alternatives,
    close_to,
    driver_of_scheme,
    installed,
    load_driver,
    registered,
)
from hvdrivers.raised import in_words, is_whole
from hvdrivers.redact import blot_error, secrets_in

_log = logging.getLogger("hvdrivers")


def connect(
    target: str,
    /,
    *,
    config_file: str | os.PathLike[str] | None = None,
    **options: object,
) -> ComputeDriver:
    """Connect to a host.

    ::

        connect("libvirt", uri="qemu:///system")      # a driver, and its options
        connect("qemu+ssh://root@lab1/system")        # a URL: its scheme names the driver
        connect("lab1")                               # a host of the hosts file
        connect("lab1", config_file="hosts.toml")     # ... of another file

    ``target`` is a URL if it contains ``://``, otherwise a driver if one has this name, otherwise
    a host of the file (``hvdrivers.plugins.hosts`` describes it). So a program that names a
    driver or a URL connects to the same host whatever files a machine has; a host in the file
    cannot have the name of a driver. With ``config_file`` it is a host of that file and nothing
    else.

    Args:
        config_file: a TOML file of hosts, instead of the default one.
        options: fields of the driver's configuration model; for a URL or a host they come beside
            what that says, and go before it.

    Raises:
        InvalidRequest: no such driver, URL scheme, host or option, or a wrong value.
        PluginError: the driver's package, or one that it needs, is missing or broken.
        ConnectionFailed, AuthenticationFailed, PermissionDenied: from the host.
    """
    cls, config, host = _resolve(target, config_file, options)
    secrets = {*secrets_in(config), *_password_of(target)}
    with _reported(cls, host, secrets):
        driver = cls.connect(config)
        if not isinstance(driver, Driver):
            raise ContractViolation(
                f"{cls.driver_name} returned {type(driver).__name__} from connect(), not a driver"
            )
        try:
            return guarded(
                driver, timeout_scale=config.operation_timeout_scale, secrets=frozenset(secrets)
            )
        except BaseException:
            driver.close()
            raise


def _resolve(
    target: str, config_file: str | os.PathLike[str] | None, options: dict[str, object]
) -> tuple[type[Driver], DriverConfig, str | None]:
    """The class, its configuration, and the host as errors may name it, if that is known."""
    if config_file is None and "://" in target:
        # only the scheme goes into messages: the rest may hold a password
        scheme = target.partition(":")[0].partition("+")[0].lower()
        among = installed()
        cls = load_driver(driver_of_scheme(scheme, among), among)
        if not addressed_by_url(cls.config_model):
            raise InvalidRequest(
                f"the driver of {scheme}: is not addressed by a URL",
                hint="call connect() with the driver's name and its options",
            )
        with _no_bare_errors(cls.config_model, f"{scheme} URL"):
            return cls, cls.config_model.from_url(target, **options), _shown(target)
    among = installed()
    if config_file is None and target in registered(among=among):
        cls = load_driver(target, among)
        with _no_bare_errors(cls.config_model, target):
            return cls, cls.config_model.model_validate(options), None
    host = _host(target, config_file, among)
    cls = load_driver(host.driver, among)
    found, from_files = hosts.options_of(host, cls.config_model)
    hosts.refuse_exposed(host, cls.config_model, from_files)
    with _no_bare_errors(cls.config_model, host.where):
        return cls, cls.config_model.model_validate(found | options), host.name


def _host(target: str, config_file: str | os.PathLike[str] | None, among: Installed) -> hosts.Host:
    known = hosts.read_hosts(config_file, among)
    if target in known:
        return known[target]
    path = hosts.default_hosts_file() if config_file is None else config_file
    if config_file is not None:
        raise InvalidRequest(
            f"{os.fspath(path)} has no host {target!r}", hint=alternatives(target, known)
        )
    drivers = registered(among=among)
    url = "a URL has :// behind its scheme; " if ":" in target else ""
    raise InvalidRequest(
        f"{target!r} is neither a driver nor a host in {path}",
        hint=f"{url}{close_to(target, [*drivers, *known])}drivers: {', '.join(drivers) or 'none'};"
        f" hosts: {', '.join(known) or 'none'}",
    )


def addressed_by_url(model: type[DriverConfig]) -> bool:
    """Whether a driver's configuration has a from_url() of its own."""
    own: object = getattr(model.from_url, "__func__", None)
    return own is not getattr(DriverConfig.from_url, "__func__", None)


@contextmanager
def _no_bare_errors(model: type[DriverConfig], where: str) -> Iterator[None]:
    """Turn a validation error into one of the tree, without the values: they may be secrets."""
    try:
        yield
    except ValidationError as error:
        problems, hint = [], None
        for problem in error.errors(include_input=False, include_url=False, include_context=False):
            key = field_of(problem["loc"])
            if problem["type"] == "extra_forbidden":
                problems.append(f"unknown option {key!r}")
                hint = alternatives(key, model.model_fields)
            elif problem["type"] == "missing":
                problems.append(f"the option {key!r} is missing")
                hint = hint or (CREDENTIALS_HINT if key == "password" else None)
            else:
                problems.append(": ".join(filter(None, (key, plain(problem["msg"])))))
        raise InvalidRequest(
            f"{where}: {'; '.join(problems)}",
            hint=hint or f"the documentation of {model.__name__} names the options",
        ) from None
    except (ValueError, RecursionError):  # urlsplit(): brackets, a port; and what quotes its input
        raise InvalidRequest(
            f"{where}: it cannot be read",
            hint="look at the brackets and the port of a URL, and at values that are nested deeply",
        ) from None


@contextmanager
def _reported(cls: type[Driver], host: str | None, secrets: Iterable[str]) -> Iterator[None]:
    """Complete the errors of connecting as the guard completes those of the operations."""
    try:
        try:
            yield
        except Exception as error:
            if isinstance(error, HypervisorError) and is_whole(error):
                raise
            raise ContractViolation(
                f"{cls.driver_name} raised {in_words(error)} from connect()"
            ) from error
    except BaseException as error:
        blot_error(error, secrets)
        if isinstance(error, HypervisorError):
            error.locate(operation="connect", host=host)
        _log.warning("connect driver=%s outcome=%s", cls.driver_name, type(error).__name__)
        raise
    _log.info("connect driver=%s outcome=ok", cls.driver_name)


def _password_of(target: str) -> Iterator[str]:
    try:
        password = urlsplit(target).password
    except ValueError:  # a malformed address: the driver has refused it, or understands it better
        return
    if password:
        yield from {password, unquote(password)}


def _shown(url: str) -> str:
    """Scheme, host and path: neither user, password nor query."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
