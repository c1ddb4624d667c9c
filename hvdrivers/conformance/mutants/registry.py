"""The register of mutants."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hvdrivers.contract.driver import Driver

_D = TypeVar("_D", bound=type)


@dataclass(frozen=True)
class Mutant:
    """One broken driver."""

    driver: type[Driver]
    killed_by: str
    """The clause that it violates."""
    topic: str
    """The file that it is in: lifecycle, power, ..."""

    @property
    def name(self) -> str:
        """The class's name says what is wrong."""
        return self.driver.__name__

    @property
    def fault(self) -> str:
        """What is wrong, in a sentence."""
        return (self.driver.__doc__ or "").strip()


_MUTANTS: dict[str, Mutant] = {}


def mutant(killed_by: str) -> Callable[[_D], _D]:
    """Register a class as a mutant."""

    def register(cls: _D) -> _D:
        if not (cls.__doc__ or "").strip():
            raise ValueError(f"the mutant {cls.__name__} does not say what is wrong with it")
        topic = cls.__module__.rpartition(".")[2]
        name = f"{topic}.{cls.__name__}"
        if name in _MUTANTS:
            raise ValueError(f"there are two mutants {name}")
        _MUTANTS[name] = Mutant(driver=cls, killed_by=killed_by, topic=topic)
        return cls

    return register


def mutants() -> list[Mutant]:
    """All of them, by topic and name."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return sorted(_MUTANTS.values(), key=lambda each: (each.topic, each.name))
