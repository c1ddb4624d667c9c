"""Residue of which names are alike."""

from hvdrivers.conformance.engine.residue import numbered


def test_one_more_takes_none_away() -> None:
    one, two = set(numbered(["a", "b"])), set(numbered(["a", "b", "a"]))
    assert one < two
    assert two - one == {"a, number 2"}
