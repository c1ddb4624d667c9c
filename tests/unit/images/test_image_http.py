"""Downloads from real servers on the loopback interface, which cut, lie, hang and redirect."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hvdrivers.contract.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    HypervisorError,
    ImageRejected,
    InsufficientResources,
    InvalidRequest,
    OperationTimeout,
    PermissionDenied,
)
from hvdrivers.images import LocalImage, _addresses, open_image, source
from hvdrivers.models.image import HttpImage
from hvdrivers.models.progress import Phase, Progress

from .conftest import Handler, Reply, Server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvdrivers.images._http._BACKOFF_S", 0.001)
    monkeypatch.setattr("hvdrivers.images._http._PROGRESS_BYTES", 256 * 1024)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "spool"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def content(disk: Path) -> bytes:
    return disk.read_bytes()


def ref(url: str, content: bytes, **more: Any) -> HttpImage:
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return HttpImage.model_validate({"url": url, "format": "raw", "checksum": checksum, **more})


def failure(image: HttpImage, **options: Any) -> HypervisorError:
    with pytest.raises(HypervisorError) as caught, open_image(image, **options):
        pytest.fail("an image came out")
    assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    return caught.value


def whole(content: bytes, **headers: str) -> Reply:
    return lambda h: h.send(200, {"Content-Length": str(len(content)), **headers}, content)


def ranged(content: bytes, *, cut_after: int | None = None, etag: str | None = '"one"') -> Reply:
    """Serves ranges, and closes the connection ``cut_after`` bytes into the answer."""

    def reply(handler: Handler) -> None:
        wanted = handler.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if handler.headers.get("If-Range", etag) != etag:
            start, wanted = 0, None
        body = content[start:]
        headers = {"Content-Length": str(len(body))}
        if etag:
            headers["ETag"] = etag
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.send(206 if wanted else 200, headers, body[:cut_after])

    return reply


def read(image: LocalImage) -> bytes:
    return os.pread(image.descriptor, image.info.file_size_bytes + 1, 0)


# ------------------------------------------------------------------------------------ it works


def test_download(web: Server, content: bytes, spool: Path) -> None:
    web.replies = [whole(content)]
    seen: list[Progress] = []
    with open_image(ref(web.url, content), progress=seen.append, workdir=spool) as image:
        assert list(spool.iterdir()) == []  # nothing that a killed process could leave
        assert read(image) == content
        assert image.sha256 == hashlib.sha256(content).hexdigest()
        assert image.cache_key == f"raw-sha256-{image.sha256}"
        assert image.info.virtual_size_bytes == len(content)
    assert {report.phase for report in seen} == {Phase.DOWNLOAD}
    assert seen[-1] == Progress(phase=Phase.DOWNLOAD, done=len(content), total=len(content))
    assert web.requests[0][1]["Accept-Encoding"] == "identity"


def test_without_a_length(web: Server, content: bytes) -> None:
    web.replies = [lambda h: h.send(200, {"Connection": "close"}, content)]
    with open_image(ref(web.url, content), timeout=60) as image:
        assert read(image) == content


def test_chunked(web: Server, content: bytes) -> None:
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
    web.replies = [lambda h: h.send(200, {"Transfer-Encoding": "chunked"}, body)]
    with open_image(ref(web.url, content)) as image:
        assert read(image) == content


def test_holes_stay_holes(web: Server, spool: Path) -> None:
    content = bytes(8 * 1024 * 1024) + b"data"
    web.replies = [whole(content)]
    with open_image(ref(web.url, content), workdir=spool) as image:
        assert read(image) == content
        assert sum(extent.length for extent in image.extents() if extent.is_data) < 1024 * 1024


def test_tls(tls_web: Server, content: bytes, certificates: dict[str, Path]) -> None:
    tls_web.replies = [whole(content)]
    with open_image(ref(tls_web.url, content, ca_file=certificates["ca.pem"]), timeout=60) as image:
        assert read(image) == content
    with open_image(ref(tls_web.url, content, verify_tls=False)) as image:
        assert read(image) == content


def test_no_secret_is_logged(web: Server, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    web.replies = [whole(content)]
    image = ref(f"{web.url}?sig=hunter2", content, headers={"Authorization": "Bearer hunter2"})
    with open_image(image):
        pass
    assert web.requests[0][0] == "/disk.img?sig=hunter2"
    assert web.requests[0][1]["Authorization"] == "Bearer hunter2"
    assert "hunter2" not in caplog.text


# ------------------------------------------------------------------------------------- resuming


def test_cut_and_resumed(web: Server, content: bytes, spool: Path) -> None:
    web.replies = [ranged(content, cut_after=600_000), ranged(content)]
    seen: list[Progress] = []
    with open_image(ref(web.url, content), workdir=spool, progress=seen.append) as image:
        assert read(image) == content
    second = web.requests[1][1]
    assert second["Range"] == "bytes=600000-"
    assert second["If-Range"] == '"one"'
    assert [r.done for r in seen] == sorted(r.done for r in seen)


def test_cut_many_times_with_progress(web: Server, content: bytes) -> None:
    web.replies = [ranged(content, cut_after=300_000)]
    with open_image(ref(web.url, content)) as image:
        assert read(image) == content
    assert len(web.requests) == 7


def test_cut_without_progress_is_bounded(web: Server, content: bytes, spool: Path) -> None:
    web.replies = [ranged(content, cut_after=1000)]
    error = failure(ref(web.url, content), workdir=spool)
    assert type(error) is ConnectionFailed
    assert error.host == web.url.split("/")[2]
    assert error.retryable
    assert len(web.requests) == 4


def test_changed_between_the_pieces(web: Server, content: bytes) -> None:
    """Another ETag: the server sends everything, and it starts again."""
    old = b"old" + content[3:]
    web.replies = [ranged(old, cut_after=600_000), ranged(content, etag='"two"')]
    seen: list[Progress] = []
    with open_image(ref(web.url, content), progress=seen.append) as image:
        assert read(image) == content
    assert [r.done for r in seen] == sorted(r.done for r in seen)


def test_a_validator_that_no_header_can_send_back(web: Server, content: bytes) -> None:
    """It counts as none, and says nothing of the host's name."""
    etag = '"\u00e9t\u00e9"'
    web.replies = [ranged(content, cut_after=600_000, etag=etag), ranged(content, etag=etag)]
    with open_image(ref(web.url, content)) as image:
        assert read(image) == content
    assert "If-Range" not in web.requests[-1][1]


def test_spliced_from_two_files(web: Server, content: bytes, spool: Path) -> None:
    """Without a validator the server cannot know; the checksum does."""
    old = b"old" + content[3:]
    web.replies = [ranged(old, cut_after=600_000, etag=None), ranged(content, etag=None)]
    assert type(failure(ref(web.url, content), workdir=spool)) is ImageRejected


def test_server_without_ranges(web: Server, content: bytes) -> None:
    cut = {"Content-Length": str(len(content))}
    web.replies = [lambda h: h.send(200, cut, content[:5000]), whole(content)]
    with open_image(ref(web.url, content)) as image:
        assert read(image) == content


def test_wrong_range(web: Server, content: bytes) -> None:
    wrong = {"Content-Length": "4", "Content-Range": f"bytes 0-3/{len(content)}"}
    web.replies = [ranged(content, cut_after=600_000), lambda h: h.send(206, wrong, b"1234")]
    assert "range" in failure(ref(web.url, content)).message
    assert len(web.requests) == 2  # asking again would bring it again


def test_shrunk_between_the_pieces(web: Server, content: bytes) -> None:
    web.replies = [
        ranged(content + content, cut_after=600_000),
        lambda h: h.send(416, {"Content-Length": "0"}),
        ranged(content),
    ]
    with open_image(ref(web.url, content)) as image:
        assert read(image) == content


def test_transient_status(web: Server, content: bytes) -> None:
    busy: Reply = lambda h: h.send(503, {"Content-Length": "0"})  # noqa: E731
    web.replies = [busy, busy, whole(content)]
    with open_image(ref(web.url, content)) as image:
        assert read(image) == content
    web.replies = [busy]
    error = failure(ref(web.url, content))
    assert type(error) is ConnectionFailed
    assert error.vendor_code == "HTTP 503"


# ------------------------------------------------------------------------------------- lies


def test_length_too_short(web: Server, content: bytes) -> None:
    web.replies = [lambda h: h.send(200, {"Content-Length": "1000"}, content)]
    assert "checksum" in failure(ref(web.url, content)).message


def test_length_too_long(web: Server, content: bytes) -> None:
    web.replies = [lambda h: h.send(200, {"Content-Length": "99999999"}, content)]
    assert type(failure(ref(web.url, content))) is ConnectionFailed


def test_not_the_content_promised(web: Server, content: bytes, spool: Path) -> None:
    web.replies = [whole(content[:-1] + b"!")]
    error = failure(ref(web.url, content), workdir=spool)
    assert type(error) is ImageRejected
    assert "checksum" in error.message


def test_unsafe_content(web: Server, convert: Callable[..., Path]) -> None:
    content = convert("vmdk").read_bytes()
    web.replies = [whole(content)]
    assert type(failure(ref(web.url, content, format="qcow2"))) is ImageRejected


def test_too_large(web: Server, content: bytes) -> None:
    web.replies = [whole(content), lambda h: h.send(200, {"Connection": "close"}, content)]
    for _ in range(2):
        assert type(failure(ref(web.url, content), max_bytes=100_000)) is ImageRejected


def test_compressed_though_asked_not_to(web: Server, content: bytes) -> None:
    web.replies = [whole(content, **{"Content-Encoding": "gzip"})]
    assert type(failure(ref(web.url, content))) is InvalidRequest


def test_not_http_at_all(web: Server, content: bytes) -> None:
    web.replies = [lambda h: h.wfile.write(b"SSH-2.0-OpenSSH\r\n" * 10) and None]
    assert type(failure(ref(web.url, content))) is ConnectionFailed


# ------------------------------------------------------------------------------ statuses, TLS


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AuthenticationFailed),
        (403, PermissionDenied),
        (404, InvalidRequest),
        (410, InvalidRequest),
        (400, InvalidRequest),
        (204, InvalidRequest),
        (206, InvalidRequest),
        (304, InvalidRequest),
        (416, InvalidRequest),
    ],
)
def test_status(
    web: Server, content: bytes, spool: Path, status: int, kind: type[HypervisorError]
) -> None:
    web.replies = [lambda h: h.send(status, {"Content-Length": "0"})]
    error = failure(ref(f"{web.url}?sig=hunter2", content), workdir=spool)
    assert type(error) is kind
    assert error.vendor_code == f"HTTP {status}"
    assert error.host in web.url if error.host else False
    assert len(web.requests) == 1


def test_untrusted_certificate(tls_web: Server, content: bytes, tmp_path: Path) -> None:
    tls_web.replies = [whole(content)]
    error = failure(ref(tls_web.url, content))
    assert type(error) is ConnectionFailed
    assert not error.retryable
    assert "ca_file" in (error.hint or "")
    for text in ("not a certificate", None):
        path = tmp_path / "ca"
        if text:
            path.write_text(text)
        else:
            path.unlink()
        assert type(failure(ref(tls_web.url, content, ca_file=path))) is InvalidRequest


def test_certificate_of_another_name(
    tls_web: Server, content: bytes, certificates: dict[str, Path]
) -> None:
    tls_web.replies = [whole(content)]
    url = tls_web.url.replace("127.0.0.1", "localhost")
    error = failure(ref(url, content, ca_file=certificates["ca.pem"]))
    assert type(error) is ConnectionFailed
    assert not error.retryable


def test_nobody_listens(content: bytes) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        error = failure(ref(f"http://127.0.0.1:{port}/x", content))
    assert type(error) is ConnectionFailed
    assert error.host == f"127.0.0.1:{port}"
    assert error.__cause__ is not None


def test_unknown_name(content: bytes) -> None:
    error = failure(ref("http://no-such-host.invalid/x", content))
    assert type(error) is ConnectionFailed
    assert error.host == "no-such-host.invalid"


# ----------------------------------------------------------------------------------- redirects


def to(location: str, status: int = 302) -> Reply:
    return lambda h: h.send(status, {"Location": location, "Content-Length": "0"})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(web: Server, content: bytes, status: int) -> None:
    web.replies = [to("/other", status), whole(content)]
    with open_image(ref(web.url, content, headers={"X-Token": "t"})) as image:
        assert read(image) == content
    assert [path for path, _ in web.requests] == ["/disk.img", "/other"]
    assert web.requests[1][1]["X-Token"] == "t"


def test_headers_stay_with_their_origin(
    web: Server, tls_web: Server, content: bytes, certificates: dict[str, Path]
) -> None:
    web.replies = [to(tls_web.url.replace("://", "://user:pass@"))]
    tls_web.replies = [whole(content)]
    image = ref(web.url, content, headers={"X-Token": "t"}, ca_file=certificates["ca.pem"])
    image = image.model_copy(update={"allow_local_redirects": True})
    with open_image(image):
        pass
    assert "X-Token" in web.requests[0][1]
    assert not {"X-Token", "Authorization"} & set(tls_web.requests[0][1])


def test_never_from_https_to_http(
    web: Server, tls_web: Server, content: bytes, certificates: dict[str, Path]
) -> None:
    tls_web.replies = [to(web.url + "?sig=hunter2")]
    web.replies = [whole(content)]
    error = failure(ref(tls_web.url, content, ca_file=certificates["ca.pem"]))
    assert type(error) is InvalidRequest
    assert "plain HTTP" in error.message
    assert web.requests == []


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://a/b",
        "http://",
        "http://[",
        "http://xn--\xff/",
        "//",
        "http://a:x/",
    ],
)
def test_bad_redirects(web: Server, content: bytes, location: str) -> None:
    web.replies = [to(location)]
    assert isinstance(failure(ref(web.url, content)), (InvalidRequest, ConnectionFailed))


def test_redirect_loop(web: Server, content: bytes) -> None:
    web.replies = [to("/again")]
    assert "more than 5 times" in failure(ref(web.url, content)).message
    assert len(web.requests) == 6


# ------------------------------------------------------------------------- deadline, disk full


def hang_in_body(handler: Handler) -> None:
    handler.send(200, {"Content-Length": "1000000"}, b"x" * 1000)
    handler.server.release.wait(600)


def hang_before_the_status(handler: Handler) -> None:
    handler.server.release.wait(600)


def drip_headers(handler: Handler) -> None:
    """Never silent for long, never done: no timeout of a single read notices."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.release.wait(0.02):
        handler.wfile.write(b"X-A: b\r\n")


def drip_body_without_length(handler: Handler) -> None:
    handler.send(200, {"Connection": "close"})
    while not handler.server.release.wait(0.02):
        handler.wfile.write(b"x")


@pytest.mark.parametrize(
    "reply", [hang_in_body, hang_before_the_status, drip_headers, drip_body_without_length]
)
@pytest.mark.parametrize("tls", [False, True])
def test_deadline(
    web: Server,
    tls_web: Server,
    content: bytes,
    spool: Path,
    certificates: dict[str, Path],
    reply: Reply,
    tls: bool,
) -> None:
    server = tls_web if tls else web
    server.replies = [reply]
    more = {"ca_file": certificates["ca.pem"]} if tls else {}
    began = time.monotonic()
    error = failure(ref(server.url, content, **more), timeout=0.5, workdir=spool)
    assert type(error) is OperationTimeout
    # without the deadline it would be 600 or for ever
    assert 0.5 <= time.monotonic() - began < 120


def test_deadline_in_the_tls_handshake(content: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and says nothing
        port = listener.getsockname()[1]
        began = time.monotonic()
        error = failure(ref(f"https://127.0.0.1:{port}/x", content), timeout=0.5)
    assert type(error) is OperationTimeout
    assert time.monotonic() - began < 120


def test_no_room(web: Server, content: bytes, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.replies = [whole(content)]

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hvdrivers.images.sparse.os.pwrite", full)
    error = failure(ref(web.url, content), workdir=spool)
    assert type(error) is InsufficientResources
    assert isinstance(error.__cause__, OSError)


def test_no_workdir(web: Server, content: bytes, tmp_path: Path) -> None:
    web.replies = [whole(content)]
    assert type(failure(ref(web.url, content), workdir=tmp_path / "absent")) is InvalidRequest


def test_a_raising_progress_callback_stops(web: Server, content: bytes, spool: Path) -> None:
    class StopHere(Exception):
        pass

    def stop(_: Progress) -> None:
        raise StopHere

    web.replies = [whole(content)]
    with (
        pytest.raises(StopHere),
        open_image(ref(web.url, content), progress=stop, workdir=spool, timeout=60),
    ):
        pass


# -------------------------------------------------------------- redirects to where nobody may look


LOCAL = [
    "127.0.0.1",
    "127.9.9.9",
    "[::1]",
    "localhost",
    "0.0.0.0",
    "[::]",
    "2130706433",
    "0x7f000001",
    "127.1",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "169.254.169.254",
    "[fe80::1]",
]


@pytest.mark.parametrize("host", LOCAL)
def test_redirects_to_this_machine_and_its_link(web: Server, content: bytes, host: str) -> None:
    """Whether something listens there, and what, makes no difference to the error."""
    told = set()
    for port in (web.server_address[1], 1):
        target = f"http://{host}:{port}/secret"
        web.replies = [to(target), whole(b"a service of this machine")]
        web.requests.clear()
        image = ref(f"http://localhost:{web.server_address[1]}/disk.img", content)
        if host == "localhost" and port == web.server_address[1]:
            continue  # the caller named that one
        error = failure(image)
        assert type(error) is InvalidRequest
        told.add(re.sub(r":\d+/", "/", error.message))
        assert len(web.requests) == 1
    assert len(told) == 1


def test_local_redirects_when_allowed(web: Server, content: bytes) -> None:
    url = f"http://localhost:{web.server_address[1]}/disk.img"
    web.replies = [to(web.url), whole(content)]
    with open_image(ref(url, content, allow_local_redirects=True)) as image:
        assert read(image) == content


def test_a_name_that_changes_its_address(
    web: Server, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at once more when the connection is there, before anything is sent."""
    web.replies = [to(web.url), whole(content)]
    monkeypatch.setattr(_addresses, "refuse_local", lambda *_: None)
    error = failure(ref(f"http://localhost:{web.server_address[1]}/disk.img", content))
    assert type(error) is InvalidRequest
    assert "of this machine" in error.message
    assert len(web.requests) == 1


@pytest.mark.parametrize("host", ["xn--", "...", "a..b", "x" * 64, "xn--a", ".", "a" * 250])
def test_names_that_are_none(web: Server, content: bytes, host: str) -> None:
    web.replies = [to(f"http://{host}/")]
    assert isinstance(failure(ref(web.url, content)), InvalidRequest | ConnectionFailed)
    try:
        image = ref(f"http://{host}/", content)
    except ValidationError:
        return
    assert isinstance(failure(image), InvalidRequest | ConnectionFailed)


def test_a_proxy_that_is_none(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("http://[", "gopher://a", "http://a:x", "\udcff"):
        monkeypatch.setenv("http_proxy", proxy)
        assert isinstance(failure(ref("http://x.invalid/a", content)), HypervisorError)


def test_an_endless_body(
    web: Server, content: bytes, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a length, and never done: it ends at the limit."""

    def endless(handler: Handler) -> None:
        handler.send(200, {})
        while True:
            handler.wfile.write(bytes(65536))

    monkeypatch.setattr(source, "IMAGE_DOWNLOAD_BYTES", 1 << 20)
    web.replies = [endless]
    error = failure(ref(web.url, content))
    assert type(error) is ImageRejected
    assert "1048576" in error.message
