# SPDX-License-Identifier: GPL-2.0-only
"""``uvfio bugs``: known bugs as patches, and the check that each is still found."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from typing import Any

from uvfio.bugs.catalogue import Checked, catalogue, check
from uvfio.bugs.patch import Bug, StalePatch
from uvfio.cli.usage import UsageError, one_of_many
from uvfio.explore.runner import Result


def add_arguments(verbs: Any) -> None:
    sub = verbs.add_parser(
        "bugs",
        help="list known bugs, show one, or check that all are found",
        description="check: each bug must be found with its patch, and nothing without. Exit status 1 if one is not.",
        epilog="example: uvfio bugs show G2",
    )
    sub.add_argument("what", nargs="?", choices=("list", "show", "check"), default="list")
    sub.add_argument("name", nargs="*", help="with show and check: which")
    sub.add_argument("--budget", type=float, default=60, metavar="SECONDS", help="with check: for each search")
    sub.add_argument("--json", action="store_true", help="machine-readable")
    sub.add_argument("-v", "--verbose", action="store_true", help="with check: what was found, too")
    sub.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    try:
        bugs = catalogue()
    except StalePatch as e:
        raise UsageError(str(e)) from None
    if args.what == "show" and not args.name:
        raise UsageError("show must have the name of a bug")
    chosen = [one_of_many("bug", name, bugs, "uvfio bugs") for name in args.name or sorted(bugs)]
    if args.what == "check":
        return _check(chosen, args)
    if args.json:
        print(json.dumps([_as_data(bug) for bug in chosen], indent=2))
    elif args.what == "show":
        print("\n\n".join(_show(bug) for bug in chosen))
    else:
        width = max(len(bug.name) for bug in chosen)
        for bug in chosen:
            print(f"{bug.name:{width}}  {bug.scenario:36} {bug.subject}")
    return 0


def _as_data(bug: Bug) -> dict[str, Any]:
    return {key: value for key, value in vars(bug).items() if key != "diff"}


def _show(bug: Bug) -> str:
    story = textwrap.fill(bug.story, 78, initial_indent="  ", subsequent_indent="  ")
    known = "today's Linux has it; the patch is the fix" if bug.kind == "fix" else "the patch takes the fix out"
    head = f"{bug.name}: {bug.subject}\n\n  Linux     {bug.linux}\n  Scenario  {bug.scenario}\n  Finds     {bug.finds}"
    command = f"uvfio explore {bug.scenario}" + ("" if bug.kind == "fix" else f" --bug {bug.name}")
    return f"{head}\n  Kind      {known}\n\n{story}\n\n  To see it:\n      {command}\n\n{bug.diff.rstrip()}"


def _check(chosen: list[Bug], args: argparse.Namespace) -> int:
    wrong = 0
    for bug in chosen:
        if sys.stderr.isatty():
            print(f"\r{bug.name} ...", end="\r", file=sys.stderr, flush=True)
        checked = check(bug, args.budget)
        wrong += bool(checked.wrong)
        print(json.dumps(_checked_as_data(checked)) if args.json else _line(checked, args.verbose), flush=True)
    if not args.json:
        print(f"{len(chosen) - wrong} of {len(chosen)} found with the bug and proven silent without")
    return 1 if wrong else 0


def _line(checked: Checked, verbose: bool) -> str:
    found, silent = checked.with_bug, checked.without
    if checked.wrong or found is None or silent is None:
        return f"WRONG  {checked.bug.name}: {checked.wrong}"
    line = (
        f"ok     {checked.bug.name:10} {checked.bug.finds:20} run {found.runs:<5} {found.seconds:5.2f} s   "
        f"without: {silent.classes} classes, {silent.seconds:.2f} s"
    )
    return line + (f"\n         {found.finding.message}" if verbose and found.finding is not None else "")


def _checked_as_data(checked: Checked) -> dict[str, Any]:
    return {
        "bug": checked.bug.name,
        "scenario": checked.bug.scenario,
        "wrong": checked.wrong,
        "with": _result_as_data(checked.with_bug),
        "without": _result_as_data(checked.without),
    }


def _result_as_data(result: Result | None) -> dict[str, Any] | None:
    if result is None:
        return None
    finding = result.finding
    return {
        "executions": result.runs,
        "cut_off": result.cut,
        "seconds": round(result.seconds, 3),
        "complete": result.complete,
        "finding": finding and {"kind": finding.kind, "message": finding.message, "schedule": finding.replay},
    }
