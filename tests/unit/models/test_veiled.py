"""What a model refuses is not in its error: it may be a secret, or hold one."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from pydantic import (
    BaseModel,
    SecretBytes,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

import hvdrivers.models
from hvdrivers.fake.config import FakeConfig
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.models.base import Model
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.config import DriverConfig
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.models.image import HttpImage, ImageRef
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import Destination, Move
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import NfsVolume, Volume, VolumeEncryption, parse_connection_info
from hvdrivers.vmware.config import VmwareConfig

SECRET = "open-sesame-4711"


def _derived(cls: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in cls.__subclasses__():
        yield each
        yield from _derived(each)


def _models() -> list[type[BaseModel]]:
    for found in pkgutil.walk_packages(hvdrivers.models.__path__, "hvdrivers.models."):
        importlib.import_module(found.name)
    assert {LibvirtConfig, FakeConfig, VmwareConfig, HypervConfig} <= set(_derived(Model))
    # models of other tests may have fields that take anything
    return sorted(
        {each for each in _derived(Model) if each.__module__.startswith("hvdrivers.")},
        key=lambda each: f"{each.__module__}.{each.__qualname__}",
    )


def shown(error: BaseException | None) -> Iterator[str]:
    """Everything that an error and its chain say."""
    while error is not None:
        yield from (str(error), repr(error), repr(vars(error)), repr(error.args))
        if isinstance(error, ValidationError):
            yield from (repr(error.errors()), error.json())
        error = error.__cause__ or error.__context__


def refuse(make: Callable[[], object]) -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        make()
    for text in shown(refused.value):
        assert SECRET not in text
    return refused.value


@pytest.mark.parametrize("model", _models(), ids=lambda model: model.__name__)
def test_every_model(model: type[BaseModel]) -> None:
    """A secret in every field, in a field that is none, and nested; from Python and from JSON."""
    everywhere: dict[str, Any] = dict.fromkeys(model.model_fields, SECRET)
    nested = {name: {"password": SECRET, "x": [SECRET]} for name in model.model_fields}
    for values in (everywhere, nested, {"no-such-field": SECRET}, {"no-such-field": [SECRET]}):
        wrong = {**values, "no-such-field": SECRET}
        refuse(lambda wrong=wrong: model.model_validate(wrong))
        refuse(lambda wrong=wrong: model(**wrong))
        refuse(lambda wrong=wrong: model.model_validate_json(json.dumps(wrong)))
        refuse(lambda wrong=wrong: TypeAdapter(list[model]).validate_python([wrong]))
    refuse(lambda: model.model_validate(SECRET))
    refuse(lambda: model.model_validate_json('{"a": "' + SECRET))  # no JSON


@pytest.mark.parametrize(
    "make",
    [
        lambda: CloudInit(admin_password=SECRET + "\n"),
        lambda: CloudInit(admin_password=SECRET, network_data={"psk": SECRET}),
        lambda: CloudInit(user_data=SECRET * 10000),
        lambda: CloudInit(user_data=SecretBytes(SECRET.encode() * 10000)),
        lambda: CloudInit(network_config={"version": 1, "wifi": {"password": SECRET}}),
        lambda: HttpImage(url=f"https://user:{SECRET}@example.org/a", format="raw"),
        lambda: HttpImage(url=f"https://example.org/a?sig={SECRET}", format="raw", checksum="x:"),
        lambda: HttpImage(url="https://x/a", format="raw", headers={"a": SECRET + "\n"}),
        lambda: HttpImage(url="https://x/a", format="raw", headers={"a b": SECRET}),
        lambda: NfsVolume(serial="a", data={"export": "x", "options": f"password={SECRET}"}),
        lambda: VolumeEncryption(provider="luks", secret=SECRET, key_size="x"),
        lambda: TypeAdapter(ImageRef).validate_python({"source": "x", "headers": {"a": SECRET}}),
        lambda: TypeAdapter(Volume).validate_python({"driver_volume_type": "x", "k": SECRET}),
        lambda: TypeAdapter(Vif).validate_python({"type": "x", "password": SECRET}),
        lambda: parse_connection_info({"driver_volume_type": "x", "odd_key": SECRET}),
        lambda: LibvirtConfig(uri=f"qemu://root:{SECRET}@host/system"),
        lambda: LibvirtConfig(password=[SECRET]),
        lambda: VmwareConfig(host="a", username="b", password=[SECRET]),
        lambda: VmwareConfig(host="a b", username="b", password=SECRET, verify_tls=SECRET),
        lambda: HypervConfig(host="a", username="b", password=[SECRET]),
        lambda: HypervConfig(host="a b", username="b", password=SECRET, tls=SECRET),
    ],
)
def test_the_cases_that_were_found(make: Callable[[], object]) -> None:
    error = refuse(make)
    assert all(line["input"] == "**********" for line in error.errors())


class OwnConfig(DriverConfig):
    """A driver's configuration, as somebody else writes it."""

    host: str = ""
    password: SecretStr
    tokens: dict[str, SecretStr] | None = None

    @model_validator(mode="after")
    def _quotes_it(self) -> OwnConfig:
        if self.host == "custom":
            raise PydanticCustomError(
                "own", "no {what}", {"what": self.password.get_secret_value()}
            )
        raise ValueError(
            f"{{braces}} {self.password.get_secret_value()} is too weak for {self.host}"
        )


def test_models_of_users() -> None:
    """Also where the author's own validator writes the secret into its message."""
    error = refuse(lambda: OwnConfig(host="esx1", password=SECRET))
    (line,) = error.errors()
    assert line["msg"] == "Value error, {braces} ********** is too weak for esx1"
    assert line["type"] == "value_error"
    refuse(lambda: OwnConfig(host="custom", password=SECRET))
    refuse(lambda: OwnConfig(host=SECRET, password=5, tokens={"a": [SECRET]}))


def test_a_secret_that_is_no_text() -> None:
    """The exception of the codec holds the whole of what it could not write."""
    error = refuse(lambda: VolumeEncryption(secret=f"{SECRET}\ud800"))
    assert not any("error" in line.get("ctx", {}) for line in error.errors())


def test_errors_still_say_what_is_wrong() -> None:
    error = refuse(lambda: HttpImage(url="https://x/a", format=SECRET, checksum="sha256:00", a=1))
    assert {".".join(map(str, line["loc"])): line["type"] for line in error.errors()} == {
        "format": "enum",
        "checksum": "value_error",
        "a": "extra_forbidden",
    }
    assert "64 hexadecimal digits" in str(error)
    assert error.title == "HttpImage"


@pytest.mark.parametrize(
    "model",
    [
        Destination(host="h", password="secret"),
        Move(
            uuid=UUID(int=1),
            source="a",
            destination=Destination(host="h", password="secret"),
            flavor=Flavor(vcpus=1, memory_mib=64),
            token="t",
        ),
        GuestCredentials(user="u", password="secret"),
        CloudInit(admin_password="secret"),
        CloudInit(user_data="secret"),
        HttpImage(
            url="https://x/y.raw", checksum="sha256:" + "0" * 64, headers={"X-Token": "secret"}
        ),
        VolumeEncryption(provider="luks", secret=b"secret"),
        SeedDisc(content=b"x" * 512),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_masked_secret_that_is_read_back_is_refused(model: Model) -> None:
    """Or a machine would get ten asterisks for its password."""
    with pytest.raises(ValidationError, match=r"is masked|at least 512"):
        type(model).model_validate_json(model.model_dump_json())


def test_a_new_model_with_a_secret_refuses_a_mask_too() -> None:
    """They are found by the annotation of a field, so a new model needs no code of its own."""

    class New(Model):
        token: SecretStr | None = None

    assert New(token="**** *****").token is not None
    assert New().token is None
    with pytest.raises(ValidationError, match="token is masked"):
        New(token="**********")


def test_a_move_is_stored_without_its_destination() -> None:
    destination = Destination(host="h", password="secret")
    flavor = Flavor(vcpus=1, memory_mib=64)
    move = Move(uuid=UUID(int=1), source="a", destination=destination, flavor=flavor, token="t")
    text = move.model_dump_json(exclude={"destination"})
    assert Move.model_validate({**json.loads(text), "destination": destination}) == move
