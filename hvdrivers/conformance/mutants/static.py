"""Mutants that show in the class alone: no host is needed to see them."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, ClassVar, Self, cast
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import CORE_OPERATIONS, Driver
from hvdrivers.fake.config import FakeConfig
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.power import FakePause
from hvdrivers.models.config import DriverConfig
from hvdrivers.models.host import HostInfo


@mutant("STATIC-001")
class EmptyClass:
    """Nothing at all."""


class _Shell(Driver):
    """What a driver needs to be made; its operations are filled in below."""

    driver_name: ClassVar[str] = "fake"
    config_model: ClassVar[type[DriverConfig]] = FakeConfig

    @classmethod
    def connect(cls, config: DriverConfig) -> Self:
        del config
        return cls()

    @property
    def host_label(self) -> str:
        return "fake://shell"

    def narrowed(self) -> dict[Capability, str]:
        return {}


def _filled(name: str, doc: str, body: Callable[[str], Any]) -> type[Driver]:
    """A driver whose operations all do the same."""

    def method(operation: str) -> Callable[..., Any]:
        def do(*args: object, **kwargs: object) -> Any:
            del args, kwargs
            return body(operation)

        do.__name__ = operation
        return do

    members = {each: method(each) for each in CORE_OPERATIONS} | {"__doc__": doc}
    members["__module__"] = cast(Any, __name__)
    return types.new_class(name, (_Shell,), {}, lambda space: space.update(members))


def _not_implemented(operation: str) -> Any:
    raise NotImplementedError(operation)


AllNotImplemented = mutant("CONN-001")(
    _filled("AllNotImplemented", "Every operation raises NotImplementedError.", _not_implemented)
)
AllReturnNone = mutant("CONN-002")(
    _filled("AllReturnNone", "Every operation returns None.", lambda _: None)
)


@mutant("STATIC-002")
class RebootTakesNoKind(FakeDriver):
    """reboot() does not know the contract's argument ``kind``."""

    def reboot(self, uuid: UUID, *, timeout: float | None = None) -> None:  # type: ignore[override]
        super().reboot(uuid, timeout=timeout)


@mutant("STATIC-002")
class GracefulByDefault(FakeDriver):
    """power_off() has a default of its own for ``graceful``."""

    def power_off(self, uuid: UUID, *, graceful: float = 30, timeout: float | None = None) -> None:
        super().power_off(uuid, graceful=graceful, timeout=timeout)


def _without_pause() -> type[Driver]:
    """The fake, with the methods of Pause and without its interface."""
    bases = tuple(each for each in FakeDriver.__bases__ if each is not FakePause)
    own = {
        name: member
        for name, member in vars(FakeDriver).items()
        if name not in {"__dict__", "__weakref__", "__abstractmethods__", "_abc_impl"}
        and not name.startswith("__hv_")
    }
    own |= {name: vars(FakePause)[name] for name in ("pause", "unpause", "_set_paused")}
    own["__module__"] = __name__
    own["__doc__"] = "pause() is there and works, and is not declared."
    made = types.new_class("PauseUndeclared", bases, {}, lambda space: space.update(own))
    return cast(type[Driver], made)


PauseUndeclared = mutant("STATIC-003")(_without_pause())


@mutant("STATIC-004")
class ResultIsAny(FakeDriver):
    """host() returns Any."""

    def host(self, *, timeout: float | None = None) -> Any:
        return super().host(timeout=timeout)


@mutant("STATIC-005")
class IsNotRegistered(FakeDriver):
    """The class has a name that no package registers."""

    driver_name: ClassVar[str] = "hvct-unregistered"

    def host(self, *, timeout: float | None = None) -> HostInfo:
        info = super().host(timeout=timeout)
        return info.model_copy(update={"driver": self.driver_name})


class _OpenConfig(FakeConfig, extra="ignore"):
    pass


@mutant("STATIC-006")
class ConfigIgnoresTypos(FakeDriver):
    """Unknown keys of the configuration are ignored."""

    config_model: ClassVar[type[DriverConfig]] = _OpenConfig


class _ChangeableConfig(FakeConfig, frozen=False):
    pass


@mutant("STATIC-006")
class ConfigCanBeChanged(FakeDriver):
    """The configuration can be changed after the connection was made."""

    config_model: ClassVar[type[DriverConfig]] = _ChangeableConfig


class _PlainConfig(FakeConfig):
    password: str = ""


@mutant("STATIC-007")
class PasswordIsPlainText(FakeDriver):
    """The password is a plain string."""

    config_model: ClassVar[type[DriverConfig]] = _PlainConfig


class _UrlConfig(FakeConfig):
    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        try:
            return super().from_url(url, **options)
        except errors.InvalidRequest:
            raise errors.InvalidRequest(f"{url} is no URL of this driver") from None


@mutant("STATIC-007")
class UrlErrorShowsPassword(FakeDriver):
    """A URL that is refused is shown, with its password."""

    config_model: ClassVar[type[DriverConfig]] = _UrlConfig
