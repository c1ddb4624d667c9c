"""Tables that are made from the contract's own data, so that no page can lag behind it.

A page says ``<!-- table: states -->`` where it wants one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver, state_table
from hvdrivers.contract.errors import PluginError
from hvdrivers.contract.operation import Operation, Repeat, Scope
from hvdrivers.contract.states import End, InstanceState, Outcome

TOPICS = (
    "connection",
    "resources",
    "lifecycle",
    "power",
    "storage",
    "network",
    "consoles",
    "events",
    "metrics",
    "snapshots",
    "guest",
    "images",
    "migration",
    "maintenance",
    "shares",
)
"""In the order of the navigation. A new topic fails the build until it has its place."""

_MARKER = re.compile(r"<!-- table: (\w+) -->")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _anchor(name: str) -> str:
    rules = OPERATIONS[name.partition("[")[0]]
    for base in ComputeDriver.__mro__:
        if rules.name in base.__dict__.get("__hv_operations__", {}):
            path = f"hvdrivers.contract.{rules.topic}.{base.__name__}.{rules.name}"
            return f"[`{name}`](reference/{rules.topic}.md#{path})"
    raise LookupError(name)


def in_order() -> list[Operation]:
    """The operations as the contract reads: topic by topic, each file from top to bottom."""

    def place(rules: Operation) -> tuple[int, int]:
        function = getattr(ComputeDriver, rules.name)
        return TOPICS.index(rules.topic), function.__code__.co_firstlineno

    return sorted(OPERATIONS.values(), key=place)


def cell(outcome: Outcome) -> str:
    """What one operation does in one state, in one word."""
    match outcome.end:
        case None:
            return "·"
        case End.SAME:
            return "="
        case End.GONE:
            return "gone"
        case End.DEPENDS:
            return "depends"
        case InstanceState() as state:
            return state.value


def states() -> str:
    """The (operation, state) table."""
    table = state_table()
    rows = []
    for rules in in_order():
        for name in [rules.name, *(f"{rules.name}[{value.value}]" for value in rules.variants)]:
            if name in table:
                cells = (cell(table[name][state]) for state in InstanceState)
                rows.append([_anchor(name), *cells])
    return _table(["operation", *(state.value for state in InstanceState)], rows)


def operations() -> str:
    """Every operation with its rules."""
    return _table(
        ["operation", "topic", "capability", "about", "default timeout", "repeated"],
        [
            [
                _anchor(rules.name),
                rules.topic,
                f"`{rules.capability.value}`" if rules.capability else "Core",
                "an instance" if rules.scope is Scope.INSTANCE else "the host",
                f"{rules.timeout:g} s",
                _repeated(rules),
            ]
            for rules in in_order()
        ],
    )


def _repeated(rules: Operation) -> str:
    if not rules.changes:
        return "a read"
    return {
        Repeat.CONVERGES: "converges",
        Repeat.REFUSED: "refused",
        Repeat.AGAIN: "does it again",
    }[rules.repeat]


def capabilities() -> str:
    """Every capability with the operations that it brings."""
    brings: dict[Capability, list[str]] = {}
    for rules in in_order():
        if rules.capability is not None:
            brings.setdefault(rules.capability, []).append(_anchor(rules.name))
    drivers = {name: _declared(name) for name in ("fake", "libvirt", "vmware", "hyperv")}
    rows = []
    for capability in Capability:
        has = (
            "?" if found is None else "yes" if capability in found else ""
            for found in drivers.values()
        )
        what = ", ".join(brings.get(capability, ["an argument or option"]))
        rows.append([f"`{capability.value}`", what, *has])
    return _table(["capability", "brings", *drivers], rows)


def _declared(driver: str) -> frozenset[Capability] | None:
    """What the code of a driver has; None where the library that it needs is not installed."""
    from hvdrivers.plugins.discovery import load_driver

    try:
        return declared(load_driver(driver))
    except PluginError:
        return None


TABLES: Mapping[str, Callable[[], str]] = {
    "states": states,
    "operations": operations,
    "capabilities": capabilities,
}


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill the tables in. Called by mkdocs for each page."""

    def fill(match: re.Match[str]) -> str:
        depth = page.file.src_uri.count("/")
        return TABLES[match[1]]().replace("(reference/", f"({'../' * depth}reference/")

    return _MARKER.sub(fill, markdown)
