"""A simulated Hyper-V host for clients that speak WinRM: what vcsim is for vSphere.

Two halves meet here.

The **wire**: ``wsman*.py``. ``WsmanServer(host)`` is a WS-Management shell server. A client creates
a shell and runs commands in it; each command is a process of a real PowerShell engine, started with
the environment that the host gives.

The **host**: ``SimulatedHost``. A Python state server with machines, disks, switches, rules and an
event log, and generated PowerShell modules (Hyper-V, iSCSI, Storage, and the parts of CimCmdlets
and Microsoft.PowerShell.Diagnostics that Hyper-V scripts use) whose functions forward each bound
call to that server. State lives in Python and survives a killed PowerShell.

The interface between them, and all that the wire knows of the host::

    class Host(Protocol):
        def start(self) -> None: ...
        def close(self) -> None: ...
        def environment(self) -> Mapping[str, str]: ...
        def prelude(self) -> str: ...
        def endpoint_started(self, endpoint: str) -> None: ...     # optional

``environment()``
    variables that are added to the environment of every PowerShell process:
    ``PSModulePath`` (the folder of the generated modules, nothing else), ``HVSIM_SERVER`` (the
    path of the state server's UNIX socket) and ``HVSIM_DRIVE`` (the folder of this machine that is
    drive ``C:``). The wire adds ``PSHOST_CRLF`` and what the client asks for in its Shell. The
    values are constant between ``start()`` and ``close()``.
``prelude()``
    PowerShell text that the wire puts in front of the text of every ``powershell`` command
    (``-EncodedCommand`` and ``-Command``), in the same scope. It is where drive ``C:`` is made. A
    runspace that a script makes itself starts without the prelude, so importing module ``Hyper-V``
    makes the drive as well (``New-PSDrive -Scope Global``), and does so once.

Every value that a script of a client can see is a Windows path (``C:\\…``). Paths in the state are
Windows paths too; the host alone turns them into files below ``HVSIM_DRIVE``.

``python -m hvdrivers.hyperv.simulator`` starts both halves and prints the endpoint, the user name
and the password; ``--help`` lists the options.
"""
