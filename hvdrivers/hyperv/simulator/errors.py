"""Errors of simulated cmdlets: FullyQualifiedErrorId up to its comma, category, HResult.

Messages exist in English and in German, since Windows localises them; a client must decide by code.
"""

from collections.abc import Mapping

VIRTUALIZATION_EXCEPTION = "Microsoft.HyperV.PowerShell.VirtualizationException"
CIM_EXCEPTION = "Microsoft.Management.Infrastructure.CimException"

E_ACCESS_DENIED = 0x80070005
E_OUT_OF_MEMORY = 0x8007000E
E_SHARING_VIOLATION = 0x80070020
E_FILE_EXISTS = 0x80070050
E_DISK_FULL = 0x80070070
E_DIR_NOT_EMPTY = 0x80070091
E_INVALID_NAME = 0x8007007B
E_FILE_NOT_FOUND = 0x80070002
E_PATH_NOT_FOUND = 0x80070003
E_INVALID_PARAMETER = 0x80070057
E_INVALID_STATE = 0x80048052
E_NOT_SUPPORTED = 0x80070032
E_CANCELLED = 0x800704C7
E_TIMEOUT = 0x800705B4
E_CORRUPT = 0xC03A0002
E_FAIL = 0x80004005
COR_E_EXCEPTION = 0x80131500


class CmdletError(Exception):
    """What a cmdlet reports. ``key`` names a text of :data:`MESSAGES`, filled with ``values``."""

    def __init__(
        self,
        code: str,
        category: str,
        key: str,
        *,
        hresult: int = COR_E_EXCEPTION,
        target: str | None = None,
        kind: str = VIRTUALIZATION_EXCEPTION,
        terminating: bool = False,
        **values: object,
    ) -> None:
        super().__init__(code, key, values)
        self.code = code
        self.category = category
        self.key = key
        self.hresult = hresult
        self.target = target
        self.kind = kind
        self.terminating = terminating
        self.values: Mapping[str, object] = values

    def message(self, language: str) -> str:
        """The message in a language of :data:`MESSAGES`, with the HResult as Hyper-V prints it."""
        texts = MESSAGES[self.key]
        text = texts.get(language, texts["en"]).format(**self.values)
        return text if self.hresult == COR_E_EXCEPTION else f"{text} (0x{self.hresult:08X})"


MESSAGES: Mapping[str, Mapping[str, str]] = {
    "vm-not-found": {
        "en": 'Hyper-V was unable to find a virtual machine with name "{name}".',
        "de": 'Hyper-V konnte keinen virtuellen Computer mit dem Namen "{name}" finden.',
    },
    "vm-id-not-found": {
        "en": 'Hyper-V was unable to find a virtual machine with id "{name}".',
        "de": 'Hyper-V konnte keinen virtuellen Computer mit der ID "{name}" finden.',
    },
    "object-not-found": {
        "en": 'The Hyper-V management service could not find "{name}".',
        "de": 'Der Hyper-V-Verwaltungsdienst konnte "{name}" nicht finden.',
    },
    "invalid-state": {
        "en": "The operation cannot be performed while the object is in its current state.",
        "de": "Der Vorgang kann im aktuellen Status des Objekts nicht ausgeführt werden.",
    },
    "out-of-memory": {
        "en": "Not enough memory in the system to start the virtual machine {name}.",
        "de": "Nicht genügend Arbeitsspeicher, um den virtuellen Computer {name} zu starten.",
    },
    "start-failed": {
        "en": "'{name}' failed to start. {why}",
        "de": "'{name}' konnte nicht gestartet werden. {why}",
    },
    "shutdown-failed": {
        "en": "Failed to shut down '{name}'. The guest did not answer the shutdown request.",
        "de": "Fehler beim Herunterfahren von '{name}'. Der Gast hat nicht geantwortet.",
    },
    "file-exists": {
        "en": "The system failed to create '{path}': The file exists.",
        "de": "Das System konnte '{path}' nicht erstellen: Die Datei ist vorhanden.",
    },
    "file-not-found": {
        "en": "The system cannot find the file '{path}'.",
        "de": "Das System kann die Datei '{path}' nicht finden.",
    },
    "path-not-found": {
        "en": "The system cannot find the path '{path}'.",
        "de": "Das System kann den Pfad '{path}' nicht finden.",
    },
    "dir-not-empty": {
        "en": "Cannot remove item {path}: The directory is not empty.",
        "de": "Das Element {path} kann nicht entfernt werden: Das Verzeichnis ist nicht leer.",
    },
    "file-in-use": {
        "en": "The process cannot access '{path}' because it is being used by another process.",
        "de": "Der Prozess kann nicht auf '{path}' zugreifen: Die Datei wird verwendet.",
    },
    "disk-full": {
        "en": "The system failed to write '{path}': There is not enough space on the disk.",
        "de": "Das System konnte '{path}' nicht schreiben: Es ist zu wenig Speicherplatz frei.",
    },
    "invalid-name": {
        "en": "The filename, directory name, or volume label syntax of '{path}' is incorrect.",
        "de": "Die Syntax für den Dateinamen '{path}' ist falsch.",
    },
    "vhd-corrupt": {
        "en": "The virtual hard disk '{path}' is corrupted or is not a virtual hard disk.",
        "de": "Die virtuelle Festplatte '{path}' ist beschädigt.",
    },
    "vhd-chain": {
        "en": "There exists ID mismatch between the disk '{path}' and its parent disk.",
        "de": "Die IDs von '{path}' und der übergeordneten Festplatte stimmen nicht überein.",
    },
    "failed": {
        "en": "The operation failed. {why}",
        "de": "Der Vorgang ist fehlgeschlagen. {why}",
    },
    "invalid-parameter": {
        "en": "The parameter '{name}' is not valid. {why}",
        "de": "Der Parameter '{name}' ist ungültig. {why}",
    },
    "access-denied": {
        "en": "You do not have the required permission to complete this task. {why}",
        "de": "Sie haben nicht die erforderliche Berechtigung. {why}",
    },
    "not-simulated": {
        "en": "The simulated host does not play {name}.",
        "de": "Der simulierte Host kennt {name} nicht.",
    },
    "timeout": {
        "en": "The operation timed out. {why}",
        "de": "Zeitüberschreitung des Vorgangs. {why}",
    },
    "injected": {"en": "{why}", "de": "{why}"},
}


def not_found(name: str, *, by_id: bool = False, cmdlet: str = "") -> CmdletError:
    """No such machine. ``Get-VM -Name`` says InvalidParameter, the others ObjectNotFound."""
    key = "vm-id-not-found" if by_id else "vm-not-found"
    if cmdlet == "Get-VM" and not by_id:
        return CmdletError("InvalidParameter", "InvalidArgument", key, target=name, name=name)
    return CmdletError("ObjectNotFound", "ObjectNotFound", key, target=name, name=name)


def missing(name: object) -> CmdletError:
    """No such switch, adapter, drive, checkpoint or the like."""
    return CmdletError(
        "ObjectNotFound", "ObjectNotFound", "object-not-found", target=str(name), name=name
    )


def invalid_state(target: str) -> CmdletError:
    """The object's state does not allow the operation."""
    return CmdletError(
        "InvalidState", "InvalidOperation", "invalid-state", hresult=E_INVALID_STATE, target=target
    )


def invalid_parameter(name: str, why: str = "") -> CmdletError:
    """A value that the binder takes and Hyper-V refuses."""
    return CmdletError(
        "InvalidParameter", "InvalidArgument", "invalid-parameter", name=name, why=why
    )


def failed(why: str, *, hresult: int = E_FAIL, target: str | None = None) -> CmdletError:
    """Hyper-V's generic failure."""
    return CmdletError(
        "OperationFailed", "NotSpecified", "failed", hresult=hresult, target=target, why=why
    )


def file_error(key: str, path: str) -> CmdletError:
    """A failure on a file, with the HResult of its Windows error."""
    hresult = {
        "file-exists": E_FILE_EXISTS,
        "file-not-found": E_FILE_NOT_FOUND,
        "path-not-found": E_PATH_NOT_FOUND,
        "file-in-use": E_SHARING_VIOLATION,
        "disk-full": E_DISK_FULL,
        "invalid-name": E_INVALID_NAME,
        "vhd-corrupt": E_CORRUPT,
        "vhd-chain": 0xC03A000E,
    }[key]
    category = "ObjectNotFound" if key.endswith("not-found") else "NotSpecified"
    code = "ObjectNotFound" if key.endswith("not-found") else "OperationFailed"
    return CmdletError(code, category, key, hresult=hresult, target=path, path=path)
