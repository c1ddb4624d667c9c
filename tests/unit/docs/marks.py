"""Set the marks of the libvirt column of docs/hypervisors.md by what the driver has.

    python -m tests.unit.docs.marks

An operation is ● if the driver has it and a test in tests/integration/libvirt calls it, ▲ if no
test does. A capability is ● if all its operations are; for one that is no operation the author says
so (● stays), and the driver must have it.
"""

from __future__ import annotations

import re

from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.driver import OPERATIONS
from tests.unit.docs.page import PAGE, ROOT

TESTED, WRITTEN, PAPER, CANNOT = "●", "▲", "○", "\N{EN DASH}"
_ROW = re.compile(r"\| `([^`]+)` \| (\S)")
_SOURCES = ROOT / "tests" / "integration" / "libvirt"


def _tested() -> set[str]:
    sources = "".join(path.read_text() for path in _SOURCES.glob("*.py"))
    return {name for name in OPERATIONS if re.search(rf"\.{name}\(", sources)}


def right_mark(name: str, mark: str) -> str:
    """What the mark of an operation or capability must be.

    Args:
        mark: what it is.
    """
    from hvdrivers.libvirt.driver import LibvirtDriver

    if name in OPERATIONS:
        has = hasattr(LibvirtDriver, name)
        tested = name in _tested()
    elif name in set(Capability):
        has = name in declared(LibvirtDriver)
        mine = {each.name for each in OPERATIONS.values() if each.capability == name}
        tested = mine <= _tested() if mine else mark == TESTED
    else:
        return mark  # a state: the author's word
    if not has:
        return CANNOT if mark == CANNOT else PAPER
    return TESTED if tested else WRITTEN


def wrong() -> list[str]:
    """The rows whose mark is not right. One that claims less than it could is no error."""
    rows = _ROW.findall(PAGE.read_text())
    right = {name: (mark, right_mark(name, mark)) for name, mark in rows}
    return [
        name for name, pair in right.items() if pair[0] != pair[1] and pair != (WRITTEN, TESTED)
    ]


def main() -> None:
    """Rewrite the page."""

    def replace(match: re.Match[str]) -> str:
        return f"| `{match[1]}` | {right_mark(match[1], match[2])}"

    PAGE.write_text(_ROW.sub(replace, PAGE.read_text()))


if __name__ == "__main__":
    main()
