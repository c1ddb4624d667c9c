"""A WinRM service on this machine, with a real PowerShell behind it and no Hyper-V."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("winrm", reason="precondition missing: pip install '.[hyperv]'")

from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.simulator.wsman import WsmanServer
from hvdrivers.hyperv.simulator.wsman_shell import NoEngine
from hvdrivers.models.image import FileImage, ImageFormat
from tests.integration.hyperv.site import Site
from tests.peers.precondition import missing

PASSWORD = "pass word'$(exit)"
OTHER_PASSWORD = "w\u00f6rd\u2019"


@pytest.fixture(scope="module")
def service() -> Iterator[WsmanServer]:
    try:
        server = WsmanServer(users={"Administrator": PASSWORD, "Änne": OTHER_PASSWORD})
    except NoEngine as error:
        missing(str(error))
    with server:
        yield server


@pytest.fixture
def config(service: WsmanServer) -> Callable[..., HypervConfig]:
    def make(**changes: object) -> HypervConfig:
        fields: dict[str, object] = {
            "host": "127.0.0.1",
            "port": service.port,
            "tls": False,
            "username": "Administrator",
            "password": PASSWORD,
            "authentication": "basic",
            "workers": 3,
        }
        return HypervConfig.model_validate(fields | changes)

    return make


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    try:
        made = Site()
    except NoEngine as error:
        missing(str(error))
    yield made
    made.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> FileImage:
    path = tmp_path_factory.mktemp("image") / "disk.raw"
    path.write_bytes(b"content" + bytes((1 << 20) - 7))
    return FileImage(path=path, format=ImageFormat.RAW)
