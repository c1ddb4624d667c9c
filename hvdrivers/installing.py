"""How a hint says to install a part of this library.

The library is not on PyPI yet, so the words name a clone. When it is published, only this file and
the pages of the documentation change.
"""

from __future__ import annotations


def install_hint(extra: str) -> str:
    """The hint of an error whose cause is that ``hvdrivers[extra]`` is not installed.

    Args:
        extra: a name in ``[project.optional-dependencies]`` of pyproject.toml, such as ``cli``.
            Several are separated by commas.
    """
    return f"in a clone of hvdrivers (it is not on PyPI yet): pip install '.[{extra}]'"
