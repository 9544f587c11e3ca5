# SPDX-License-Identifier: GPL-2.0-only
"""``uvfio explore`` and ``uvfio replay``: every interleaving, and one again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from uvfio.bugs import variant
from uvfio.bugs.catalogue import catalogue
from uvfio.bugs.patch import StalePatch
from uvfio.cli.usage import UsageError, one_of_many
from uvfio.explore.dfs import Dfs
from uvfio.explore.dpor import Dpor
from uvfio.explore.parallel import explore_parallel
from uvfio.explore.runner import Result, explore
from uvfio.explore.shrink import shrink
from uvfio.report.html import Entry, page
from uvfio.report.record import record
from uvfio.report.terminal import render
from uvfio.runtime.controlled import Policy
from uvfio.runtime.errors import InternalError
from uvfio.runtime.policy import Fifo, Pct, Pos, RandomWalk
from uvfio.runtime.schedule import decode
from uvfio.scenarios.catalogue import SCENARIOS
from uvfio.scenarios.files import load
from uvfio.scenarios.registry import Scenario

EVERY = 0.2  # seconds between two looks at a search under way
WIDTH = 100
RUNS = 1000  # of a sampling policy, unless a budget is given

POLICIES: dict[str, Callable[[argparse.Namespace], Policy]] = {
    "dpor": lambda _args: Dpor(),
    "dfs": lambda args: Dfs(args.preemptions),
    "pct": lambda args: Pct(args.seed, args.runs),
    "pos": lambda args: Pos(args.seed, args.runs),
    "random": lambda args: RandomWalk(args.seed, args.runs),
    "fifo": lambda _args: Fifo(),
}


def add_arguments(verbs: Any) -> None:
    sub = verbs.add_parser(
        "explore",
        help="try every interleaving of a scenario",
        description="Exit status: 0 all tried and nothing found but known bugs of Linux, 1 a finding, 3 not complete.",
        epilog="example: uvfio explore vfio.two_openers",
    )
    sub.add_argument("scenario", nargs="*", help="names, or FILE.py::FUNCTION; without any, the list is shown")
    sub.add_argument("--all", action="store_true", help="all scenarios")
    sub.add_argument("--policy", choices=sorted(POLICIES), default="dpor")
    sub.add_argument("--preemptions", type=int, metavar="N", help="with dfs: at most N")
    sub.add_argument("--seed", type=int, default=1, help="of a sampling policy (default 1)")
    sub.add_argument("--runs", type=int, default=RUNS, help=f"of a sampling policy (default {RUNS})")
    sub.add_argument("--budget", type=float, metavar="SECONDS", help="stop after so long, for each scenario")
    sub.add_argument("--jobs", type=int, default=1, metavar="N", help="with dpor: search with N processes")
    sub.add_argument("--bug", metavar="NAME", help="put this known bug in first (see uvfio bugs)")
    sub.add_argument("--json", action="store_true", help="machine-readable, one object a scenario")
    sub.add_argument("-v", "--verbose", action="store_true", help="also the question and every outcome")
    sub.add_argument("--report", metavar="FILE", help="also write it as a web page, complete in one file")
    sub.set_defaults(main=main)
    again = verbs.add_parser(
        "replay",
        help="run one schedule of a scenario again and show it",
        epilog="example: uvfio replay vfio.two_openers A3.B2",
    )
    again.add_argument("scenario", help="its name, or FILE.py::FUNCTION")
    again.add_argument("schedule", help="as explore prints it, like A3.B.A2")
    again.add_argument("--bug", metavar="NAME", help="put this known bug in first")
    again.add_argument("--json", action="store_true", help="machine-readable")
    again.add_argument("-v", "--verbose", action="store_true", help="every step, not only those that matter")
    again.add_argument("--report", metavar="FILE", help="also write it as a web page, complete in one file")
    again.set_defaults(main=main_replay)


def main(args: argparse.Namespace) -> int:
    scenarios = _scenarios(args.bug)
    names = sorted(SCENARIOS) if args.all else args.scenario
    if not names and args.bug:
        names = [catalogue()[args.bug].scenario]
    if not names:
        for name, found in sorted(SCENARIOS.items()):
            print(f"{name:40} {found.question}")
        return 0
    if args.jobs < 1 or (args.jobs > 1 and args.policy != "dpor"):
        raise UsageError(f"--jobs must be 1 or more, and go with --policy dpor, not {args.jobs} with {args.policy}")
    if args.preemptions is not None and args.policy != "dfs":
        raise UsageError(f"--preemptions must go with --policy dfs, not {args.policy}")
    with _report(args.report) as entries:
        return max(_explore(find(name, scenarios), args, entries) for name in names)


def main_replay(args: argparse.Namespace) -> int:
    scenario = find(args.scenario, _scenarios(args.bug))
    try:
        schedule = decode(args.schedule)
    except ValueError as e:
        raise UsageError(str(e)) from None
    with _report(args.report) as entries:
        try:
            trace, result = record(scenario.program, schedule)
        except InternalError as e:
            raise UsageError(str(e)) from None
        said = summary(scenario, result, "replay")
        command = _command(scenario, args.schedule, args.bug)
        text = render(scenario.name, trace, result.finding, every_step=args.verbose, command=command)
        print(json.dumps({**said, "steps": trace.as_json()}) if args.json else text)
        entries.append(Entry(said, scenario.question, command, text, trace))
    return 1 if result.finding else 0


def find(name: str, scenarios: Mapping[str, Scenario]) -> Scenario:
    """The scenario called *name*, or in the file it names; UsageError if there is none."""
    if "::" in name:
        if scenarios is not SCENARIOS:
            raise UsageError(f"--bug must go with a scenario of uvfio's own, not {name}")
        try:
            return load(name)
        except ValueError as e:
            raise UsageError(str(e)) from None
    return one_of_many("scenario", name, scenarios, "uvfio explore")


def _scenarios(bug: str | None) -> Mapping[str, Scenario]:
    """All scenarios, over today's code or with *bug* in it."""
    if bug is None:
        return SCENARIOS
    try:
        return variant.scenarios(one_of_many("bug", bug, catalogue(), "uvfio bugs"))
    except StalePatch as e:
        raise UsageError(str(e)) from None


def summary(scenario: Scenario, result: Result, policy: str) -> dict[str, Any]:
    """A search as JSON."""
    finding = result.finding
    return {
        "scenario": scenario.name,
        "policy": policy,
        "verdict": verdict(scenario, result, policy),
        "executions": result.runs,
        "cut_off": result.cut,
        "steps": result.steps,
        "deepest": result.deepest,
        "seconds": round(result.seconds, 3),
        "outcomes": {" ".join(map(str, o)): n for o, n in result.outcomes.items() if isinstance(o, tuple)},
        "finding": finding and {"kind": finding.kind, "message": finding.message, "schedule": finding.replay},
    }


def verdict(scenario: Scenario, result: Result, policy: str) -> str:
    """How far the search's word goes; ``known``: today's Linux has that bug."""
    if result.finding is not None:
        return "known" if result.finding.kind == scenario.expected else "found"
    if not result.complete:
        return "budget ended"
    return "complete" if policy in ("dpor", "dfs") else "sampled"


def _explore(scenario: Scenario, args: argparse.Namespace, entries: list[Entry]) -> int:
    progress = _progress(scenario.name) if sys.stderr.isatty() and not args.json else None
    if args.jobs > 1:
        result = explore_parallel(scenario.program, args.jobs, budget=args.budget, progress=progress)
    else:
        result = explore(scenario.program, POLICIES[args.policy](args), budget=args.budget, progress=progress)
    if result.finding is not None:
        result.finding = shrink(scenario.program, result.finding)
    said = verdict(scenario, result, args.policy)
    entry = _entry(scenario, result, args)
    if args.json:
        print(json.dumps(entry.summary))
    else:
        _tell(scenario, result, said, args)
        if said == "known" and not args.verbose:
            print(f"  today's Linux has this {scenario.expected} too; -v shows it")
        elif entry.text:
            print(entry.text)
    entries.append(entry)
    if said == "known":
        return 0
    if said == "found":
        return 1
    if said == "complete" and scenario.expected:
        print(f"  a known bug of Linux is gone: {scenario.expected} was expected", file=sys.stderr)
        return 1
    unseen = _unseen(scenario, result, args)
    if unseen:
        print(f"  never seen, so the scenario has lost its teeth: {_list(unseen)}", file=sys.stderr)
        return 1
    return 0 if said == "complete" and args.preemptions is None else 3


def _tell(scenario: Scenario, result: Result, said: str, args: argparse.Namespace) -> None:
    if args.verbose:
        print(f"{scenario.name}: {scenario.question}")
    bound = f" up to {args.preemptions} preemptions" if args.preemptions is not None else ""
    rate = result.runs / result.seconds if result.seconds else 0
    if sys.stderr.isatty():
        print(" " * WIDTH, end="\r", file=sys.stderr, flush=True)
    print(
        f"{scenario.name}: {said}{bound}: {result.classes} classes, {result.cut} cut off, "
        f"deepest {result.deepest} steps, {result.seconds:.1f} s ({rate:.0f}/s, {args.policy})"
    )
    for outcome, n in sorted(result.outcomes.items(), key=str) if args.verbose else ():
        print(f"  {n:8} {_list([outcome])}")


def _entry(scenario: Scenario, result: Result, args: argparse.Namespace) -> Entry:
    """What is reported of a search; a finding is run once more, looking at each step."""
    said = summary(scenario, result, args.policy)
    said["preemptions"] = args.preemptions
    said["expected"] = scenario.expected
    said["unseen"] = [" ".join(outcome) for outcome in sorted(_unseen(scenario, result, args))]
    if result.finding is None:
        return Entry(said, scenario.question)
    trace, _again = record(scenario.program, result.finding.schedule)
    command = _command(scenario, result.finding.replay, args.bug)
    return Entry(said, scenario.question, command, render(scenario.name, trace, result.finding, command=command), trace)


def _unseen(scenario: Scenario, result: Result, args: argparse.Namespace) -> set[Any]:
    """Listed outcomes that a search of everything has not come across."""
    whole = verdict(scenario, result, args.policy) == "complete" and args.preemptions is None
    return set(scenario.outcomes - set(result.outcomes)) if whole else set()


def _command(scenario: Scenario, schedule: str, bug: str | None) -> str:
    return f"uvfio replay {scenario.name} {schedule}" + (f" --bug {bug}" if bug else "")


@contextmanager
def _report(path: str | None) -> Iterator[list[Entry]]:
    """Collects what goes on the page, and writes it; a bad *path* is found out first."""
    entries: list[Entry] = []
    if path is None:
        yield entries
        return
    try:
        out = open(path, "w", encoding="utf-8")
    except OSError as e:
        raise UsageError(f"the report must be writable: {path}: {e.strerror}") from None
    with out:
        yield entries
        out.write(page(entries))


def _list(outcomes: Any) -> str:
    return ", ".join("(" + ", ".join(map(str, outcome)) + ")" for outcome in outcomes)


def _progress(name: str) -> Callable[[Result], None]:
    """Shows on a terminal how far a search is; the line is wiped when the verdict comes."""
    shown = 0.0

    def show(result: Result) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < EVERY:
            return
        shown = now
        rate = result.runs / result.seconds if result.seconds else 0
        line = (
            f"{name}: {result.runs} executions, {result.classes} classes, {rate:.0f}/s, "
            f"deepest {result.deepest}, about {result.tried:.0%} tried"
        )
        print(f"\r{line[:WIDTH]:{WIDTH}}\r", end="", file=sys.stderr, flush=True)

    return show
