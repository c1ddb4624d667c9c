"""Validators are made when a model is first used: no import pays for them, and threads may race."""

from __future__ import annotations

import json
import subprocess
import sys

import pydantic
import pytest

from hvdrivers.models.base import Model
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.hardware import Hardware
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.resources import HostResources, MachineChoices

LAZY = tuple(int(part) for part in pydantic.VERSION.split(".")[:2]) >= (2, 14)

RACE = """
import json, sys, threading
from pydantic import TypeAdapter
from hvdrivers.models.instance import Flavor, InstanceInfo, InstanceSpec
from hvdrivers.models.resources import HostResources
from hvdrivers.models.volume import Volume
sys.setswitchinterval(1e-6)
wanted = {
    "name": "web",
    "flavor": {"vcpus": 1, "memory_mib": 64},
    "image": {"source": "host", "name": "debian"},
    "vifs": [{"type": "bridge", "id": "p", "bridge": "br0", "address": "52:54:00:12:34:56"}],
}
volume = {"driver_volume_type": "local", "data": {"device_path": "/dev/sdz"}, "volume_id": "v"}
def spec(): assert InstanceSpec.model_validate(wanted).flavor == Flavor(vcpus=1, memory_mib=64)
def flavor(): assert Flavor(vcpus=2, memory_mib=64).model_dump()["vcpus"] == 2
def refused():
    try: Flavor(vcpus=2, memory_mib=64, colour="red")
    except ValueError as error: assert "colour" in str(error), error
    else: raise AssertionError("an unknown field was taken")
def union(): assert TypeAdapter(Volume).validate_python(volume).volume_id == "v"
def schema(): assert InstanceInfo.model_json_schema() and HostResources.model_json_schema()
barrier, failed = threading.Barrier(20), []
def work(call):
    barrier.wait()
    try: call()
    except BaseException as error: failed.append(f"{call.__name__}: {type(error).__name__} {error}")
calls = [spec, flavor, refused, union, schema] * 4
threads = [threading.Thread(target=work, args=(each,)) for each in calls]
[each.start() for each in threads]; [each.join() for each in threads]
print(json.dumps(failed))
"""


def _python(code: str) -> object:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(
    not LAZY, reason="an older pydantic makes them at import, as its lock is missing"
)
@pytest.mark.parametrize("driver", ["libvirt", "vmware", "hyperv"])
def test_an_import_makes_no_validators(driver: str) -> None:
    made = _python(
        "import json\n"
        "from hvdrivers.plugins import load_driver\n"
        f"load_driver({driver!r})\n"
        "from hvdrivers.models.base import Model\n"
        "def all_of(cls):\n"
        "    for each in cls.__subclasses__():\n"
        "        yield each\n"
        "        yield from all_of(each)\n"
        "print(json.dumps([m.__name__ for m in all_of(Model) if m.__pydantic_complete__]))\n"
    )
    assert made == []


def test_a_default_is_what_a_validator_would_make() -> None:
    assert vars(InstanceSpec.model_fields["hardware"].default) == vars(Hardware())
    assert vars(HostResources.model_fields["choices"].default) == vars(MachineChoices())


def test_a_list_does_not_pay_for_asyncio() -> None:
    """It is imported by who calls from a coroutine."""
    found = _python(
        "import json, sys, hvdrivers.plugins, hvdrivers.fake.driver\n"
        "print(json.dumps(sorted({'asyncio', 'ssl'} & set(sys.modules))))\n"
    )
    assert found == []


def test_many_threads_use_models_for_the_first_time() -> None:
    assert _python(RACE) == []


class _Inner(Model):
    """An inner one."""

    size: int
    """How large."""


class _Outer(Model):
    """An outer one."""

    inner: _Inner
    """What is in it."""
    plain: int = 0


class _Derived(_Outer):
    plain: int = 1
    """Said by the one that is derived."""


def test_a_schema_has_the_docstrings() -> None:
    schema = _Derived.model_json_schema()
    inner = schema["properties"]["inner"]
    assert inner["description"] == "What is in it."
    assert inner["properties"]["size"]["description"] == "How large."
    assert schema["properties"]["plain"]["description"] == "Said by the one that is derived."
    assert "description" not in _Outer.model_json_schema()["properties"]["plain"]


def test_a_model_without_a_source_has_a_schema() -> None:
    space: dict[str, object] = {"Model": Model, "__name__": "nowhere"}
    exec('class Made(Model):\n    size: int\n    """How large."""\n', space)
    made = space["Made"]
    assert isinstance(made, type)
    assert issubclass(made, Model)
    assert made.model_json_schema()["properties"]["size"] == {"title": "Size", "type": "integer"}


def test_every_field_of_a_flavor_is_described() -> None:
    described = {
        name
        for name, each in Flavor.model_json_schema()["properties"].items()
        if "description" in each
    }
    assert {"vcpus", "memory_mib", "disk_gib", "page_size_kib"} <= described
