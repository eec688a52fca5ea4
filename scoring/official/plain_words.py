"""Turns the compliance checker's messages into findings in plain words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from scoring.rules.findings import OFFICIAL, Finding

LONGEST_VALUE = 120


# What the checker's expressions mean; the first pattern that matches the whole expression counts.
_EXPRESSIONS: Sequence[tuple[str, str]] = (
    (r"v\['value'\] != ''", "anything but an empty text"),
    (r"'value' in v", "a line with a value"),
    (r"v\['value'\] in \[(.+)\]", r"one of \1"),
    (r"v\['value'\] == (\S+)", r"exactly \1"),
    (r"v\['value'\] >= (\S+)", r"at least \1"),
    (r"v\['value'\] > (\S+)", r"more than \1"),
    (r"is_integer\(v\['value'\] ?/ ?([\d.]+)\)", r"a whole multiple of \1"),
    (r"'(\w+)' in v\['metadata'\]", r"a line with \1 in its metadata"),
    (
        r"\('(\w+)' in v\['metadata'\]\) \| \('(\w+)' in v\['metadata'\]\)",
        r"a line with \1 or \2 in its metadata",
    ),
    (
        r"'(\w+)' in v\['metadata'\] if '(\w+)' in v\['metadata'\] else True",
        r"a line with \1 next to \2 in its metadata",
    ),
    (r"v\['metadata'\]\['(\w+)'\] >= (\d+) if .+ else True", r"\1, where given, of at least \2"),
    (r"v\['metadata'\]\['(\w+)'\] > (\d+) if .+ else True", r"\1, where given, above \2"),
    (r"isinstance\(v\['value'\], ?int\)", "a whole number"),
    (r"'(\w+)' in v\['value'\]", r"a value with \1 in it"),
    (r"v\['metadata'\]\['epoch_count'\] > 0", "an epoch_count above 0"),
    (r"len\(v\['value'\]\) == (\d+)", r"a list of \1 values"),
    (r"s\['run_started'\]", "only after run_start"),
    (r"s\['init_started'\]", "only after init_start"),
    (r"\(? ?s\['init_stopped'\] == True ?\)?", "only after init_stop"),
    (r"not s\['init_stopped'\]", "only before init_stop"),
    (r"not s\['run_started'\]", "only before run_start"),
    (
        r"ll\.timestamp - s\['first_init_start'\] < \((\d+)\*60\*1e3\)",
        r"less than \1 minutes after the first init_start",
    ),
    (
        r"ll\.timestamp - s\['first_init_start'\] < \(s\['compile_time_mins'\]\*60\*1e3\)",
        "no more than the round's minutes after the first init_start",
    ),
)


def allowed_words(expression: str) -> str:
    """Describe what a checker's expression allows; one that is unknown is only tidied up."""
    expression = " ".join(expression.split())
    for pattern, words in _EXPRESSIONS:
        match = re.fullmatch(pattern, expression)
        if match:
            return _without_brackets(match.expand(words))
    return _without_brackets(expression)


def _without_brackets(expression: str) -> str:
    """Replace the checker's look-ups by the names that they look up."""
    plain = re.sub(r"\bv\['(?:value|metadata)'\]\['(\w+)'\]", r"\1", expression)
    plain = plain.replace("v['value']", "value").replace("v['metadata']", "the metadata")
    return re.sub(r"\bs\['(\w+)'\]", r"\1", plain)


def explain(message: str, event_lines: Sequence[int]) -> Finding:
    """Turn one message of the compliance checker into a finding.

    Args:
        message: The checker's text.
        event_lines: File line of every mllog line; the checker counts only those.

    Returns:
        The finding; a message of unknown form is passed on unchanged.
    """
    lines = message.splitlines()
    failed = re.match(r"CHECK for '(\w+)' failed in line (-?\d+):", lines[0]) if lines else None
    if failed:
        index = int(failed[2])
        test = allowed_words(_after(message, "failed test: ", "\ncurrent context"))
        if index < 0:  # of no line: what the checker collected from several
            return Finding(failed[1], None, _collected_value(message), test, OFFICIAL)
        line = event_lines[index] if index < len(event_lines) else None
        late = _late_event(lines[1], message)
        found, allowed = late or (_event_value(lines[1]), test)
        return Finding(failed[1], line, found, allowed, OFFICIAL)
    if message.startswith("Failed executing CHECK code"):
        event = _event(lines[3]) if len(lines) > 3 else {}
        key = str(event.get("key", "a rule"))
        found = "a value that cannot be judged: " + (_event_value(lines[3]) if event else "?")
        return Finding(key, None, found, allowed_words(lines[1]), OFFICIAL)
    return _counted(message)


def _counted(message: str) -> Finding:
    """Explain messages about how often a key must occur, or about the file as a whole."""
    match = re.match(
        r"Required (\w+)(?:\((\d+)\))? occurrence of (.+?)(?: but found (\d+)(.*))?$", message, re.S
    )
    if match:
        kind, least, keys, count, rest = match.groups()
        allowed = {"EXACTLY_ONE": "exactly one line", "AT_LEAST_ONE": "at least one line"}
        found = "none" if count in (None, "0") else f"{count} lines{rest or ''}"
        words = allowed.get(kind, f"at least {least} lines")
        return Finding(keys.replace("'", ""), None, found, words, OFFICIAL)
    match = re.match(r"Failed checks for (\w+) : (.+)", message, re.S)
    if match:
        words = "at least one line with " + allowed_words(match[2])
        return Finding(match[1], None, "no line that qualifies", words, OFFICIAL)
    match = re.match(
        r"failed test: sorted\(s\['(\w+)'\]\) == sorted\(\[(.+?)\]\)\ncurrent context\[s\]=(.+)",
        message,
        re.S,
    )
    if match:
        return _collected(match[1], re.findall(r"'(\w+)'", match[2]), json.loads(match[3]))
    if message.startswith("failed test: "):
        test = _after(message, "failed test: ", "\ncurrent context")
        return Finding(
            "at the end of the log", None, "not fulfilled", allowed_words(test), OFFICIAL
        )
    return Finding(
        "the log", None, " ".join(message.split())[:300], "a log that can be read", OFFICIAL
    )


def _collected(name: str, wanted: Sequence[str], context: dict[str, Any]) -> Finding:
    """Explain a list that a log must fill, such as RNN-T's initialized_tensors."""
    got = Counter(map(str, context.get(name, [])))
    missing, extra = Counter(wanted) - got, got - Counter(wanted)
    faults = [f"{item} missing" for item in missing] + [f"{item} repeated" for item in extra]
    allowed = f"each of {', '.join(wanted)} once"
    return Finding(name.replace("_", " "), None, ", ".join(faults), allowed, OFFICIAL)


def _after(text: str, start: str, end: str) -> str:
    _, _, rest = text.partition(start)
    return rest.partition(end)[0]


def _late_event(line: str, message: str) -> tuple[str, str] | None:
    """Return what was found and allowed for an event too long after the first init_start."""
    test = _after(message, "failed test: ", "\ncurrent context")
    limit = re.search(r"\['first_init_start'\] < \((?:(\d+)|s\['compile_time_mins'\])\*60", test)
    try:
        context = json.loads(_after(message, "\ncurrent context[s]=", "\ncurrent line[v]="))
        minutes = (float(_event(line)["time_ms"]) - context["first_init_start"]) / 60_000
        most = float((limit and limit[1]) or context["compile_time_mins"])
    except (ValueError, KeyError, TypeError):
        return None
    since = "after the first init_start"
    return (f"{minutes:.1f} minutes {since}", f"less than {most:g}") if limit else None


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line.partition(":::MLLOG ")[2])
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _collected_value(message: str) -> str:
    """Return the value of the event that the checker made itself, such as FID with CLIP."""
    try:
        value = json.loads(message.partition("current line[v]=")[2])["value"]
        return ", ".join(f"{name} {number}" for name, number in value.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return "another value"


def _event_value(line: str) -> str:
    event = _event(line)
    value = json.dumps(event.get("value"))
    if event.get("value") is None:
        metadata = event.get("metadata") or {}
        if isinstance(metadata, dict):
            metadata = {k: item for k, item in metadata.items() if k not in ("file", "lineno")}
        value = json.dumps(metadata) if metadata else "this line"
    return value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + "..."
