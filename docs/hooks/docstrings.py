"""Make the docstrings of the code fit for Markdown, and put each operation's rules below it.

The docstrings are written for people who read the code: with ``double backticks``, ``::`` before
examples, and now and then a role like :func:`connect`. mkdocstrings reads Markdown.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.contract.operation import Operation, Repeat, Scope

_MODULE = re.compile(r":mod:`([^`]+)`")
_ROLE = re.compile(r":(?:func|class|data|meth|attr|exc|const):`~?([^`]+)`")
_BARE_RAISES = re.compile(r"(\s+(?:[A-Z]\w+, )*[A-Z]\w+)\.")
_MANY_RAISES = re.compile(r"(\s+)((?:[A-Z]\w+, )+[A-Z]\w+): (.*)")
_RULER = re.compile(r"=+(?:\s+=+)+")
_REPEAT = {
    Repeat.CONVERGES: "repeating it converges",
    Repeat.REFUSED: "repeating it is refused",
    Repeat.AGAIN: "repeating it does it again",
}


def markdown(text: str) -> str:
    """A docstring as Markdown."""
    lines: list[str] = []
    in_table = False
    text = _MODULE.sub(r"`\1`", text)
    for line in _ROLE.sub(lambda match: f"`{match[1].rpartition('.')[2]}`", text).splitlines():
        if _RULER.fullmatch(line.strip()):
            # a reStructuredText table stays as it is, in a box: its ruler comes three times
            if not in_table:
                lines += ["```text", line]
                in_table, rulers = True, 1
            else:
                rulers += 1
                lines.append(line)
                if rulers == 3:
                    lines.append("```")
                    in_table = False
        elif line.strip() == "::":
            continue
        elif line.endswith("::"):
            lines.append(line[:-1])
        elif bare := _BARE_RAISES.fullmatch(line):
            lines.append(
                f"{bare[1].replace(', ', ' | ')}: see there."
            )  # "Raises:" wants a description of each
        elif many := _MANY_RAISES.fullmatch(line):
            lines.append(f"{many[1]}{many[2].replace(', ', ' | ')}: {many[3]}")
        else:
            lines.append(line)
    return "\n".join(lines)


def rules_of(rules: Operation) -> str:
    """The rules of an operation in one line."""
    parts = [
        f"Capability `{rules.capability.value}`" if rules.capability else "Core",
        "changes the host" if rules.changes else "reads",
        f"{rules.timeout:g} s by default",
    ]
    if rules.changes:
        parts.append(_REPEAT[rules.repeat])
    if rules.scope is Scope.INSTANCE:
        if rules.states is None:
            raise ValueError(rules.name)
        legal = [state for state in rules.states if rules.states[state].legal]
        parts.append(
            "in any state"
            if len(legal) == len(rules.states)
            else "in " + ", ".join(state.value for state in legal)
        )
        parts += [
            f"with the capability `{capability.value}` also in "
            + ", ".join(state.value for state in more if more[state].legal and state not in legal)
            for capability, more in rules.with_capability.items()
        ]
    return f'<p class="hv-rules">{"; ".join(parts)}.</p>'.replace("`", "")


class Docstrings(griffe.Extension):
    """The griffe extension that mkdocs.yml names."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        del kwargs
        if obj.docstring is None:
            return
        obj.docstring.value = markdown(obj.docstring.value)
        rules = OPERATIONS.get(obj.name)
        if rules and obj.is_function and obj.path.startswith(f"hvdrivers.contract.{rules.topic}."):
            summary, _, rest = obj.docstring.value.partition("\n\n")
            obj.docstring.value = f"{summary}\n\n{rules_of(rules)}\n\n{rest}"
