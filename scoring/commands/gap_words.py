"""Says in one line why a result is slower than another one."""

from __future__ import annotations

from scoring.commands.side_figures import Side, visible
from scoring.drawing.tables import number
from scoring.rules.gap import Gap, explain_gap

CAUSES = {
    "convergence": "convergence, beyond chance",
    "convergence luck": "convergence luck: the difference is within the spread",
    "convergence, undecided": "convergence; too few runs to tell luck from a difference",
    "speed": "speed",
    "evaluation": "evaluation",
    "start": "the start of the run",
    "training": "training; the logs lack the progress to tell convergence from speed",
}


def gap_sentence(a: Side, b: Side) -> str | None:
    """Return by how much B is slower than A, through what, and whether it is luck; None: equal."""
    assert a.parts is not None
    assert b.parts is not None
    gap = explain_gap(a.parts, b.parts)
    if gap.cause == "none":
        return None
    share = gap.minutes / a.parts.minutes
    text = f"B takes {abs(share):.1%} {'longer' if share >= 0 else 'less'} ({gap.minutes:+.3g} min"
    return f"{text}: {_parts(gap)}). Mainly {CAUSES[gap.cause]}{_details(a, b, gap)}"


def _parts(gap: Gap) -> str:
    parts = {"samples to target": gap.convergence, "speed": gap.speed}
    if gap.convergence is None:
        parts = {"training": gap.training}
    parts |= {"evaluation": gap.evaluation, "start": gap.start}
    return ", ".join(
        f"{name} {visible(value):+.3g}" for name, value in parts.items() if value is not None
    )


def _details(a: Side, b: Side, gap: Gap) -> str:
    """Return the evidence for the cause, in parentheses."""
    assert a.parts is not None
    assert b.parts is not None
    p = gap.p_speed if gap.cause == "speed" else gap.p_convergence
    facts = []
    if gap.cause.startswith("convergence"):
        facts += [
            f"{letter} {number(side.amount)} {side.unit}"
            + ("" if side.spread is None else f" +- {side.spread:.1%}")
            for letter, side in (("A", a.parts), ("B", b.parts))
            if side.amount is not None
        ]
    if gap.cause == "speed" and a.parts.rate and b.parts.rate:
        facts.append(f"B has {b.parts.rate / a.parts.rate:.3f} of A's {a.parts.unit} per second")
    if gap.cause in ("speed", "convergence", "convergence luck") and p is not None:
        facts.append("p < 0.001" if p < 0.001 else f"p = {p:.3f}")
    if gap.cause.startswith("convergence") and a.parts.batch != b.parts.batch:
        facts.append(f"global batch size {a.parts.batch} and {b.parts.batch}")
    return f" ({'; '.join(facts)})" if facts else ""
