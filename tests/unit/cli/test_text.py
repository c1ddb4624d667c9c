"""Nothing of a tenant's reaches a terminal but printable characters."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdrivers.cli.text import console_text, is_safe_word, json_text, shown

HOSTILE = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b2J",
    "a\rb",
    "a\x08b",
    "\u202egpj.exe",
    "\u2066hidden\u2069",
    "null\x00byte",
    "line\u2028line",
    "tag\U000e0041",
    "zero\ufeffwidth",
]


def is_harmless(text: str) -> bool:
    return all(
        unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}
        or char in "\n\t\u200c\u200d"
        for char in text
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_not_printable_is_written_out(text: str) -> None:
    assert shown(text).replace("\n", "").isprintable()
    assert "\n" not in shown(text)


@pytest.mark.parametrize("text", ["web1", "Bürogebäude", "日本", "नमस्ते", "🚀", "a b"])
def test_what_people_write_stays(text: str) -> None:
    assert shown(text) == text


@given(st.text())
def test_shown_is_harmless(text: str) -> None:
    assert is_harmless(shown(text))
    assert is_harmless(shown(text, lines=True))


@given(st.text())
def test_json_says_the_same(text: str) -> None:
    if any(unicodedata.category(char) == "Cs" for char in text):
        return
    encoded = json_text(json.dumps([text], ensure_ascii=False))
    assert json.loads(encoded) == [text]
    assert not any(
        unicodedata.category(char) == "Cc" or char in "\u202e\u2066\ufeff\U000e0041"
        for char in encoded
    )


@given(st.binary())
def test_console_text_is_harmless(data: bytes) -> None:
    assert is_harmless(console_text(data))


def test_console_text_drops_colours_and_keeps_lines() -> None:
    assert console_text(b"\x1b[1;32m[  OK  ]\x1b[0m Started\r\n\tssh\r\n") == (
        "[  OK  ] Started\n\tssh\n"
    )


def test_console_text_cannot_be_put_together_from_parts() -> None:
    assert "\x1b" not in console_text(b"\x1b\x1b[0m[31mred\x1b")


@pytest.mark.parametrize("word", ["web1", "a.b-c_d", "7e1f"])
def test_safe_words(word: str) -> None:
    assert is_safe_word(word)


@pytest.mark.parametrize("word", ["", "-rf", "$(id)", "`id`", "a b", "a;b", "*", "a\n", "ü", "'"])
def test_words_that_a_shell_would_read(word: str) -> None:
    assert not is_safe_word(word)
