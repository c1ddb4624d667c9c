"""Clauses about hostile input: text from tenants goes through unchanged, runs nowhere, and secrets
come out nowhere."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote
from uuid import uuid4

from pydantic import SecretBytes, SecretStr

from hvdrivers.conformance.engine.assertions import all_that_can_be_had
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.trial import METADATA_KEY, Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import HostImage

HOSTILE_001 = clause(
    "HOSTILE-001",
    "any valid name comes back unchanged, whatever it would mean to a shell, a"
    " parser, a file system or a pattern",
    operation="rename",
)
HOSTILE_002 = clause(
    "HOSTILE-002", "an instance can be spawned under any valid name", operation="spawn"
)
HOSTILE_003 = clause(
    "HOSTILE-003",
    "a name that is not valid raises InvalidRequest and changes nothing",
    operation="rename",
)
HOSTILE_004 = clause(
    "HOSTILE-004",
    "metadata of any text come back unchanged, to the last line break",
    operation="set_metadata",
)
HOSTILE_005 = clause(
    "HOSTILE-005",
    "metadata up to the contract's limits are kept whole, and beyond them raise InvalidRequest",
    operation="set_metadata",
)
HOSTILE_006 = clause(
    "HOSTILE-006",
    "keys of metadata that differ only in case or punctuation are different keys",
    operation="set_metadata",
)
HOSTILE_007 = clause(
    "HOSTILE-007",
    "the name of an image is a name: a path or a pattern in it finds nothing",
    operation="spawn",
    needs=[Capability.IMAGE_HOST],
)
HOSTILE_008 = clause(
    "HOSTILE-008",
    "secrets of a spec are in no reply, no error, no log line and on no list",
    operation="spawn",
    needs=[Capability.CONFIG_DRIVE, Capability.USER_DATA],
)
HOSTILE_009 = clause(
    "HOSTILE-009",
    "operations find instances by UUID: names that look like another instance's"
    " name, UUID or pattern lead nowhere else",
    operation="destroy",
)

_META = (
    """<x a="1">&amp;]]></x>""",
    "&lt;not an entity; &#65;",
    """it's "quoted" `twice`""",
    "$(touch hvct); `id` | & > <",
    "$env:PATH; Remove-Item -Recurse",
    "%COMSPEC% ^& %1 !x!",
    "*?[a-z]{1,2}",
    "..\\..\\..\\C:",
    "../../../etc/passwd",
    "{0} {name} %s %(x)s %n",
    "a;b,c:d=e#f@g~h",
    "äöü ß é e\u0301",
    "日本語 名前 한국어",
    "\U0001f427\U0001f4a5 four bytes",
    "עברית עם אנגלית x",
    "العربية \u202ertl\u202c",
    "zero\u200bwidth\u00a0and\u00ad soft",
    "con",
    "nul",
    "-",
    "null",
    "None",
    "0",
    "1e3",
    "true",
)
_RAW = (
    "-rf",
    ".",
    "..",
    "/",
    "\\",
    "*",
    "?",
    "%",
    "'",
    '"',
    "$x",
    "#",
    "a",
    "~",
    "0",
    "null",
    "CON",
)
_LONGEST = ("x" * 63, "ä" * 63, "\U0001f427" * 32, "日" * 42, "%/\\" * 21, "a b" * 21)
_BAD = (
    "",
    " ",
    "a ",
    " a",
    "a\n",
    "a\nb",
    "a\tb",
    "a\rb",
    "a\0b",
    "\x1b[31m",
    "a\x7f",
    "a\u0085b",
    "a\u2028b",
    "a\u2029b",
    "a\uffff",
    "\ufffeb",
    "a\U0001ffffb",
    "x" * 64,
    "ä" * 65,
    "日" * 43,
)

_TEXTS = (
    *_META,
    "\n",
    "a\nb\n",
    "\r\n",
    "a\rb",
    "\t",
    " ",
    "  two  ",
    "a\n\n",
    "\n\na",
    "trailing\\",
    "\\n",
    "\0",
    "".join(map(chr, range(1, 32))),
    "\x7f\x80\x85\x9f",
    "\u2028\u2029",
    "\ufeffbom",
    "\ufffe\uffff",
    "\U0010ffff",
    "<![CDATA[x]]>",
    "<!-- -->",
    "<?xml version='1.0'?>",
    "<!DOCTYPE a [<!ENTITY b 'c'>]>",
    '{"json": ["\\u0000"]}',
    "'@\n'@",
    "# hvdrivers: {}",
    "a=b\nc=d",
    "key: value\n- list",
    "",
)


@check(
    HOSTILE_001,
    cases=[
        Case("marked", (_META, True)),
        Case("bare", (_RAW, False)),
        Case("long", (_LONGEST, False)),
    ],
)
def name_comes_back(trial: Trial, names: tuple[str, ...], marked: bool) -> None:
    info, beside = trial.spawn(start=False), trial.spawn(start=False)
    other = trial.other
    for each in names:
        # with the suite's own mark before it, where that does not take the point away
        name = f"{trial.journal.prefix}{each}" if marked else each
        trial.driver.rename(info.uuid, name)
        trial.equal(trial.driver.get_instance(info.uuid).name, name, "name by this connection")
        trial.equal(other.get_instance(info.uuid).name, name, "name by another connection")
        listed = {line.uuid: line.name for line in other.list_instances()}
        trial.equal(listed.get(info.uuid), name, "name in the list")
        trial.equal(listed.get(beside.uuid), beside.name, "name of the instance beside it")
    trial.driver.rename(info.uuid, info.name)
    trial.equal(other.get_instance(info.uuid), info, "the instance under its first name again")


@check(
    HOSTILE_002,
    cases=[
        Case("markup", (_META[0],)),
        Case("shell", (_META[3],)),
        Case("path", (_META[8],)),
        Case("long", ("\U0001f427" * 28,)),
        Case("rtl", (_META[15],)),
    ],
)
def spawns_under_that_name(trial: Trial, text: str) -> None:
    before = trial.picture()
    spec = trial.spec(name=f"{trial.journal.prefix}{text}", start=text is _META[0])
    info = trial.spawn(spec)
    trial.equal(info.name, spec.name, "name that spawn() returned")
    trial.equal(trial.other.get_instance(info.uuid).name, spec.name, "name that is shown")
    trial.driver.destroy(info.uuid)
    trial.equal(trial.picture(), before, "the host after spawn() and destroy()")


@check(HOSTILE_003)
def bad_name_is_refused(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    with trial.unchanged():
        for name in _BAD:
            with trial.raises(errors.InvalidRequest):
                trial.driver.rename(uuid, name)


def _sets() -> Iterator[dict[str, str]]:
    yield {f"hvct.{number}": text for number, text in enumerate(_TEXTS)}
    for text in _TEXTS[-6:]:
        yield {"hvct.alone": text}


@check(HOSTILE_004, cases=[Case("set", ("set",)), Case("spawned", ("spawn",))])
def text_comes_back(trial: Trial, way: str) -> None:
    for metadata in _sets():
        if way == "spawn":
            marked = {METADATA_KEY: trial.journal.run, **metadata}
            info = trial.spawn(start=False, metadata=metadata)
            trial.equal(dict(info.metadata), marked, "metadata that spawn() returned")
            uuid, wanted = info.uuid, marked
        else:
            uuid, wanted = trial.spawn(start=False).uuid, metadata
            trial.driver.set_metadata(uuid, metadata)
        for driver in (trial.driver, trial.other):
            trial.equal(dict(driver.get_instance(uuid).metadata), wanted, "metadata")
        if way == "spawn":
            return  # the ways differ, the texts do not


@check(HOSTILE_005)
def limits_are_reached(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    other = trial.other
    long_key = "k" * 255
    kept: list[dict[str, str]] = [
        {f"hvct.{number}": "v" for number in range(128)},
        {long_key: "x" * 4096},
        {"a": "x" * 4096, "b": "<" * 4096, "c": "\n" * 4096, "d": "&" * 4092},
        {"a": "\U0001f427" * 4095},
        {"a": "\0" * 4096, "b": "\uffff" * 4094},
    ]
    refused: list[dict[str, str]] = [
        {f"hvct.{number}": "v" for number in range(129)},
        {"k" * 256: ""},
        {"a": "x" * 4097},
        {"a": "\U0001f427" * 4096},
        {"a b": ""},
        {"": ""},
        {"<a>": ""},
        {"a\n": ""},
        {"ä": ""},
    ]
    for limit in kept:
        trial.driver.set_metadata(uuid, limit)
        trial.equal(dict(other.get_instance(uuid).metadata), limit, "metadata at the limit")
    with trial.unchanged():
        for beyond in refused:
            with trial.raises(errors.InvalidRequest):
                trial.driver.set_metadata(uuid, beyond)


@check(HOSTILE_006)
def keys_are_told_apart(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    keys = ("hvct.a", "hvct.A", "HVCT.A", "hvct-a", "hvct_a", "hvct/a", "hvct:a", "hvcta", "a", "A")
    odd = (".", "-", "_", "/", ":", "0", "00", "xml:lang", "xmlns", "name", "uuid", "__class__")
    metadata = {key: f"value of {key}" for key in (*keys, *odd)}
    trial.driver.set_metadata(uuid, metadata)
    trial.equal(dict(trial.other.get_instance(uuid).metadata), metadata, "metadata")


@check(HOSTILE_007)
def image_name_is_no_path(trial: Trial) -> None:
    changes = all_that_can_be_had(trial)
    for name in ("../../../../etc/passwd", "/etc/passwd", "*", "?", "%", "<x/>", "'; id; '", ".."):
        refused = (errors.VolumeNotFound, errors.InvalidRequest)
        with trial.unchanged(), trial.raises(*refused):
            trial.spawn(image=HostImage(name=name), **changes)


class _Memory(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        formatter = logging.Formatter("%(name)s %(message)s %(exc_text)s %(stack_info)s")
        self.lines.append(f"{formatter.format(record)} {vars(record)!r}")


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Everything that is logged meanwhile, by whomever."""
    memory = _Memory()
    # the engine keeps this one from its parents
    names = ("", "hvdrivers.operations")
    before = [(each, each.level) for each in map(logging.getLogger, names)]
    for logger, _ in before:
        logger.addHandler(memory)
        logger.setLevel(1)
    try:
        yield memory.lines
    finally:
        for logger, level in before:
            logger.removeHandler(memory)
            logger.setLevel(level)


def _spellings(secret: str) -> set[str]:
    """A secret as it is, and as usual encodings write it."""
    raw, wide = secret.encode(), secret.encode("utf-16-le")
    # base64 of something longer holds it in one of three alignments
    shifted = {
        base64.b64encode(b"\0" * shift + text)[4 * bool(shift) : -4].decode()
        for text in (raw, wide)
        for shift in range(3)
    }
    return {secret, secret[::-1], raw.hex(), wide.hex(), quote(secret, safe=""), *shifted}


@check(HOSTILE_008, cases=[Case("success", (False,)), Case("failure", (True,))])
def secrets_stay_secret(trial: Trial, fails: bool) -> None:
    data, password = f"hvct-{uuid4().hex}", f"hvct/{uuid4().hex}&"
    changes = all_that_can_be_had(trial)
    changes["cloud_init"] = CloudInit(
        user_data=SecretBytes(f"#!/bin/sh\necho {data}\n".encode()),
        admin_password=SecretStr(password),
    )
    if fails:
        changes["vifs"] = (trial.target.vif_to_nowhere("hvct-nowhere"),)
    shown: list[str] = []
    with _listening() as lines:
        spec = trial.spec(**changes)
        with suppress(errors.NetworkNotFound):
            try:
                shown.append(repr(trial.spawn(spec)))
            except errors.HypervisorError as error:
                shown += [repr(error), str(error), repr(vars(error)), repr(error.__cause__)]
                raise
            finally:
                shown += [repr(spec), repr(list(trial.driver.list_instances()))]
        if not fails:
            uuid = spec.uuid
            shown += [repr(trial.driver.get_instance(uuid)), repr(trial.driver), repr(trial.target)]
            with suppress(errors.InstanceExists):
                trial.driver.spawn(spec)
            trial.driver.power_off(uuid)
            trial.driver.power_on(uuid)
            trial.driver.destroy(uuid)
    shown += lines
    for secret in (data, password):
        for spelling in _spellings(secret):
            found = next((each for each in shown if spelling in each), None)
            trial.check(found is None, f"a secret was shown: {(found or '')[:60]!r}...")


@check(HOSTILE_009)
def names_lead_nowhere(trial: Trial) -> None:
    first = trial.spawn(start=False)
    names = (first.name, str(first.uuid), first.uuid.hex, "*", f"{first.name}*", "%")
    second = trial.spawn(start=False)
    for name in names:
        trial.driver.rename(second.uuid, name)
        trial.equal(trial.driver.get_instance(second.uuid).uuid, second.uuid, "who has the name")
        trial.driver.set_metadata(second.uuid, {"hvct.a": name})
        trial.equal(trial.driver.get_instance(first.uuid), first, f"the other, beside a {name!r}")
    trial.driver.power_on(second.uuid)
    trial.driver.power_off(second.uuid)
    trial.driver.destroy(second.uuid)
    trial.equal(trial.other.get_instance(first.uuid), first, "the other, at the end")
