"""Hosts by name, from a TOML file, so that programs and people need not repeat addresses::

    [hosts.lab1]
    driver = "libvirt"
    uri = "qemu+ssh://root@lab1.example/system"

    [hosts.esx1]
    driver = "vmware"
    host = "esx1.example"
    username = "automation"
    password_file = "esx1.password"    # relative to this file; fills ``password``

The file is ``$XDG_CONFIG_HOME/hvdrivers/hosts.toml`` (``~/.config/hvdrivers/hosts.toml``) unless
the caller names another. Keys are those of the driver's configuration. A secret may stand in the
file itself or in one of its own, as long as not everybody on the machine can read that.

Who can write the file can run programs as its reader (``qemu+ext://…?command=``). So it is refused
unless it belongs to its reader or to root, and only they can write it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.limits import HOSTS_FILE_BYTES
from hvdrivers.models._veil import holds_secret
from hvdrivers.models.config import DriverConfig
from hvdrivers.plugins.discovery import Installed, registered

_TABLES = 'a host is a table [hosts.NAME], with driver = "..." and the options of that driver'
_FILE = "_file"


@dataclass(frozen=True)
class Host:
    """One table of the file."""

    name: str
    driver: str
    options: dict[str, object]
    path: Path
    private: bool
    """Whether the file may hold secrets: others cannot read it."""

    @property
    def where(self) -> str:
        """What an error names."""
        return f"{self.path}: [hosts.{self.name}]"


def default_hosts_file() -> Path:
    """The file that is read if the caller names none; it need not exist."""
    try:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    except RuntimeError as error:
        raise InvalidRequest(
            "this user has no home folder", hint="set XDG_CONFIG_HOME, or give config_file="
        ) from error
    return Path(base, "hvdrivers", "hosts.toml")


def list_hosts(config_file: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """The names of the hosts in the file, each with the name of its driver.

    Args:
        config_file: None means the default file, which need not exist.

    Raises:
        InvalidRequest: the file cannot be read, or says something unknown.
    """
    return {host.name: host.driver for host in read_hosts(config_file).values()}


def read_hosts(
    config_file: str | os.PathLike[str] | None = None, among: Installed | None = None
) -> dict[str, Host]:
    """The file's hosts by name. A default file that is not there has none.

    Args:
        among: what has been found installed. None: look, if there is a host.
    """
    path = default_hosts_file() if config_file is None else Path(config_file)
    try:
        text, private = _read(path)
    except FileNotFoundError:
        if config_file is None:
            return {}
        raise InvalidRequest(
            f"{path}: there is no such file", hint="make it, or leave config_file= out"
        ) from None
    import tomllib  # a URL needs no file

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path}: {error}", hint=_TABLES) from None
    except (ValueError, RecursionError):  # a number of thousands of digits; nested too deeply
        raise InvalidRequest(f"{path}: it is no TOML that can be read", hint=_TABLES) from None
    tables = content.pop("hosts", {})
    if content:
        raise InvalidRequest(f"{path}: unknown key {min(content)!r}", hint=_TABLES)
    if not isinstance(tables, dict):
        raise InvalidRequest(f"{path}: 'hosts' must be tables", hint=_TABLES)
    drivers = registered(among=among) if tables else {}
    return {name: _host(path, name, table, private, drivers) for name, table in tables.items()}


def _host(path: Path, name: str, table: object, private: bool, drivers: Collection[str]) -> Host:
    where = f"{path}: [hosts.{name}]"
    if not isinstance(table, dict):
        raise InvalidRequest(f"{where} must be a table", hint=_TABLES)
    options = dict(table)
    driver = options.pop("driver", None)
    if not isinstance(driver, str):
        raise InvalidRequest(
            f'{where} must name its driver: driver = "..."',
            hint="hvdrivers drivers shows those that are installed",
        )
    if name in drivers:
        raise InvalidRequest(
            f"{where} has the name of a driver, which connect({name!r}) would mean",
            hint="give the host another name",
        )
    return Host(name=name, driver=driver, options=options, path=path, private=private)


def options_of(host: Host, model: type[DriverConfig]) -> tuple[dict[str, object], set[str]]:
    """The host's options for ``model``, and the names of those that came from files of their own.

    ``password_file`` fills ``password`` where that is a secret of the model, unless the model has
    a ``password_file`` of its own.
    """
    options, filled = dict(host.options), set()
    for key in host.options:
        field = key.removesuffix(_FILE)
        if key in model.model_fields or field == key or not is_secret(model, field):
            continue
        if field in options:
            raise InvalidRequest(
                f"{host.where} has both {field!r} and {key!r}", hint="leave one of them out"
            )
        options[field] = _secret_file(host, key, options.pop(key))
        filled.add(field)
    return options, filled


def refuse_exposed(host: Host, model: type[DriverConfig], from_files: Collection[str]) -> None:
    """Raise InvalidRequest if a secret stands in a file that everybody can read."""
    for key in host.options:
        if is_secret(model, key) and key not in from_files and not host.private:
            raise InvalidRequest(
                f"{host.where} holds the secret {key!r}, and everybody on this machine can read it",
                hint=f"chmod o= {host.path}, or use {key}{_FILE}",
            )


def is_secret(model: type[DriverConfig], field: str) -> bool:
    """Whether a field of the model is a SecretStr or SecretBytes, or may be."""
    info = model.model_fields.get(field)
    return info is not None and holds_secret(info.annotation)


def _secret_file(host: Host, key: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(
            f"{host.where} {key}: must be a path", hint="name a file that holds the secret alone"
        )
    try:
        path = host.path.parent / Path(value).expanduser()
    except (ValueError, RuntimeError):  # ~ and a user who does not exist
        raise InvalidRequest(
            f"{host.where} {key}: is no path", hint="name a file of this machine"
        ) from None
    try:
        text, private = _read(path)
    except FileNotFoundError:
        raise InvalidRequest(
            f"{host.where} {key}: there is no file {path}",
            hint="make it, with the secret alone in it",
        ) from None
    if not private:
        raise InvalidRequest(
            f"{host.where} {key}: everybody on this machine can read {path}",
            hint=f"chmod o= {path}",
        )
    return text.removesuffix("\n").removesuffix("\r")  # editors end a file with a line break


def _read(path: Path) -> tuple[str, bool]:
    """A file's text, and whether others are kept out of it.

    Raises:
        FileNotFoundError: as ``open`` does.
        InvalidRequest: anything else, others who can write it among them.
    """
    try:
        # A FIFO would wait for a writer, and a device may act: O_NONBLOCK opens them at once.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            _refuse_writable(path, status)
            data = file.read(HOSTS_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidRequest(
            f"{path}: {error.strerror}", hint="name a file that this process may read"
        ) from error
    except ValueError:  # a NUL, or a character that the file system cannot have
        raise InvalidRequest(
            f"{os.fspath(path)!r} is no path", hint="name a file of this machine"
        ) from None
    if len(data) > HOSTS_FILE_BYTES:
        raise InvalidRequest(
            f"{path}: is longer than {HOSTS_FILE_BYTES} bytes", hint="give a shorter file"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path}: is not UTF-8 text", hint="write it again as UTF-8") from None
    return text, os.name != "posix" or not status.st_mode & stat.S_IROTH


def _refuse_writable(path: Path, status: os.stat_result) -> None:
    """Who can write the file decides what is in it, or can put another in its place."""
    if not stat.S_ISREG(status.st_mode):
        raise InvalidRequest(f"{path}: is no regular file", hint="name a file of this machine")
    if os.name != "posix":
        return
    if status.st_uid not in {os.geteuid(), 0}:
        raise InvalidRequest(
            f"{path}: belongs to another user, who decides what is in it",
            hint="copy it to a file of your own, or name another",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidRequest(
            f"{path}: others can write it, and what it says can run programs",
            hint=f"chmod go-w {path}",
        )
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise InvalidRequest(
                f"{path}: others can write {folder}, and put another file in its place",
                hint=f"chmod o-w {folder}",
            )
