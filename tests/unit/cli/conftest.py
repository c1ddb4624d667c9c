"""A fake host of one test, and the command run against it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from hvdrivers.cli.app import app
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.world import default_world
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import Flavor, InstanceSpec


@dataclass
class Run:
    """What one call of the command left."""

    code: int
    out: str
    err: str
    raw: bytes = b""

    @property
    def data(self) -> Any:
        """Standard output as JSON: there must be nothing else on it."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The JSON object in the last line of standard error."""
        found = json.loads(self.err.splitlines()[-1])["error"]
        assert isinstance(found, dict)
        return found


Runner = Callable[..., Run]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Nothing of the machine that runs the tests."""
    for name in ("HVDRIVERS_HOST", "HVDRIVERS_CONFIG", "HVDRIVERS_OUTPUT", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def host() -> Iterator[FakeHost]:
    """A fake host that ``fake://NAME`` leads to."""
    yield default_world().host(f"cli-{uuid4().hex[:12]}")
    default_world().reset()


@pytest.fixture
def url(host: FakeHost) -> str:
    return f"fake://{host.name}"


@pytest.fixture
def driver(host: FakeHost) -> Iterator[ComputeDriver]:
    with host.connect() as connected:
        yield connected


@pytest.fixture
def make(driver: ComputeDriver) -> Callable[..., UUID]:
    """Make an instance, without the command."""

    def spawn(name: str = "web1", **fields: Any) -> UUID:
        spec = InstanceSpec(
            name=name,
            flavor=fields.pop("flavor", Flavor(vcpus=1, memory_mib=512, disk_gib=1)),
            image=HostImage(name="cirros"),
            **fields,
        )
        return driver.spawn(spec).uuid

    return spawn


@pytest.fixture
def run() -> Runner:
    """The command in this process."""

    def call(*arguments: object, input: str | None = None) -> Run:
        result = CliRunner().invoke(app, [str(each) for each in arguments], input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Run(result.exit_code, result.stdout, result.stderr, result.stdout_bytes)

    return call


def script(body: str, arguments: list[str]) -> list[str]:
    """A process of its own: ``body`` prepares the fake host ``box``, then the command runs."""
    head = """
        import sys
        from uuid import UUID
        from hvdrivers.fake.world import default_world
        from hvdrivers.fake.faults import FaultRule
        from hvdrivers.models.image import HostImage
        from hvdrivers.models.instance import Flavor, InstanceSpec
        host = default_world().host("box")
        UUID1 = UUID("11111111-2222-4333-8444-555555555555")
        def make(name="web1", uuid=UUID1):
            with host.connect() as driver:
                driver.spawn(InstanceSpec(
                    name=name, uuid=uuid, image=HostImage(name="cirros"),
                    flavor=Flavor(vcpus=1, memory_mib=512)))
    """
    tail = """
        from hvdrivers.cli import main
        main(sys.argv[1:])
    """
    parts = (textwrap.dedent(part) for part in (head, body, tail))
    return [sys.executable, "-W", "error", "-c", "\n".join(parts), *arguments]


@pytest.fixture
def process() -> Runner:
    """The command in a process of its own."""

    def call(*arguments: str, body: str = "", **options: Any) -> Run:
        done = subprocess.run(
            script(body, list(arguments)),
            capture_output=True,
            timeout=300,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            check=False,
            **options,
        )
        return Run(done.returncode, done.stdout.decode(), done.stderr.decode(), done.stdout)

    return call
