"""Rules that make a simulated cmdlet fail, take time, or finish after its caller has given up."""

from dataclasses import dataclass, field

from hvdrivers.hyperv.simulator.errors import E_FAIL, CmdletError


@dataclass
class Rule:
    """What happens at calls of one cmdlet.

    ``calls`` are the calls that it meets, counted from 1 since the rule was made; None is all.
    ``before`` and ``after`` are seconds that pass before and after the work; ``error`` is reported
    instead of the work, or after it where ``late``. ``cut`` closes the link instead of answering.
    """

    cmdlet: str
    calls: frozenset[int] | None = None
    before: float = 0.0
    after: float = 0.0
    error: CmdletError | None = None
    late: bool = False
    cut: bool = False
    seen: int = 0
    over: bool = False
    """Set it, and notify the world, to end a pause before its seconds have passed."""

    def meets(self, cmdlet: str) -> bool:
        """Count a call, and say whether the rule meets it."""
        if cmdlet != self.cmdlet:
            return False
        self.seen += 1
        return self.calls is None or self.seen in self.calls


@dataclass
class FaultRules:
    """The rules of one host, and how often each cmdlet was called."""

    rules: list[Rule] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def fail(
        self,
        cmdlet: str,
        code: str = "OperationFailed",
        *,
        category: str = "NotSpecified",
        hresult: int = E_FAIL,
        calls: int | tuple[int, ...] | None = None,
        late: bool = False,
        why: str = "A fault rule says so.",
    ) -> Rule:
        """Make the cmdlet report an error; with ``late`` after it has done its work."""
        error = CmdletError(code, category, "injected", hresult=hresult, why=why)
        return self.add(Rule(cmdlet, _calls(calls), error=error, late=late))

    def slow(
        self,
        cmdlet: str,
        *,
        before: float = 0.0,
        after: float = 0.0,
        calls: int | tuple[int, ...] | None = None,
    ) -> Rule:
        """Make the cmdlet take time before its work, or keep its answer back after it."""
        return self.add(Rule(cmdlet, _calls(calls), before=before, after=after))

    def cut(self, cmdlet: str, *, calls: int | tuple[int, ...] | None = None) -> Rule:
        """Do the work, then close the link to PowerShell without an answer."""
        return self.add(Rule(cmdlet, _calls(calls), cut=True))

    def add(self, rule: Rule) -> Rule:
        """Add a rule of your own."""
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Remove every rule."""
        self.rules.clear()

    def meet(self, cmdlet: str) -> list[Rule]:
        """Count a call of a cmdlet, and answer the rules that meet it."""
        self.counts[cmdlet] = self.counts.get(cmdlet, 0) + 1
        return [rule for rule in self.rules if rule.meets(cmdlet)]


def _calls(calls: int | tuple[int, ...] | None) -> frozenset[int] | None:
    if calls is None:
        return None
    return frozenset({calls} if isinstance(calls, int) else calls)
