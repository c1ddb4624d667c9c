"""JUnit XML, for CI systems: a suite per profile, a case per check.

What JUnit has no word for becomes the word that cannot be mistaken for success: a precondition
that is missing is a failure of this type; a known issue is a skip that names its bug. A check that
was refused as declared, or declined as a MAY allows, passes, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from hvdrivers.conformance.engine.clauses import Level, catalogue
from hvdrivers.conformance.engine.report import CheckResult, Report, Status
from hvdrivers.conformance.engine.summary import sentence, tier_of

_NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: Report) -> str:
    """The document."""
    groups: dict[str, list[CheckResult]] = {}
    for result in report.results:
        groups.setdefault(result.profile, []).append(result)
    root = ET.Element("testsuites", name=f"hvdrivers conformance {report.driver}")
    _count(root, report.results)
    for number, (profile, results) in enumerate(groups.items()):
        suite = ET.SubElement(root, "testsuite", name=f"{report.driver}.{profile}")
        _count(suite, results)
        suite.set("skipped", str(sum(_word(each) == "skipped" for each in results)))
        suite.set("id", str(number))
        suite.set("timestamp", report.started_at.strftime("%Y-%m-%dT%H:%M:%S"))
        suite.set("hostname", (report.host.hostname if report.host else None) or "none")
        properties = ET.SubElement(suite, "properties")
        for name, value in _properties(report).items():
            ET.SubElement(properties, "property", name=name, value=_text(value))
        for result in results:
            _case(suite, report, result)
    if report.leftovers:
        _leftovers(root, report)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _properties(report: Report) -> dict[str, str]:
    return {
        "driver": f"{report.driver} {report.driver_version}",
        "contract": report.contract_version,
        "suite": report.suite_hash,
        "tier": tier_of(report),
        "seed": str(report.seed),
        "verdict": report.verdict.value,
        "standing": sentence(report),
    }


def _count(element: ET.Element, results: Iterable[CheckResult]) -> None:
    words = [(_word(each), each.seconds) for each in results]
    element.set("tests", str(len(words)))
    element.set("failures", str(sum(word == "failure" for word, _ in words)))
    element.set("errors", str(sum(word == "error" for word, _ in words)))
    element.set("time", f"{sum(seconds for _, seconds in words):.3f}")


def _word(result: CheckResult) -> str:
    match result.status:
        case Status.KNOWN_ISSUE | Status.NOT_SHOWN:
            return "skipped"
        case Status.FAILED | Status.ERROR | Status.PRECONDITION_MISSING if (
            result.level is not Level.MUST
        ):
            return "skipped"  # a warning: it does not fail the profile
        case Status.FAILED | Status.PRECONDITION_MISSING:
            return "failure"
        case Status.ERROR:
            return "error"
        case _:
            return ""


def _case(suite: ET.Element, report: Report, result: CheckResult) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        name=_text(result.check),
        classname=f"{report.driver}.{result.profile}.{result.clause}",
        time=f"{result.seconds:.3f}",
    )
    word = _word(result)
    if word == "skipped":
        ET.SubElement(case, word, message=_text(f"{result.status}: {result.message}"))
    elif word:
        rule = catalogue().clauses.get(result.clause)
        made = ET.SubElement(
            case, word, message=_text(result.message), type=_text(result.status.value)
        )
        made.text = _text(f"{result.clause}: {rule.rule if rule else ''}\n\n{result.detail}")
    elif result.status in {Status.REFUSED, Status.DECLINED}:
        ET.SubElement(case, "system-out").text = _text(f"{result.status}: {result.message}")


def _leftovers(root: ET.Element, report: Report) -> None:
    suite = ET.SubElement(root, "testsuite", name=f"{report.driver}.leftovers", tests="1")
    suite.attrib.update(failures="1", errors="0", skipped="0", time="0.000")
    case = ET.SubElement(
        suite, "testcase", name="leaves nothing behind", classname=report.driver, time="0.000"
    )
    ET.SubElement(case, "failure", message="leftovers", type="leftovers").text = _text(
        "\n".join(report.leftovers)
    )
    for name in ("tests", "failures"):
        root.set(name, str(int(root.get(name, "0")) + 1))


def _text(text: str) -> str:
    # a driver's message may hold what a tenant or a guest wrote: XML 1.0 cannot carry all of it
    return _NOT_XML.sub("\ufffd", text)
