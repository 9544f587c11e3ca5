# SPDX-License-Identifier: GPL-2.0-only
"""
A search, or one run, as a page: a single file that needs no network and no server.

What is shown is prepared here as data; ``template/page.js`` only walks through it.
The text of the terminal is in the page too, for those who read it without scripts.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uvfio.report.source import Place
from uvfio.report.trace import Trace

TEMPLATE = Path(__file__).resolve().parent / "template"


@dataclass(frozen=True)
class Entry:
    """One scenario on the page. *summary* is what ``--json`` prints of it."""

    summary: Mapping[str, Any]
    question: str
    command: str = ""  # shows the run again
    text: str = ""  # the run as the terminal has it
    trace: Trace | None = None  # a run to step through


def page(entries: Sequence[Entry]) -> str:
    """The whole page. It opens at the first entry with a finding."""
    found = [entry for entry in entries if entry.summary["verdict"] == "found"]
    title = f"{found[0].summary['finding']['kind']}: {found[0].summary['scenario']}" if found else "uvfio explore"
    data = [_entry(entry) for entry in entries]
    return (TEMPLATE / "page.html").read_text(encoding="utf-8") % {
        "title": html.escape(title),
        "style": (TEMPLATE / "page.css").read_text(encoding="utf-8"),
        "script": (TEMPLATE / "page.js").read_text(encoding="utf-8"),
        "text": html.escape("\n\n".join(entry.text or _counts(entry.summary) for entry in entries)),
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    }


def _counts(summary: Mapping[str, Any]) -> str:
    return f"{summary['scenario']}: {summary['verdict']}: {summary['executions']} executions"


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "summary": dict(entry.summary),
        "question": " ".join(entry.question.split()),
        "command": entry.command,
        "text": entry.text,
        "run": _run(entry.trace) if entry.trace is not None and entry.trace.steps else None,
    }


def _run(trace: Trace) -> dict[str, Any]:
    """One run: tasks, steps, the names of objects, places in the code and their text."""
    places: dict[Place, int] = {}
    contended = {id(step) for step in trace.contended()}
    steps = [
        {
            "task": step.task,
            "kind": step.kind,
            "text": step.text,
            "thing": step.thing,
            "field": step.field,
            "writes": step.writes,
            "value": step.value,
            "held": step.held,
            "contended": id(step) in contended,
            "stack": [places.setdefault(place, len(places)) for place in step.stack],
        }
        for step in trace.steps
    ]
    blocks, block_of = _blocks(trace, places)
    return {
        "tasks": [{"name": task, "comm": trace.comms.get(task, task)} for task in trace.tasks],
        "things": trace.objects.names,
        "steps": steps,
        "places": [
            {"function": place.function, "file": place.file, "line": place.line, "block": block_of[place]}
            for place in places
        ],
        "blocks": blocks,
    }


def _blocks(trace: Trace, places: Iterable[Place]) -> tuple[list[dict[str, Any]], dict[Place, int]]:
    """The text of every function that is on some stack, once; and which is whose."""
    blocks: list[dict[str, Any]] = []
    numbers: dict[tuple[str, int, int], int] = {}
    block_of: dict[Place, int] = {}
    for place in places:
        first, lines = trace.sources.function(place)
        key = (place.path, first, len(lines))
        if key not in numbers:
            numbers[key] = len(blocks)
            added, gone = trace.sources.patched(place.path)
            last = first + len(lines)
            blocks.append(
                {
                    "first": first,
                    "lines": lines,
                    "added": sorted(line for line in added if first <= line < last),
                    "gone": {line: texts for line, texts in gone.items() if first <= line <= last},
                }
            )
        block_of[place] = numbers[key]
    return blocks, block_of
