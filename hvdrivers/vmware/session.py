"""The session with the server: a stub of our own below pyVmomi's objects.

pyVmomi's objects call ``InvokeMethod`` of their stub for each method. The stub here sends the call
in the session that is open now, so objects outlive a session. Reading a property of an object
(``vm.name``) would be a call for each property; the stub refuses it, and ``reader.py`` reads
properties in bulk.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http.cookies import SimpleCookie
from typing import Any, TypeVar

from pyVmomi import SoapAdapter, VmomiSupport, vim, vmodl

from hvdrivers.contract import errors
from hvdrivers.driverkit import NotSent, Reconnecting, ReplyLost, Seam, SessionExpired, exchange
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.vmware.answers import Answer
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.deadline import unbounded
from hvdrivers.vmware.errors import translate
from hvdrivers.vmware.transport import Body, Reply, Request, Sink, Transport

_READS = frozenset(
    {
        "RetrieveServiceContent",
        "RetrievePropertiesEx",
        "ContinueRetrievePropertiesEx",
        "WaitForUpdatesEx",
        "FindAllByUuid",
        "CurrentTime",
        "QueryConfigTarget",
        "SearchDatastore_Task",
        "SearchDatastoreSubFolders_Task",
        "CheckRelocate_Task",
        "CreatePropertyCollector",
        "CreateFilter",
        "DestroyPropertyCollector",
        "CancelWaitForUpdates",
        "CreateCollectorForEvents",
        "DestroyCollector",
        "ListProcessesInGuest",
        "ListFilesInGuest",
        "InitiateFileTransferFromGuest",
        "InitiateFileTransferToGuest",
        "RetrieveVStorageObject",
        "FindByDatastorePath",
        "AcquireTicket",
        "RescanHba",
    }
)
"""Methods that may be sent again: they change nothing that outlives the session. A transfer that is
initiated again only has another address. A ticket that nobody got opens nothing after half a
minute. A host that looks for its LUNs twice finds the same."""
_ONCE = frozenset({"WaitForUpdatesEx"})
"""Reads that may not be sent again: an answer that was lost had news in it that do not come twice.
They raise OutcomeUnknown, and the waiting code looks for itself."""
_COOKIE = "vmware_soap_session"
_MARKUP = frozenset("<>&")
_T = TypeVar("_T")
_counted: ContextVar[bool] = ContextVar("hvdrivers-vmware-counted", default=True)


@contextmanager
def by_chance() -> Iterator[None]:
    """Calls of the block depend on chance (how fast the server is), so that tests do not count and
    do not cut them."""
    token = _counted.set(False)
    try:
        yield
    finally:
        _counted.reset(token)


class LazyRead(Exception):
    """Code of the driver has read a property of a managed object, which costs a call each."""


@dataclass(frozen=True, eq=False)
class Login:
    """One session on the server. Collectors and filters live and die with it."""

    cookie: str


class Stub(SoapAdapter.SoapStubAdapter):  # type: ignore[misc]
    """What pyVmomi's objects call."""

    def __init__(self, session: Session, version: str) -> None:
        super().__init__(host=session.config.host, port=session.config.port, version=version)
        self._session = session

    def InvokeMethod(  # noqa: N802 - pyVmomi's names
        self,
        mo: Any,
        info: Any,
        args: Any,
        outerStub: Any = None,  # noqa: N803
    ) -> Any:
        """One call."""
        return self._session.invoke(mo, info, args)

    def InvokeAccessor(self, mo: Any, info: Any) -> Any:  # noqa: N802
        """Refuse a lazy read."""
        raise LazyRead(f"{mo._wsdlName}.{info.name} was read outside of reader.py")


class Session:
    """The session with one server, made again when the server has ended it."""

    def __init__(self, config: VmwareConfig, *, background: bool = False) -> None:
        self.config = config
        self.transport = Transport(config)
        self.seam = Seam()
        self.link = Reconnecting[Login](
            self._open, close=self._logout, limit=config.connect_timeout
        )
        self._background = background
        """True: its calls depend on chance (an event stream's), so that tests do not count them."""
        self._stub: Stub | None = None
        self._content: Any = None

    @property
    def stub(self) -> Stub:
        """The stub. One request, once, for the version that both sides know."""
        if self._stub is None:
            self._stub = Stub(self, self._version())
        return self._stub

    @property
    def content(self) -> Any:
        """ServiceContent: the managers of the server. One call, once."""
        if self._content is None:
            self._content = vim.ServiceInstance("ServiceInstance", self.stub).RetrieveContent()
        return self._content

    def object(self, kind: str, moid: str) -> Any:
        """A managed object by its type and id; no call.

        Raises:
            InvalidRequest: the id is none. pyVmomi writes ids into its requests as they are.
        """
        if _MARKUP & set(moid):
            raise errors.InvalidRequest(
                f"{moid!r} is no reference of an object", hint="references look like vm-123"
            )
        return VmomiSupport.GetWsdlType("urn:vim25", kind)(moid, self.stub)

    def ask_time(self) -> None:
        """One round trip that needs a valid session."""
        self.host_now()

    def host_now(self) -> datetime:
        """The server's clock. One call."""
        now: datetime = vim.ServiceInstance("ServiceInstance", self.stub).CurrentTime()
        return now

    # ---- calls ----------------------------------------------------------------------------------

    def invoke(self, mo: Any, info: Any, args: Any) -> Any:
        """One SOAP call, sent as often as it may be sent."""
        name = str(info.wsdlName)
        if name in {"RetrieveServiceContent", "Login"}:
            return self._translated(lambda: self._soap(Login(""), mo, info, args))
        send = partial(self._soap, mo=mo, info=info, args=args)
        return self._translated(
            lambda: self._exchanged(name, send, changes=name not in _READS or name in _ONCE)
        )

    def _exchanged(self, name: str, send: Callable[[Login], _T], *, changes: bool) -> _T:
        counted = not self._background and _counted.get()
        seam = self.seam if counted else Seam()
        return exchange(self.link, seam, name, send, changes=changes, deadline=current_deadline())

    @staticmethod
    def _translated(call: Callable[[], _T]) -> _T:
        try:
            return call()
        except vmodl.MethodFault as fault:
            raise translate(fault) from fault
        except errors.OutcomeUnknown as error:
            error.retryable = True
            raise

    def _soap(self, login: Login, mo: Any, info: Any, args: Any) -> Any:
        stub = self.stub
        headers = {
            "Cookie": login.cookie,
            "SOAPAction": stub.versionId,
            "Content-Type": "text/xml; charset=UTF-8",
        }
        # a wait of the server's own must not look like a server that does not answer
        wait = next((a.maxWaitSeconds for a in args or () if hasattr(a, "maxWaitSeconds")), None)
        timeout = None if wait is None else wait + self.config.request_timeout
        body = None
        with suppress(UnicodeEncodeError):  # its text is the whole request
            body = stub.SerializeRequest(mo, info, args)
        if body is None:
            raise errors.InvalidRequest(
                f"a text for {info.wsdlName} is no Unicode: it has half of a surrogate pair",
                hint="check texts and passwords that were decoded with surrogateescape",
            )
        reply = self.transport.send(Request("POST", "/sdk", headers, body, timeout))
        if reply.status not in (200, 500):
            raise errors.HypervisorFault(
                f"the server answered {info.wsdlName} with HTTP status {reply.status}",
                retryable=True,
            )
        result = self._parsed(info, reply)
        if isinstance(result, vim.fault.NotAuthenticated) or _expired(result):
            raise SessionExpired("the session has ended", vendor_code="NotAuthenticated")
        if reply.status == 500:
            raise result
        return (result, reply) if info.wsdlName == "Login" else result

    def _parsed(self, info: Any, reply: Reply) -> Any:
        try:
            return Answer(self.stub).Deserialize(reply.body, info.result)
        except Exception as error:
            # pyVmomi raises KeyError and others for types of a newer server
            kind = errors.HypervisorFault if info.wsdlName in _READS else errors.OutcomeUnknown
            raise kind(
                f"the answer to {info.wsdlName} cannot be read: {type(error).__name__}: {error}",
                hint="a newer pyvmomi may know what the server has sent",
            ) from error

    # ---- login ----------------------------------------------------------------------------------

    def _open(self, seconds: float) -> Login:
        del seconds  # the transport bounds each request
        with unbounded():
            try:
                manager = self.content.sessionManager
                password = self.config.password.get_secret_value()
                _, reply = manager.Login(self.config.username, password)
            except (NotSent, ReplyLost) as error:
                raise errors.ConnectionFailed(error.message, retryable=True) from error
        morsel = SimpleCookie(reply.headers.get("set-cookie", "")).get(_COOKIE)
        if morsel is None:
            raise errors.ConnectionFailed("the server gave no session", retryable=False)
        return Login(f"{_COOKIE}={morsel.coded_value}")

    def _logout(self, login: Login) -> None:
        manager = self.content.sessionManager
        with unbounded():
            try:
                self._soap(login, manager, type(manager).Logout.info, [])
            except vmodl.MethodFault:
                return  # it had ended already

    def _version(self) -> str:
        """The newest version of the API that both sides know."""
        path = "/sdk/vimServiceVersions.xml"
        try:
            reply = self.transport.send(Request("GET", path, {}))
        except (NotSent, ReplyLost) as error:
            raise errors.ConnectionFailed(error.message, retryable=True) from error
        try:
            root = ET.fromstring(reply.body)  # noqa: S314 - the server is the authority here
        except ET.ParseError as error:
            raise errors.ConnectionFailed(
                "the server does not answer as vSphere does", retryable=False
            ) from error
        for namespace in root.iterfind("namespace"):
            if namespace.findtext("name") != "urn:vim25":
                continue
            offered = [namespace.findtext("version")]
            offered += [each.text for each in namespace.iterfind("priorVersions/version")]
            for version in offered:
                known = VmomiSupport.versionMap.get(f"vim25/{version}")
                if known is not None:
                    return str(known)
        return "vim.version.version9"

    # ---- files ----------------------------------------------------------------------------------

    def http(
        self,
        method: str,
        path: str,
        *,
        body: Body = None,
        headers: dict[str, str] | None = None,
        sink: Sink | None = None,
    ) -> Reply:
        """A request to the server's own web space (``/folder``, ``/screen``), in this session."""

        def send(login: Login) -> Reply:
            if body is not None and not isinstance(body, bytes):
                body.seek(0)
            given = {"Cookie": login.cookie, **(headers or {})}
            reply = self.transport.send(Request(method, path, given, body, sink=sink))
            if reply.status == 401:
                raise SessionExpired("the session has ended", vendor_code="HTTP 401")
            return reply

        name = f"{method} /{path.split('/')[1].partition('?')[0]}"
        # PUT of the same content may be sent again
        return self._translated(
            lambda: self._exchanged(name, send, changes=method not in {"GET", "HEAD", "PUT"})
        )

    def elsewhere(self, transport: Transport, request: Request) -> Reply:
        """A request to an address that the server has given, of a file that is read, or written as
        a whole. No session goes along."""
        name = f"{request.method} /{request.path.split('/')[1].partition('?')[0]}"

        def send(_: Login) -> Reply:
            return transport.send(request)

        return self._exchanged(name, send, changes=False)

    def close(self) -> None:
        """Log out and close the connections."""
        self.link.close()
        self.transport.close()


def _expired(result: Any) -> bool:
    """Whether a read has met the end of the session: RetrievePropertiesEx succeeds then, and says
    so for each object."""
    objects = getattr(result, "objects", None)
    return any(
        isinstance(miss.fault, vim.fault.NotAuthenticated)
        for each in (objects if isinstance(objects, list) else ())
        for miss in each.missingSet or ()
    )
