"""Get-WinEvent over the numbered logs."""

import re

from hvdrivers.hyperv.simulator.cmdlets.call import Call, like
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import CmdletError
from hvdrivers.hyperv.simulator.state.eventlog import VMMS, WORKER, Record
from hvdrivers.hyperv.simulator.wire import Int64, Thing, Value

_TYPE = "System.Diagnostics.Eventing.Reader.EventLogRecord"
_LEVELS = {2: "Error", 3: "Warning", 4: "Information"}


def _error(code: str, category: str, why: str) -> CmdletError:
    return CmdletError(code, category, "injected", kind="System.Exception", why=why)


def _view(host_name: str, record: Record) -> Thing:
    values: list[Value] = [
        Thing(
            ("System.Diagnostics.Eventing.Reader.EventProperty", "System.Object"), {"Value": value}
        )
        for value in (record.name, record.vm)
    ]
    return Thing(
        (_TYPE, "System.Object"),
        {
            "Id": record.event,
            "RecordId": Int64(record.number),
            "LogName": record.log,
            "ProviderName": record.log.removesuffix("-Admin"),
            "TimeCreated": record.time,
            "Level": record.level,
            "LevelDisplayName": _LEVELS.get(record.level, ""),
            "Message": record.message,
            "Properties": values,
            "MachineName": host_name,
            "Bookmark": None,
        },
        _TYPE,
    )


@cmdlet("Get-WinEvent")
def get_events(call: Call) -> None:
    host = call.host
    known = (VMMS, WORKER)
    if call.has("ListLog"):
        for log in known:
            if any(like(log, pattern) for pattern in call.texts("ListLog")):
                records = host.log.records.get(log, [])
                call.write(
                    Thing(
                        (
                            "System.Diagnostics.Eventing.Reader.EventLogConfiguration",
                            "System.Object",
                        ),
                        {
                            "LogName": log,
                            "RecordCount": Int64(len(records)),
                            "OldestRecordNumber": Int64(records[0].number if records else 0),
                            "IsEnabled": True,
                        },
                    )
                )
        return
    tables = call.items("FilterHashtable")
    wanted = call.texts("LogName") or [
        str(name) for table in tables for name in _values(table, "LogName")
    ]
    logs = [log for log in known if any(like(log, pattern) for pattern in wanted)]
    if not logs:
        raise _error(
            "NoMatchingLogsFound",
            "ObjectNotFound",
            f"There is not an event log that matches '{', '.join(wanted)}'.",
        )
    found = [record for log in logs for record in host.log.records.get(log, [])]
    found = [r for r in found if _matches(call.text("FilterXPath"), r)]
    found = [r for r in found if all(_in_table(table, r) for table in tables)]
    found.sort(key=lambda record: (record.time, record.number), reverse=not call.flag("Oldest"))
    if call.has("MaxEvents"):
        found = found[: call.integer("MaxEvents")]
    if not found:
        raise _error(
            "NoMatchingEventsFound",
            "ObjectNotFound",
            "No events were found that match the specified selection criteria.",
        )
    for record in found:
        call.write(_view(host.name, record))


def _values(table: object, key: str) -> list[object]:
    match table:
        case {"table": dict(items)}:
            for name, value in items.items():
                if name.lower() == key.lower():
                    return value if isinstance(value, list) else [value]
    return []


def _in_table(table: object, record: Record) -> bool:
    ids = [int(str(value)) for value in _values(table, "Id")]
    if ids and record.event not in ids:
        return False
    from datetime import datetime

    for value in _values(table, "StartTime"):
        match value:
            case {"utc": str(text)}:
                if record.time < datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)):
                    return False
    return True


_COMPARE = re.compile(r"(EventRecordID|EventID|Level)\s*(>=|<=|!=|=|>|<)\s*(\d+)")


def _matches(query: str, record: Record) -> bool:
    """The comparisons of a query on System's numbers, joined by ``and`` or ``or``."""
    if not query or query.strip() == "*":
        return True
    fields = {"EventRecordID": record.number, "EventID": record.event, "Level": record.level}

    def holds(match: re.Match[str]) -> bool:
        left, right = fields[match[1]], int(match[3])
        return {
            ">": left > right,
            "<": left < right,
            ">=": left >= right,
            "<=": left <= right,
            "=": left == right,
            "!=": left != right,
        }[match[2]]

    comparisons = list(_COMPARE.finditer(query))
    rest = _COMPARE.sub("", query)
    if not comparisons or re.search(r"TimeCreated|EventData|Provider", rest):
        raise _error("InvalidQuery", "InvalidArgument", "The specified query is invalid.")
    results = [holds(match) for match in comparisons]
    words = re.findall(r"\b(and|or)\b", rest)
    if "or" in words and "and" in words:
        # Grouped: (a or b) and c, as XPath would read the parentheses.
        groups = [part for part in query.split(" and ") if part]
        return all(
            any(holds(m) for m in _COMPARE.finditer(g)) for g in groups if _COMPARE.search(g)
        )
    return any(results) if "or" in words else all(results)
