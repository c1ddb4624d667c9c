"""Mutants: drivers that are broken on purpose, each with the clause that must kill it.

A suite is worth what it catches. Each mutant is the fake driver with one thing wrong, and is run
against the checks of its clause first: if one of them does not pass, the mutant is *killed as
intended*. If they all pass, the whole suite is tried: whatever else kills it is reported, and the
clause's checks are too weak.
"""

from hvdrivers.conformance.mutants.registry import Mutant, mutant, mutants
from hvdrivers.conformance.mutants.running import MutantResult, MutantScore, run_mutants

__all__ = ["Mutant", "MutantResult", "MutantScore", "mutant", "mutants", "run_mutants"]
