"""Clauses about the driver class alone: no host is asked, and it takes less than a second."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from pydantic import SecretBytes, SecretStr, ValidationError

from hvdrivers.conformance.engine.clauses import Level, Tier, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.driver import OPERATIONS, Driver
from hvdrivers.contract.fields import names_of, optional_fields
from hvdrivers.contract.operation import operations_of
from hvdrivers.models.config import DriverConfig
from hvdrivers.models.vif import VifQos
from hvdrivers.models.volume import DiskQos
from hvdrivers.plugins.check import faults_of
from hvdrivers.plugins.discovery import registered

STATIC_001 = clause("STATIC-001", "the class is a whole driver: nothing abstract, nothing missing")
STATIC_002 = clause(
    "STATIC-002", "every operation is a plain method that takes what the contract gives it"
)
STATIC_003 = clause(
    "STATIC-003", "what looks like an operation or a capability is declared, so that it is called"
)
STATIC_004 = clause(
    "STATIC-004", "arguments and results of every operation are annotated, without Any"
)
STATIC_005 = clause(
    "STATIC-005",
    "the class is registered under its driver_name as an entry point, once",
    level=Level.SHOULD,
)
STATIC_006 = clause("STATIC-006", "the configuration is frozen, and refuses unknown keys")
STATIC_007 = clause(
    "STATIC-007", "secrets in the configuration are SecretStr or SecretBytes, and no URL shows one"
)
STATIC_008 = clause(
    "STATIC-008", "every error class keeps its context when it goes to another process (pickle)"
)
STATIC_009 = clause(
    "STATIC-009",
    "the docstring of every operation says how many calls to the host it costs",
    level=Level.SHOULD,
)


STATIC_010 = clause(
    "STATIC-010",
    "what the class says that it takes are optional fields of the contract, and it takes at least"
    " one of each kind of limits that it declares",
)


def _class(trial: Trial) -> type[Driver]:
    """The class, if it is a driver at all."""
    cls = trial.target.driver_class()
    trial.check(
        isinstance(cls, type) and issubclass(cls, Driver), f"{cls!r} is no subclass of Driver"
    )
    return cls


def _own(cls: type[Driver]) -> Iterator[tuple[str, Any]]:
    for name in operations_of(cls):
        if name in OPERATIONS:
            yield name, inspect.getattr_static(cls, name)


def _faults(trial: Trial) -> list[str]:
    cls = trial.target.driver_class()
    return faults_of(cls, getattr(cls, "driver_name", ""))


_DEAD = re.compile(r"without inheriting|@operation marks|@override marks|@provides names")
_CALL = re.compile(r"\w+\(.*\): |is not a plain method|is asynchronous")


def _expect_none(trial: Trial, faults: list[str]) -> None:
    trial.check(not faults, "; ".join(faults))


@check(STATIC_001, tier=Tier.STATIC)
def is_whole(trial: Trial) -> None:
    _class(trial)
    faults = _faults(trial)
    _expect_none(
        trial, [each for each in faults if not _DEAD.search(each) and not _CALL.search(each)]
    )


@check(STATIC_002, tier=Tier.STATIC)
def takes_what_it_is_given(trial: Trial) -> None:
    _class(trial)
    faults = [each for each in _faults(trial) if not _DEAD.search(each)]
    _expect_none(trial, [each for each in faults if _CALL.search(each)])


@check(STATIC_003, tier=Tier.STATIC)
def has_no_dead_code(trial: Trial) -> None:
    _class(trial)
    _expect_none(trial, [each for each in _faults(trial) if _DEAD.search(each)])


@check(STATIC_004, tier=Tier.STATIC)
def is_annotated(trial: Trial) -> None:
    for name, method in _own(_class(trial)):
        signature = inspect.signature(method)
        bare = [
            each.name
            for each in signature.parameters.values()
            if each.name != "self" and _untyped(each.annotation)
        ]
        if _untyped(signature.return_annotation):
            bare.append("the result")
        trial.check(not bare, f"{name}(): no type for {', '.join(bare)}")


def _untyped(annotation: object) -> bool:
    if annotation is inspect.Parameter.empty:
        return True
    shown = annotation if isinstance(annotation, str) else str(annotation)
    return re.search(r"\bAny\b", shown) is not None


@check(STATIC_005, tier=Tier.STATIC)
def is_registered(trial: Trial) -> None:
    cls = _class(trial)
    claims = registered().get(cls.driver_name, [])
    trial.equal(len(claims), 1, f"packages that register a driver {cls.driver_name!r}")
    found = claims[0].load()
    # a subclass of what is registered is a test's variant of it
    trial.check(issubclass(cls, found), f"{claims[0].value} is registered, and not this class")


@check(STATIC_010, tier=Tier.STATIC)
def takes_what_there_is(trial: Trial) -> None:
    cls = _class(trial)
    unknown = names_of(cls.takes) - names_of(optional_fields())
    trial.check(not unknown, f"no optional fields: {', '.join(sorted(unknown))}")
    for capability, model in ((Capability.DISK_QOS, DiskQos), (Capability.VIF_QOS, VifQos)):
        if capability in declared(cls):
            trial.check(cls.takes.get(model), f"{capability} without a field of {model.__name__}")


@check(STATIC_006, tier=Tier.STATIC)
def config_is_closed(trial: Trial) -> None:
    model = _class(trial).config_model
    trial.check(issubclass(model, DriverConfig), f"{model.__name__} is no DriverConfig")
    trial.check(model.model_config.get("frozen"), f"{model.__name__} can be changed")
    trial.equal(model.model_config.get("extra"), "forbid", "what becomes of unknown keys")
    kinds: dict[tuple[int | str, ...], str] = {}
    try:
        model.model_validate({"hvct_unknown": 1})
    except ValidationError as error:
        kinds = {each["loc"]: each["type"] for each in error.errors()}
    trial.equal(kinds.get(("hvct_unknown",)), "extra_forbidden", "what is said to an unknown key")


_SECRET_NAME = re.compile(r"pass(word|wd|phrase)?$|secret|token$|api_?key$|private_?key$")
_CANARY = "hvct-s3cret-canary"


@check(STATIC_007, tier=Tier.STATIC)
def secrets_are_typed(trial: Trial) -> None:
    model = _class(trial).config_model
    for name, field in model.model_fields.items():
        if _SECRET_NAME.search(name):
            kinds = str(field.annotation)
            typed = any(each.__name__ in kinds for each in (SecretStr, SecretBytes))
            trial.check(typed, f"{model.__name__}.{name} is a {kinds}")
    trial.check(model.model_config.get("hide_input_in_errors"), "errors would show the input")


@check(STATIC_007, tier=Tier.STATIC)
def url_shows_no_password(trial: Trial) -> None:
    cls = _class(trial)
    for url in (
        f"{cls.driver_name}://user:{_CANARY}@hvct.invalid/",
        f"{cls.driver_name}://user:{_CANARY}@hvct.invalid:port?x={_CANARY}",
    ):
        try:
            shown = repr(cls.config_model.from_url(url))
        except (errors.InvalidRequest, ValidationError) as error:
            shown = f"{error} {error!r}"
        trial.check(_CANARY not in shown, "the password in a URL was shown")


def _error_classes(cls: type[Driver]) -> list[type[errors.HypervisorError]]:
    modules = {base.__module__ for base in cls.__mro__} | {errors.__name__}
    found: list[type[errors.HypervisorError]] = []
    queue = [errors.HypervisorError]
    while queue:
        current = queue.pop()
        queue += current.__subclasses__()
        if current.__module__ in modules and current not in found:
            found.append(current)
    return found


@check(STATIC_008, tier=Tier.STATIC)
def errors_travel(trial: Trial) -> None:
    for cls in _error_classes(_class(trial)):
        error = cls.__new__(cls)
        errors.HypervisorError.__init__(
            error,
            "what went wrong",
            operation="spawn",
            host="host",
            instance=UUID(int=7),
            vendor_code="CODE",
            hint="what to do",
            retryable=True,
        )
        try:
            back = pickle.loads(pickle.dumps(error))  # noqa: S301 - made a line above
        except Exception as problem:  # noqa: BLE001 - any way to fail is the same to the caller
            trial.check(False, f"{cls.__name__} does not pickle: {problem}")
        trial.equal((type(back), vars(back)), (cls, vars(error)), f"{cls.__name__} after a pickle")
        trial.equal(str(back), str(error), f"text of {cls.__name__} after a pickle")


@check(STATIC_009, tier=Tier.STATIC)
def names_its_budget(trial: Trial) -> None:
    cls = _class(trial)
    silent = [
        name
        for name, _ in _own(cls)
        if not re.search(r"\b(calls?|round trips?|budget)\b", _doc(cls, name), re.I)
    ]
    trial.check(not silent, f"no number of calls at {', '.join(silent)}")


def _doc(cls: type, name: str) -> str:
    """The driver's own words; those of the contract do not count."""
    for base in cls.__mro__:
        member = base.__dict__.get(name)
        if member is not None and member.__doc__ and base.__module__ != Driver.__module__:
            return "" if base.__module__.startswith("hvdrivers.contract") else member.__doc__
    return ""
