"""The documented cmdlets: modules, parameter sets, types, positions, accepted values."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Bound:
    """A parameter as one set has it."""

    name: str
    mandatory: bool
    position: int | None


@dataclass(frozen=True)
class Documented:
    """One cmdlet. ``types`` are the short .NET names that the documentation prints."""

    module: str
    name: str
    types: Mapping[str, str]
    sets: Mapping[str, tuple[Bound, ...]]
    default: str | None
    confirms: bool
    values: Mapping[str, tuple[str, ...]]


_REMOTE = (
    Bound("CimSession", False, None),
    Bound("ComputerName", False, None),
    Bound("Credential", False, None),
)
_REMOTE_TYPES = {
    "CimSession": "CimSession[]",
    "ComputerName": "String[]",
    "Credential": "PSCredential[]",
}
_TOKEN = re.compile(r"(?P<name>\w+)(?P<mandatory>!?)(?:@(?P<position>\d+))?")


@cache
def documented() -> Mapping[str, Documented]:
    """Every cmdlet of the documented modules by its name."""
    text = resources.files(__package__).joinpath("cmdlets.json").read_text("utf-8")
    document = json.loads(text)
    found: dict[str, Documented] = {}
    for module, cmdlets in document.items():
        if module == "source":
            continue
        for name, entry in cmdlets.items():
            types = dict(pair.split(":", 1) for pair in entry["types"].split())
            if any("+" in text.split() for text in entry["sets"].values()):
                types |= _REMOTE_TYPES
            sets = {key.removesuffix("*"): _set(text) for key, text in entry["sets"].items()}
            default = next((key[:-1] for key in entry["sets"] if key.endswith("*")), None)
            values = {key: tuple(accepted) for key, accepted in entry.get("values", {}).items()}
            found[name] = Documented(
                module, name, types, sets, default, entry.get("confirm", False), values
            )
    return found


def _set(text: str) -> tuple[Bound, ...]:
    bound: list[Bound] = []
    for token in text.split():
        if token == "+":  # noqa: S105 - the mark for the three remote parameters
            bound.extend(_REMOTE)
            continue
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise ValueError(f"not a parameter: {token!r}")
        position = match["position"]
        bound.append(
            Bound(match["name"], match["mandatory"] == "!", int(position) if position else None)
        )
    return tuple(bound)
