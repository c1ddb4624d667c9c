"""Seed images: the small CD from which cloud-init or cloudbase-init configures a guest.

Made in memory, so no path is involved and no command runs. The same input gives the same bytes, on
any day and in any process: a driver that repeats a lost spawn uploads what it uploaded before.

Sources: cloud-init's documentation of the datasources NoCloud and ConfigDrive, Nova's config drive,
ECMA-119 (ISO 9660) and SUSP/RRIP for the dates.
"""

from __future__ import annotations

import io
import ipaddress
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, NoReturn
from uuid import UUID

from pydantic import JsonValue

from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.models.cloudinit import CloudInit

__all__ = ["build_seed", "default_hostname", "seed_files"]

LABELS = {"nocloud": "cidata", "configdrive": "config-2"}
"""The volume label by which the guest finds its CD."""

_SECTOR = 2048


def build_seed(cloud_init: CloudInit, *, uuid: UUID, name: str) -> bytes:
    """The seed CD as an ISO 9660 image with Joliet (Windows) and Rock Ridge (Linux) names.

    Args:
        cloud_init: what the guest is to learn.
        uuid: the instance's UUID. It becomes cloud-init's instance id: a guest that sees another
            one than before runs its first boot again.
        name: the instance's name, from which the host name is made if none is given.

    Raises:
        InvalidRequest: a config drive cannot express the network configuration.
    """
    return _fixed_dates(_iso(LABELS[cloud_init.datasource], _files(cloud_init, uuid, name)))


def seed_files(cloud_init: CloudInit, *, uuid: UUID, name: str) -> Mapping[str, bytes]:
    """The files of the seed CD by their path, for a datasource that is no CD (a metadata service,
    vSphere's guestinfo). They contain secrets. Raises as :func:`build_seed`."""
    return _files(cloud_init, uuid, name)


def default_hostname(name: str, uuid: UUID) -> str:
    """A host name made from an instance's name: one label of lower-case ASCII letters, digits and
    inner hyphens. A name that has nothing of the kind gives ``vm-`` and the UUID's beginning."""
    folded = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    label = re.sub(r"[^a-z0-9]+", "-", folded).strip("-")
    if not label:
        return f"vm-{uuid.hex[:8]}"
    if label.isdigit():  # could be taken for an address
        label = f"vm-{label}"
    return label[:63].rstrip("-")


# ------------------------------------------------------------------------------------- content


def _files(config: CloudInit, uuid: UUID, name: str) -> dict[str, bytes]:
    hostname = config.hostname or default_hostname(name, uuid)
    user_data = None if config.user_data is None else config.user_data.get_secret_value()
    if config.datasource == "nocloud":
        return _nocloud(config, uuid, hostname, user_data)
    return _configdrive(config, uuid, name, hostname, user_data)


def _nocloud(
    config: CloudInit, uuid: UUID, hostname: str, user_data: bytes | None
) -> dict[str, bytes]:
    meta: dict[str, JsonValue] = {"instance-id": str(uuid), "local-hostname": hostname}
    if config.ssh_keys:
        meta["public-keys"] = list(config.ssh_keys)
    if config.meta:
        meta["meta"] = dict(config.meta)
    files = {
        "meta-data": _yaml(meta),
        # cloud-init takes the volume only if this file exists.
        "user-data": b"#cloud-config\n{}\n" if user_data is None else user_data,
    }
    if config.network_config is not None:
        files["network-config"] = _yaml(dict(config.network_config))
    if config.admin_password is not None:
        files["vendor-data"] = _password_config(config.admin_password.get_secret_value())
    return files


def _configdrive(
    config: CloudInit, uuid: UUID, name: str, hostname: str, user_data: bytes | None
) -> dict[str, bytes]:
    meta: dict[str, JsonValue] = {
        "uuid": str(uuid),
        "name": name,
        "hostname": hostname,
        "launch_index": 0,
        "meta": dict(config.meta),
    }
    if config.ssh_keys:
        meta["public_keys"] = {f"key-{i}": key for i, key in enumerate(config.ssh_keys)}
    files = {}
    if config.admin_password is not None:
        password = config.admin_password.get_secret_value()
        meta["admin_pass"] = password  # cloudbase-init reads this,
        vendor = {"cloud-init": _password_config(password).decode()}  # and cloud-init this
        files["openstack/latest/vendor_data.json"] = _json(vendor)
    files["openstack/latest/meta_data.json"] = _json(meta)
    if user_data is not None:
        files["openstack/latest/user_data"] = user_data
    if config.network_data is not None:
        files["openstack/latest/network_data.json"] = _json(dict(config.network_data))
    elif config.network_config is not None:
        translated = _network_data(config.network_config)
        files["openstack/latest/network_data.json"] = _json(translated)
    return files


def _password_config(password: str) -> bytes:
    # For the image's default user. SSH logins by password stay as the image has them.
    body = _yaml({"password": password, "chpasswd": {"expire": False}})
    return b"#cloud-config\n" + body


def _json(value: Mapping[str, JsonValue]) -> bytes:
    return _dumps(value, ensure_ascii=True).encode() + b"\n"


def _dumps(value: Mapping[str, JsonValue], *, ensure_ascii: bool) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=ensure_ascii)
    except (ValueError, RecursionError) as error:  # infinity, or nested too deeply
        raise InvalidRequest(
            "the network configuration cannot be written as JSON",
            hint="leave infinite numbers out, and nest it less deeply",
        ) from error


def _yaml(value: Mapping[str, JsonValue]) -> bytes:
    """JSON that PyYAML reads as the same value. It takes ``\\ud83d\\ude00`` for two characters, so
    nothing outside the BMP may be escaped; and some characters it accepts only escaped."""
    text = _dumps(value, ensure_ascii=False)
    escaped = re.sub(
        "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda m: f"\\u{ord(m[0]):04x}", text
    )
    try:
        return escaped.encode() + b"\n"
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise InvalidRequest(
            "the cloud-init data have a character that is none",
            hint="decode the text without surrogateescape",
        ) from error


# -------------------------------------------------------------------------- network_data.json


def _network_data(config: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Version 2 as OpenStack's network_data.json, as far as both can say the same."""
    _only(config, {"version", "ethernets", "renderer"})
    links: list[JsonValue] = []
    networks: list[JsonValue] = []
    services: list[JsonValue] = []
    for link, ethernet in _mapping(config.get("ethernets", {})).items():
        port = _mapping(ethernet)
        _only(
            port,
            {"match", "set-name", "mtu", "dhcp4", "dhcp6", "addresses", "gateway4"}
            | {"gateway6", "routes", "nameservers"},
        )
        match = _mapping(port.get("match", {}))
        _only(match, {"macaddress"})
        mac = match.get("macaddress")
        if not isinstance(mac, str):
            _untranslatable("an ethernet without match.macaddress")
        entry: dict[str, JsonValue] = {"id": link, "type": "phy", "ethernet_mac_address": mac}
        if "mtu" in port:
            entry["mtu"] = port["mtu"]
        links.append(entry)
        networks.extend(_networks(link, port, first=len(networks)))
        servers = _mapping(port.get("nameservers", {}))
        _only(servers, {"addresses"})
        for address in _list(servers.get("addresses", [])):
            services.append({"type": "dns", "address": str(_address(address))})
    return {"links": links, "networks": networks, "services": services}


def _networks(link: str, port: Mapping[str, JsonValue], *, first: int) -> list[JsonValue]:
    found: list[dict[str, JsonValue]] = []
    for version in (4, 6):
        if port.get(f"dhcp{version}") is True:
            found.append({"type": f"ipv{version}_dhcp"})
    routes = [_route(_mapping(route)) for route in _list(port.get("routes", []))]
    for version, default in ((4, "0.0.0.0/0"), (6, "::/0")):
        if f"gateway{version}" in port:
            routes.append(_route({"to": default, "via": port[f"gateway{version}"]}))
    statics: dict[int, dict[str, JsonValue]] = {}
    for text in _list(port.get("addresses", [])):
        try:
            interface = ipaddress.ip_interface(str(text))
        except ValueError:
            _untranslatable("an address that is none")
        network: dict[str, JsonValue] = {
            "type": f"ipv{interface.version}",
            "ip_address": str(interface.ip),
            "netmask": str(interface.netmask),
        }
        statics.setdefault(interface.version, network)
        found.append(network)
    for version, route in routes:
        if version not in statics:
            _untranslatable("a route without a static address of its kind")
        existing = statics[version].setdefault("routes", [])
        assert isinstance(existing, list)  # noqa: S101  (made above)
        existing.append(route)
    return [
        {"id": f"network{first + i}", "link": link, **network} for i, network in enumerate(found)
    ]


def _route(route: Mapping[str, JsonValue]) -> tuple[int, JsonValue]:
    _only(route, {"to", "via"})
    via = _address(route.get("via"))
    to = route.get("to")
    if to == "default":
        to = "0.0.0.0/0" if via.version == 4 else "::/0"
    try:
        target = ipaddress.ip_network(str(to))
    except ValueError:
        _untranslatable("a route to no network")
    if target.version != via.version:
        _untranslatable("a route through a gateway of another kind")
    return via.version, {
        "network": str(target.network_address),
        "netmask": str(target.netmask),
        "gateway": str(via),
    }


def _address(value: JsonValue) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(str(value))
    except ValueError:
        _untranslatable("an address that is none")


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, Mapping) else _untranslatable("a value that is no mapping")


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else _untranslatable("a value that is no list")


def _only(value: Mapping[str, JsonValue], known: set[str]) -> None:
    # The names of keys are the schema's, or a slip of the pen; their values may be secrets.
    if unknown := sorted(set(value) - known):
        _untranslatable(f"the keys {', '.join(repr(key[:40]) for key in unknown)}")


def _untranslatable(what: str) -> NoReturn:
    raise InvalidRequest(
        f"the network configuration for a config drive has {what}",
        hint="give OpenStack's own form as network_data=, or use datasource='nocloud'",
    )


# ----------------------------------------------------------------------------------------- ISO


def _iso(label: str, files: Mapping[str, bytes]) -> bytes:
    import pycdlib

    iso: Any = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=label, joliet=3, rock_ridge="1.09", sys_ident="LINUX")
    try:
        made: dict[str, str] = {"": ""}  # directories: the path, and its ISO 9660 name
        for path, content in sorted(files.items()):
            *parents, base = path.split("/")
            for depth in range(len(parents)):
                folder = "/".join(parents[: depth + 1])
                if folder not in made:
                    above = made["/".join(parents[:depth])]
                    made[folder] = f"{above}/{_iso_name(parents[depth])}"
                    iso.add_directory(
                        made[folder], rr_name=parents[depth], joliet_path=f"/{folder}"
                    )
            iso_name = _iso_name(base) + ("" if "." in base else ".")
            iso.add_fp(
                io.BytesIO(content),
                len(content),
                f"{made['/'.join(parents)]}/{iso_name};1",
                rr_name=base,
                joliet_path=f"/{path}",
                file_mode=0o100400,  # root only, where the guest mounts it with Rock Ridge
            )
        out = io.BytesIO()
        iso.write_fp(out)
        return out.getvalue()
    finally:
        iso.close()


def _iso_name(name: str) -> str:
    return re.sub(r"[^A-Z0-9_.]", "_", name.upper())


_VOLUME_DATE = b"1980010100000000\0"
_RECORD_DATE = bytes((80, 1, 1, 0, 0, 0, 0))


def _fixed_dates(image: bytes) -> bytes:
    """The image with every date set to 1980-01-01: pycdlib has no way to give them."""
    data = bytearray(image)
    sector = 16
    while data[sector * _SECTOR] != 255:  # the terminator of the volume descriptors
        start = sector * _SECTOR
        if data[start] in (1, 2):  # primary, and Joliet's
            for field in (813, 830, 864):  # creation, modification, effective
                data[start + field : start + field + 17] = _VOLUME_DATE
            data[start + 156 + 18 : start + 156 + 25] = _RECORD_DATE
            root = int.from_bytes(data[start + 158 : start + 162], "little")
            length = int.from_bytes(data[start + 166 : start + 170], "little")
            _fix_directory(data, root, length)
        sector += 1
    return bytes(data)


def _fix_directory(data: bytearray, extent: int, length: int) -> None:
    position, end = extent * _SECTOR, extent * _SECTOR + length
    while position < end:
        size = data[position]
        if not size:  # records do not cross sectors: the rest of this one is padding
            position = (position // _SECTOR + 1) * _SECTOR
            continue
        data[position + 18 : position + 25] = _RECORD_DATE
        name_length = data[position + 32]
        is_self_or_parent = name_length == 1 and data[position + 33] in (0, 1)
        _fix_rock_ridge(data, position + 33 + name_length + (not name_length % 2), position + size)
        if data[position + 25] & 2 and not is_self_or_parent:
            child = int.from_bytes(data[position + 2 : position + 6], "little")
            child_length = int.from_bytes(data[position + 10 : position + 14], "little")
            _fix_directory(data, child, child_length)
        position += size


def _fix_rock_ridge(data: bytearray, position: int, end: int) -> None:
    while position + 4 <= end and data[position + 2] >= 4:
        if data[position : position + 2] == b"TF":  # the time stamps: flags, then 7 bytes each
            for stamp in range(position + 5, position + data[position + 2], 7):
                data[stamp : stamp + 7] = _RECORD_DATE
        position += data[position + 2]
