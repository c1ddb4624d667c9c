"""A clause of the whole contract: any sequence of operations leaves what a model says it must.

Hypothesis makes sequences of lifecycle, power, storage and network operations, legal or not; an
in-memory model foretells the outcome of each, and after each the host is compared with it. A
failure is made as short as possible and printed as a script.

Needs ``hypothesis``, of the extra ``conformance``.
"""

from __future__ import annotations

import random
import tempfile
from typing import Any

from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Failed, Trial
from hvdrivers.contract import errors
from hvdrivers.installing import install_hint

MODEL_001 = clause(
    "MODEL-001",
    "after any sequence of lifecycle, power, storage and network operations every instance is what"
    " the contract makes of that sequence, and nothing else is on the host",
)
_EXAMPLES, _STEPS = 30, 40
_REAL_EXAMPLES, _REAL_STEPS = 2, 10


@check(MODEL_001)
def sequences_end_as_foretold(trial: Trial) -> None:
    try:
        import hypothesis
        from hypothesis import configuration, stateful
    except ImportError as error:
        raise PreconditionMissing(
            f"hypothesis is not installed: {install_hint('conformance')}"
        ) from error
    from hvdrivers.conformance.engine.model_machine import machine_for

    thorough = trial.target.thorough
    phases = [hypothesis.Phase.generate]
    if thorough:
        phases.append(hypothesis.Phase.shrink)
    settings = hypothesis.settings(
        max_examples=_EXAMPLES if thorough else _REAL_EXAMPLES,
        stateful_step_count=_STEPS if thorough else _REAL_STEPS,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
    )
    scripts: list[str] = []
    seed = random.randrange(2**32)  # noqa: S311 - the engine has seeded it, so that it comes again
    machine: Any = hypothesis.seed(seed)(machine_for(trial, scripts))
    with tempfile.TemporaryDirectory(prefix="hvct-") as folder:
        # it would make a folder in whatever folder the suite is run in
        configuration.set_hypothesis_home_dir(folder)
        try:
            stateful.run_state_machine_as_test(machine, settings=settings)
        except (Failed, errors.HypervisorError, hypothesis.errors.Flaky) as error:
            if not scripts:
                raise
            # what the driver remembers from one sequence to the next may make them differ
            flaky = isinstance(error, hypothesis.errors.Flaky)
            words = "a sequence does not fail each time that it is tried" if flaky else str(error)
            raise Failed(f"{words}\n\n{scripts[-1]}") from error
        finally:
            configuration.set_hypothesis_home_dir(None)
