# SPDX-License-Identifier: GPL-2.0-only
"""
A finding in the terminal, as a kernel commit message shows a race: the verdict, the
interleaving in columns under 80 wide, who holds what, and the command that shows it
again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from uvfio.explore.runner import Finding
from uvfio.report.trace import Step, Trace

WIDTH = 79
DEEPEST = 4  # indents for locks held, at most
BREAKS = (re.compile(r"[ (/,]|\.(?=[A-Za-z_])"), re.compile("[_:.]"))  # the first that is not too early
TAKES = ("lock", "trylock", "down_read", "down_write")


def render(scenario: str, trace: Trace, finding: Finding | None, every_step: bool = False, command: str = "") -> str:
    """
    The report as text; without a *finding*, only the interleaving. *command* shows it
    again, if that is not simply a replay of the scenario.
    """
    lines = []
    if finding is not None:
        at = _where(trace)
        lines += [*_wrap(f"uvfio: BUG: {finding.kind}{at}", ""), *_message(finding.message), ""]
    lines += [f"  scenario  {scenario}", ""]
    lines += columns(trace.steps if every_step else trace.contended(), trace.comms)
    if finding is not None:
        lines += ["", *holders(trace), "", "  To see it again, step by step:"]
        lines.append(f"      {command or f'uvfio replay {scenario} {finding.replay}'}")
    return "\n".join(lines)


def columns(steps: Sequence[Step], comms: Mapping[str, str]) -> list[str]:
    """One column a task; a step stands in its task's, under the function it is in."""
    tasks = sorted({step.task for step in steps if step.task})
    if not tasks:
        return ["  (no step)"]
    width = (WIDTH - 2) // len(tasks)
    heads = [f"CPU{n} ({_title(task, comms)})"[: width - 2] for n, task in enumerate(tasks)]
    lines = ["  " + "".join(f"{head:{width}}" for head in heads).rstrip()]
    lines.append("  " + "".join(f"{'-' * len(head):{width}}" for head in heads).rstrip())
    least = {task: min(step.depth for step in steps if step.task == task) for task in tasks}
    inside: dict[str, str] = {}
    for step in steps:
        if not step.task:
            lines += ["", *_fold(f"{step.text}, when all had ended", WIDTH - 2, "  ")]
            continue
        indent = " " * (2 + width * tasks.index(step.task))
        if inside.get(step.task) != step.place.function:
            inside[step.task] = step.place.function
            lines += _fold(f"{step.place.function}()", width - 2, indent)
        depth = 2 * min(1 + step.depth - least[step.task], DEEPEST)
        lines += _fold(step.text, width - 2 - depth, indent + " " * depth)
    return lines


def holders(trace: Trace) -> list[str]:
    """Who holds what at the end, where it was taken, and who waits for whom."""
    lines = []
    held_by = {lock: task for task in trace.tasks for lock, _at in held_at_end(trace, task)}
    for task in trace.tasks:
        held = held_at_end(trace, task)
        head = f"  {task} holds: "
        if not held:
            lines.append(f"{head}nothing")
        for n, (lock, at) in enumerate(held):
            entry = f"#{n} {trace.objects.names[lock]}"
            start = head if n == 0 else " " * len(head)
            if at and len(start) + len(entry) + len(at) + 5 <= WIDTH:
                lines.append(f"{start}{entry}  at {at}")
            else:
                lines += [f"{start}{entry}", *([f"{' ' * (len(head) + 3)}at {at}"] if at else [])]
        for step in trace.steps:
            if step.kind == "blocked" and step.task == task:
                owner = held_by.get(step.thing)
                by = f", held by {owner}" if owner else ""
                lines += _fold(f"{task} waits for {trace.objects.names[step.thing]}{by}", WIDTH - 2, "  ")
    return lines


def held_at_end(trace: Trace, task: str) -> list[tuple[int, str]]:
    """The locks *task* holds at the end, outermost first, and where it took each."""
    own = [step for step in trace.steps if step.task == task]
    held = own[-1].held if own else ()
    taken = {step.thing: str(step.place) for step in own if step.kind in TAKES}
    return [(lock, taken.get(lock, "")) for lock in held]


def _where(trace: Trace) -> str:
    last = trace.steps[-1] if trace.steps else None
    return f" in {last.place.function} ({last.place})" if last and last.kind == "BUG" and last.stack else ""


def _title(task: str, comms: Mapping[str, str]) -> str:
    comm = comms.get(task, task)
    return task if comm == task else f"{task}: {comm}"


def _message(text: str) -> list[str]:
    """A message of one line is wrapped; one that is laid out already is left alone."""
    if "\n" in text:
        return [f"  {line}".rstrip() for line in text.splitlines()]
    return _wrap(text, "  ")


def _fold(text: str, width: int, indent: str) -> list[str]:
    """*text* in lines of *width*, broken where C would be."""
    lines = []
    more = ""
    while len(more + text) > width:
        room = width - len(more)
        cut = next((at for break_at in BREAKS if (at := _last(break_at, text, room)) > room // 3), room)
        lines.append(indent + more + text[:cut].rstrip())
        text, more = text[cut:].lstrip(), "    "
    return [*lines, indent + more + text]


def _last(break_at: re.Pattern[str], text: str, room: int) -> int:
    """The last place within *room* where *text* may be broken."""
    return max((found.end() for found in break_at.finditer(text) if found.end() <= room), default=0)


def _wrap(text: str, indent: str) -> list[str]:
    lines, line = [], indent
    for word in text.split():
        if len(line) + len(word) + 1 > WIDTH and line.strip():
            lines.append(line)
            line = indent or "  "
        line += (" " if line.strip() else "") + word
    return [*lines, line]
