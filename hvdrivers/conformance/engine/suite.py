"""The third door: a class in a test module of one's own.

::

    from hvdrivers.conformance import ConformanceSuite
    from hv_acme.conformance import AcmeTarget

    class TestAcme(ConformanceSuite):
        target = AcmeTarget

The pytest plug-in of this package (it is there wherever hvdrivers is installed) collects one item
per check: ``test_conformance.py::TestAcme::LIFE-003/leaves_nothing``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from hvdrivers.conformance.engine.target import Target


class ConformanceSuite:
    """Base of a class of tests: the suite, against one target."""

    __hv_conformance__ = True

    target: ClassVar[Callable[[], Target] | None] = None
    """Makes the target: its class, or a function of no arguments. None: nothing is collected."""
    profiles: ClassVar[Iterable[str]] = ()
    """Only these; all if empty."""
    tiers: ClassVar[Iterable[str]] = ()
    """``static``, ``host``; both if empty."""
    known_issues: ClassVar[str | None] = None
    """A TOML file of known issues, as a path from the directory that pytest was started in."""
