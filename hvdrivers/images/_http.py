"""Download an image over HTTP(S) into a file, inspected and verified as it passes.

httpx' transport is used without its client: the client logs each URL with its query (which may be a
signature), reads ``.netrc``, and carries a caller's own headers across redirects.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.request import getproxies, proxy_bypass

import httpx

from hvdrivers.contract.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    ImageRejected,
    InvalidRequest,
    PermissionDenied,
)
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hints import IMAGE_URL, TOO_LARGE, WEB_URL
from hvdrivers.images import _addresses
from hvdrivers.images._alarm import Alarm
from hvdrivers.images._ova import inspector_of
from hvdrivers.images.inspect import ImageInspector
from hvdrivers.images.sparse import SparseWriter, spool_errors
from hvdrivers.models.image import HttpImage, ImageInfo, shown_url
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

_REDIRECTS = 5
_ATTEMPTS = 4
"""Attempts in a row that bring less than ``_PROGRESS_BYTES``, before it is given up."""
_PROGRESS_BYTES = 1024 * 1024
_BACKOFF_S = 0.5
_SILENCE_S = 30.0
"""How long a server may be silent before the connection counts as cut."""
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_DOING = "the image was downloaded"


class _Interrupted(Exception):
    """This attempt is over, the next may succeed. ``error`` is what to raise if none does."""

    def __init__(self, error: ConnectionFailed) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(slots=True)
class _Place:
    """What is known of the content on the server, for resuming."""

    validator: str | None = None
    """Strong ETag, or Last-Modified: what If-Range needs."""
    total: int | None = None


class Download:
    """One image, fetched once. Not reusable, not thread-safe."""

    def __init__(
        self,
        image: HttpImage,
        descriptor: int,
        deadline: Deadline,
        *,
        progress: ProgressCallback | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self._image = image
        try:
            self._url = httpx.URL(str(image.url))
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidRequest(f"{image.display_url} is no valid URL", hint=WEB_URL) from error
        self._writer = SparseWriter(descriptor)
        self._deadline = deadline
        self._progress = progress
        self._max_bytes = max_bytes
        self._reported = -1
        self._place = _Place()
        self._inspector = self._new_inspector()

    def run(self) -> tuple[ImageInfo, ImageInspector]:
        """Fetch everything into the empty file; what its inspection found. The errors are those of
        :func:`hvdrivers.images.open_image`."""
        failures = 0
        while True:
            before = self._inspector.size
            try:
                self._attempt()
                break
            except _Interrupted as interruption:
                self._deadline.check(_DOING)
                failures = 1 if self._inspector.size >= before + _PROGRESS_BYTES else failures + 1
                if failures >= _ATTEMPTS:
                    raise interruption.error from interruption.__cause__
            if failures > 1:
                self._deadline.pause(_BACKOFF_S * 2 ** (failures - 2), _DOING)
        info = self._inspector.finish()
        with spool_errors():
            self._writer.finish()
        self._report(final=True)
        return info, self._inspector

    def _new_inspector(self) -> ImageInspector:
        return inspector_of(
            self._image.format, checksum=self._image.checksum, max_bytes=self._max_bytes
        )

    # ------------------------------------------------------------------------- one attempt

    def _attempt(self) -> None:
        alarm = Alarm(self._deadline)
        try:
            url = self._url
            for _ in range(_REDIRECTS + 1):
                with self._response(url, alarm) as response:
                    if not response.has_redirect_location:
                        self._receive(url, response)
                        return
                    url = self._followed(url, response)
            raise InvalidRequest(
                f"{self._image.display_url} redirects more than {_REDIRECTS} times",
                hint="give the URL of the file itself",
            )
        finally:
            alarm.close()

    def _followed(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        target = _redirect(url, response)
        if self._may_be_local(target):
            return target
        shown = f"{shown_url(str(url))} redirects to {shown_url(str(target))}"
        _addresses.refuse_local(_host(target), _origin(target)[2], shown)
        return target

    def _may_be_local(self, url: httpx.URL) -> bool:
        """The caller has named its own URL's address."""
        return self._image.allow_local_redirects or _origin(url) == _origin(self._url)

    def _trace(self, url: httpx.URL, alarm: Alarm, proxy: str | None) -> _addresses.Trace:
        if proxy is not None or self._may_be_local(url):
            return alarm.trace
        return _addresses.checking(alarm.trace, f"a redirect leads to {shown_url(str(url))}")

    @contextlib.contextmanager
    def _response(self, url: httpx.URL, alarm: Alarm) -> Iterator[httpx.Response]:
        left = self._deadline.left
        proxy = _proxy(url)
        try:
            request = httpx.Request(
                "GET",
                url,
                headers=self._headers(url),
                extensions={
                    "timeout": httpx.Timeout(min(_SILENCE_S, max(left, 0.001))).as_dict(),
                    "trace": self._trace(url, alarm, proxy),
                },
            )
        except UnicodeError as error:  # IDNA: httpx decodes the name for the Host header
            raise InvalidRequest(
                f"{shown_url(str(url))} has no valid host name", hint=WEB_URL
            ) from error
        # One transport per request: nothing to gain from keeping a connection for one file.
        try:
            transport = httpx.HTTPTransport(verify=self._trust(), proxy=proxy)
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidRequest(
                "the proxy for it is no URL", hint="correct http_proxy, https_proxy or all_proxy"
            ) from error
        with self._http_errors(url), transport:
            response = transport.handle_request(request)
            try:
                yield response
            finally:
                response.close()

    def _headers(self, url: httpx.URL) -> dict[str, str]:
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "hvdrivers"}
        if _origin(url) == _origin(self._url):
            for name, value in self._image.headers.items():
                headers[name] = value.get_secret_value()
        if self._inspector.size:
            headers["Range"] = f"bytes={self._inspector.size}-"
            # a header is ASCII; what a server sent beyond that cannot be sent back
            if self._place.validator is not None and self._place.validator.isascii():
                headers["If-Range"] = self._place.validator
            # Without a validator the server may splice two files; the checksum will tell.
        return headers

    def _trust(self) -> ssl.SSLContext | bool:
        if not self._image.verify_tls:
            return False
        try:
            return ssl.create_default_context(cafile=self._image.ca_file)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise InvalidRequest(
                "ca_file cannot be read as PEM certificates", hint="check the path and the content"
            ) from error

    def _receive(self, url: httpx.URL, response: httpx.Response) -> None:
        self._check_status(url, response)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise InvalidRequest(
                f"{shown_url(str(url))} sends the image compressed, though asked not to",
                hint="configure the server to send the file as it is",
            )
        offset = self._inspector.size
        resumed = offset > 0 and response.status_code == 206
        if offset and not resumed:
            # The file has changed, or the server knows no ranges: from the beginning.
            self._inspector = self._new_inspector()
            with spool_errors():
                self._writer.restart()
        self._place = self._read_place(url, response, resumed=resumed)
        if self._max_bytes is not None and (self._place.total or 0) > self._max_bytes:
            raise ImageRejected(
                f"the image has {self._place.total} bytes, more than the {self._max_bytes} allowed",
                hint=TOO_LARGE,
            )
        for data in response.iter_raw():
            self._deadline.check(_DOING)
            self._inspector.feed(data)
            with spool_errors():
                self._writer.write(data)
            self._report()
        # The alarm's cut looks like the end of a body without a Content-Length.
        self._deadline.check(_DOING)
        if self._place.total is not None and self._inspector.size < self._place.total:
            raise _Interrupted(self._cut(url))

    def _read_place(self, url: httpx.URL, response: httpx.Response, *, resumed: bool) -> _Place:
        etag = response.headers.get("etag", "")
        validator = etag if etag.startswith('"') else response.headers.get("last-modified")
        if not resumed:
            length = response.headers.get("content-length", "")
            return _Place(validator, int(length) if re.fullmatch(r"\d{1,19}", length) else None)
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if match is None or int(match[1]) != self._inspector.size:
            # Appending what it sends would corrupt the file; asking again would bring it again.
            raise ConnectionFailed(
                f"{shown_url(str(url))} answers another range than was asked for",
                host=url.netloc.decode("ascii"),
                hint="the server, or a proxy before it, handles Range wrongly",
            )
        total = None if match[3] == "*" else int(match[3])
        return _Place(self._place.validator or validator, total or self._place.total)

    def _check_status(self, url: httpx.URL, response: httpx.Response) -> None:
        status = response.status_code
        if status in (200, 206) and (status == 200 or self._inspector.size):
            return
        host, code, shown = url.netloc.decode("ascii"), f"HTTP {status}", shown_url(str(url))
        shrunk = status == 416 and self._inspector.size > 0
        if shrunk:
            # Shorter than what came before: it is another file now.
            self._inspector = self._new_inspector()
            with spool_errors():
                self._writer.restart()
        if shrunk or status in _TRANSIENT:
            raise _Interrupted(
                ConnectionFailed(
                    f"the server does not deliver {shown}",
                    host=host,
                    vendor_code=code,
                    hint="the image server is overloaded or broken: try later",
                )
            )
        if status in (401, 407):
            raise AuthenticationFailed(
                f"the server refuses the credentials for {shown}",
                host=host,
                vendor_code=code,
                hint="give valid credentials in headers=",
            )
        if status == 403:
            raise PermissionDenied(
                f"the server does not allow {shown}",
                host=host,
                vendor_code=code,
                hint="give headers= that allow it, or a URL that is signed",
            )
        if status in (404, 410):
            # Not VolumeNotFound: that is about the hypervisor, and this is the caller's argument.
            raise InvalidRequest(
                f"the server has no {shown}", host=host, vendor_code=code, hint="correct the URL"
            )
        raise InvalidRequest(
            f"the server answers the request for {shown} with an unexpected status",
            host=host,
            vendor_code=code,
            hint="ask whoever runs that server, or give another URL",
        )

    # ------------------------------------------------------------------------------- errors

    def _cut(self, url: httpx.URL) -> ConnectionFailed:
        return ConnectionFailed(
            f"the connection to the image server was cut after {self._inspector.size} bytes",
            host=url.netloc.decode("ascii"),
            hint="try again; if it goes on, look at the image server",
        )

    @contextlib.contextmanager
    def _http_errors(self, url: httpx.URL) -> Iterator[None]:
        host = url.netloc.decode("ascii")
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            self._deadline.check(_DOING)
            if _in_chain(error, ssl.SSLError):
                raise ConnectionFailed(
                    f"no TLS connection to {host}: its certificate is not trusted, or it speaks"
                    " no TLS",
                    host=host,
                    hint="give ca_file= with the authority that signed its certificate",
                    retryable=False,
                ) from error
            unreachable = ConnectionFailed(
                f"the image server {host} cannot be reached",
                host=host,
                hint="check the URL, the name service and the network",
            )
            if self._inspector.size:
                raise _Interrupted(unreachable) from error
            raise unreachable from error
        except UnicodeError as error:  # what the name service cannot be asked for
            raise InvalidRequest(
                f"{shown_url(str(url))} has no valid host name", hint=WEB_URL
            ) from error
        except httpx.TransportError as error:
            self._deadline.check(_DOING)
            if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
                raise InvalidRequest(
                    "the image's URL or headers cannot be sent", hint="correct the URL or headers="
                ) from error
            raise _Interrupted(self._cut(url)) from error

    def _report(self, *, final: bool = False) -> None:
        # After a restart from zero, stay silent until it is farther than it was: done never sinks.
        if self._progress is None:
            return
        done = self._inspector.size
        if done >= self._reported + _PROGRESS_BYTES or self._reported < 0 or final:
            if done <= self._reported:
                return
            self._reported = done
            total = self._place.total
            self._progress(Progress(phase=Phase.DOWNLOAD, done=done, total=total))


def _redirect(url: httpx.URL, response: httpx.Response) -> httpx.URL:
    try:
        target = url.join(response.headers["location"])
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidRequest(
            f"{shown_url(str(url))} redirects to no valid URL", hint=IMAGE_URL
        ) from error
    shown = f"{shown_url(str(url))} redirects to {shown_url(str(target))}"
    if target.scheme not in ("http", "https") or not target.raw_host:
        raise InvalidRequest(f"{shown}, which is no web address", hint=IMAGE_URL)
    if url.scheme == "https" and target.scheme != "https":
        raise InvalidRequest(
            f"{shown}: from HTTPS to plain HTTP", hint="give the URL of the file itself"
        )
    # Credentials that a server puts into a redirect would be sent on; and end up in logs.
    return target.copy_with(username=None, password=None, fragment=None)


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, _host(url), url.port or (443 if url.scheme == "https" else 80)


def _host(url: httpx.URL) -> str:
    # Not url.host, which decodes IDNA and fails on a name that a hostile redirect made up.
    return url.raw_host.decode("ascii")


def _proxy(url: httpx.URL) -> str | None:
    """The proxy of the environment (``https_proxy``, ``no_proxy``), as every tool honours it."""
    proxies = getproxies()
    if proxy_bypass(_host(url)):
        return None
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def _in_chain(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False
