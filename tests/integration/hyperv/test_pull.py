"""Images that the host fetches itself: what travels where, and what is refused."""

from __future__ import annotations

import hashlib
import http.server
import os
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.hyperv.config import ImageRoute
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.models.image import HttpImage, ImageFormat
from tests.integration.hyperv.site import Site, spec


class Web:
    """A web server that counts what it sends."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sent = 0
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/away"):
                    self.send_response(302)
                    self.send_header("Location", "/" + next(iter(web.files)))
                    self.end_headers()
                    return
                data = web.files.get(self.path[1:].partition("?")[0])
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")
                web.sent += len(data or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def image(
        self, name: str, data: bytes, format: ImageFormat, at: str | None = None
    ) -> HttpImage:
        self.files[name] = data
        url = f"http://127.0.0.1:{self._server.server_port}/{at or name}?signature=hidden"
        return HttpImage(
            url=url, format=format, checksum=f"sha256:{hashlib.sha256(data).hexdigest()}"
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


@contextmanager
def pulling(site: Site) -> Iterator[HypervDriver]:
    driver = HypervDriver.connect(site.config.model_copy(update={"image_route": ImageRoute.PULL}))
    try:
        yield driver
    finally:
        driver.close()


def test_nothing_of_an_image_that_the_host_pulls_passes_this_process(site: Site, web: Web) -> None:
    data = random.Random(7).randbytes((4 << 20) + 100)
    image = web.image("disk.raw", data, ImageFormat.RAW)
    with pulling(site) as inner:
        driver = guarded(inner)
        sends = site.service.faults.counts()["Send"]
        with inner.session.seam.counting() as calls:
            cached = driver.cache_image(image)
        assert calls == ["hyperv.Images", "hyperv.ImagePull", "hyperv.ImageEnd", "hyperv.Images"]
        # a piece of an upload has at most 96 KiB: 4 MiB of noise would need more than 40
        assert site.service.faults.counts()["Send"] - sends <= 10
        assert web.sent == len(data)
        assert cached.virtual_size_bytes >= len(data)
        folder = site.host.drive / "hv" / "images"
        assert [each.stem for each in folder.glob(f"*{image.checksum.value}*")] == [cached.key]
        driver.destroy(driver.spawn(spec(image)).uuid)
        assert web.sent == len(data)  # it was there
        driver.evict_image(cached.key)


def test_what_the_host_pulls_is_looked_at_before_it_is_used(site: Site, web: Web) -> None:
    data = bytes(1 << 20)
    good = web.image("disk.raw", data, ImageFormat.RAW)
    other = good.model_copy(
        update={"checksum": good.checksum.model_copy(update={"value": "0" * 64})}
    )
    with site.host.world.lock:
        disks = site.host.state.disks
        disks.create("C:\\hv-base.vhdx", 4 << 20, "Dynamic")
        disks.differencing("C:\\hv-child.vhdx", "C:\\hv-base.vhdx")
        child = site.host.state.files.file("C:\\hv-child.vhdx").read_bytes()
    refused: dict[str, tuple[HttpImage, type[errors.HypervisorError]]] = {
        "another checksum": (other, errors.ImageRejected),
        "no disk": (web.image("a.vhdx", b"no disk" * 512, ImageFormat.VHDX), errors.ImageRejected),
        "a parent": (web.image("b.vhdx", child, ImageFormat.VHDX), errors.ImageRejected),
        "a redirect": (
            web.image("disk.raw", data, ImageFormat.RAW, at="away"),
            errors.HypervisorFault,
        ),
        "absent": (
            web.image("disk.raw", data, ImageFormat.RAW, at="absent"),
            errors.HypervisorFault,
        ),
    }
    folder = site.host.drive / "hv" / "images"
    before = sorted(each.name for each in folder.iterdir())
    with pulling(site) as inner:
        driver = guarded(inner)
        for what, (image, error) in refused.items():
            with pytest.raises(error) as raised:
                driver.cache_image(image)
            assert "hidden" not in str(raised.value), what
            assert sorted(each.name for each in folder.iterdir()) == before, what
    with site.host.world.lock:
        for name in ("base", "child"):
            site.host.state.files.file(f"C:\\hv-{name}.vhdx").unlink()
            disks.forget(f"C:\\hv-{name}.vhdx")


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\nabc"])
def test_a_silent_server_does_not_outlast_the_deadline(site: Site, head: bytes) -> None:
    """The host is told to stop, and does: no download goes on that nobody waits for."""
    with socket.create_server(("127.0.0.1", 0)) as server, pulling(site) as inner:
        image = HttpImage(
            url=f"http://127.0.0.1:{server.getsockname()[1]}/silent.raw",
            format=ImageFormat.RAW,
            checksum=f"sha256:{'0' * 64}",
        )
        over = threading.Event()

        def serve() -> None:
            with suppress(OSError):  # a slow host has not come by its deadline
                peer, _ = server.accept()
                with peer:
                    peer.sendall(head)
                    over.wait()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(serve)
            try:
                with pytest.raises(errors.OperationTimeout):
                    guarded(inner).cache_image(image, timeout=2)
            finally:
                over.set()
                server.shutdown(socket.SHUT_RDWR)
    assert not list((site.host.drive / "hv" / "images").glob("*.part*"))


def test_a_pull_removes_what_dead_uploads_have_left(site: Site, web: Web) -> None:
    folder = site.host.drive / "hv" / "images"
    dead, alive = folder / f"k1.{'0' * 16}.part", folder / f"k2.{'0' * 16}.part"
    for each in (dead, alive):
        each.write_bytes(b"part")
    os.utime(dead, (0, 0))
    with pulling(site) as inner:
        driver = guarded(inner)
        driver.evict_image(driver.cache_image(web.image("a.raw", b"x" * 4096, ImageFormat.RAW)).key)
    assert not dead.exists()
    assert alive.exists()
    alive.unlink()
