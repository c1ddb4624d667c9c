"""Real images made by qemu-img, and real web servers on the loopback interface."""

from __future__ import annotations

import contextlib
import http.server
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers.precondition import tool

Reply = Callable[["Handler"], None]


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk of 2 MiB and a bit, with no structure that anything would recognise."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    path.write_bytes(random.Random(7).randbytes(2 * 1024 * 1024 + 512 * 3))
    return path


@pytest.fixture
def convert(disk: Path, tmp_path: Path) -> Callable[..., Path]:
    """``convert("vmdk", "subformat=streamOptimized")``: the disk in another format."""

    def make(image_format: str, options: str | None = None) -> Path:
        path = tmp_path / f"converted.{image_format}"
        extra = ["-o", options] if options else []
        tool("qemu-img", "convert", "-f", "raw", "-O", image_format, *extra, disk, path)
        return path

    return make


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An authority, and a server certificate for 127.0.0.1 signed by it."""
    folder = tmp_path_factory.mktemp("tls")
    names = ("ca.key", "ca.pem", "server.key", "server.csr", "server.pem")
    files = {name: folder / name for name in names}
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    tool(
        *("openssl", "req", "-x509", *new_key, "-keyout", files["ca.key"], "-out", files["ca.pem"]),
        *("-days", "2", "-subj", "/CN=test authority", "-addext", "keyUsage=keyCertSign,cRLSign"),
    )
    tool(
        *("openssl", "req", *new_key, "-keyout", files["server.key"]),
        *("-out", files["server.csr"], "-subj", "/CN=127.0.0.1"),
    )
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    tool(
        *("openssl", "x509", "-req", "-in", files["server.csr"], "-CA", files["ca.pem"]),
        *("-CAkey", files["ca.key"], "-CAcreateserial", "-days", "2"),
        *("-extfile", folder / "ext", "-out", files["server.pem"]),
    )
    return files


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the n-th request with the n-th reply; the last one goes on for ever."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers.items())))
            replies = self.server.replies
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
        self.close_connection = True
        # The client has gone: that is what some tests want.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            reply(self)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.replies: list[Reply] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.release = threading.Event()
        """Set at the end of a test: a reply that hangs waits for this."""
        self.scheme = "https" if context else "http"
        if context is not None:
            # The handshake belongs into the handler's thread, not into the accepting one.
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a refused handshake

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/disk.img"


def _serve(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def web() -> Iterator[Server]:
    yield from _serve(Server())


@pytest.fixture
def tls_web(certificates: dict[str, Path]) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["server.pem"], certificates["server.key"])
    yield from _serve(Server(context))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the machine's must not see these tests."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NO_PROXY", "*")
