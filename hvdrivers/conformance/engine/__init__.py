"""The suite's engine: clauses, targets, trials, the runner, reports, and what the checks share."""
