"""Reading the untyped dictionaries of Neutron, Nova and os-vif, with errors that name the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.invalid import in_words
from hvdrivers.models.vif import Vif

Map = Mapping[str, object]

_AS_THEY_ARE = "give it as Neutron, Nova or os-vif has it"
_ADAPTER: TypeAdapter[Vif] = TypeAdapter(Vif, config=ConfigDict(hide_input_in_errors=True))


def given(value: object) -> object:
    """A value without what says nothing. None and empty text mean "not set" in all three shapes,
    at any depth: a database column that was never filled comes as either."""
    if isinstance(value, Mapping):
        return {key: given(item) for key, item in value.items() if item is not None and item != ""}
    if isinstance(value, list | tuple):
        return [given(item) for item in value]
    return value


def mtu_of(value: object) -> object:
    """Neutron and Nova write 0 for a network without an MTU of its own."""
    return None if value in (None, "", 0, "0") else value


def validate(fields: dict[str, object]) -> Vif:
    try:
        return _ADAPTER.validate_python(given(fields))
    except ValidationError as error:
        problems = in_words(error, below=1, whole="the VIF")
        raise InvalidRequest(
            f"VIF {fields.get('id', '(no id)')}: {problems}", hint=_AS_THEY_ARE
        ) from error


def text_of(source: Map, key: str) -> str | None:
    value = source.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{key} is not text", hint=_AS_THEY_ARE)
    return value or None


def map_of(source: Map, key: str) -> Map:
    value = source.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise InvalidRequest(f"{key} is not a mapping", hint=_AS_THEY_ARE)
    return value or {}


def maps_of(source: Map, key: str) -> Sequence[Map]:
    value = source.get(key)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(v, Mapping) for v in value):
        raise InvalidRequest(f"{key} is not a list of mappings", hint=_AS_THEY_ARE)
    return value


def vlan_of(value: object) -> object:
    return None if value in (None, "", 0, "0") else value  # both spell "untagged"


def _ip(value: object) -> object:
    """An address of Nova's, ``{"address": …}``, or of os-vif's, text."""
    return value.get("address") if isinstance(value, Mapping) else value


def addresses_of(subnets: Sequence[Map]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for subnet in subnets:
        cidr = subnet.get("cidr")
        try:
            prefix = ip_network(str(cidr), strict=False).prefixlen if cidr else None
        except ValueError:
            raise InvalidRequest(
                "the cidr of a subnet is not an IP network", hint=_AS_THEY_ARE
            ) from None
        shared = {
            "prefix_length": prefix,
            "gateway": _ip(subnet.get("gateway")),
            "dns": [_ip(server) for server in _list(subnet.get("dns"))],
            "routes": [
                {"destination": route.get("cidr"), "gateway": _ip(route.get("gateway"))}
                for route in maps_of(subnet, "routes")
                if _ip(route.get("gateway"))
            ],
            "dhcp": bool(map_of(subnet, "meta").get("dhcp_server")),
        }
        found.extend({"address": _ip(ip), **shared} for ip in _list(subnet.get("ips")))
    return found


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
