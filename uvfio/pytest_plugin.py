# SPDX-License-Identifier: GPL-2.0-only
"""
pytest plugin: a function made with ``@uvfio.scenario`` and named ``test_...`` is a test.

It passes when every interleaving has been tried and had a listed outcome, and every
listed outcome was seen. Otherwise the test's failure is the report: the interleaving
in columns, who holds what, and the command that shows it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import Finding, Result, explore
from uvfio.explore.shrink import shrink
from uvfio.report.record import record
from uvfio.report.terminal import render
from uvfio.scenarios.registry import Scenario

BUDGET = 60.0


class NotProven(Exception):
    """The scenario did not pass; the message is the report."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("uvfio")
    group.addoption(
        "--uvfio-budget",
        type=float,
        default=BUDGET,
        metavar="SECONDS",
        help=f"how long one scenario may be explored before it fails as not proven (default {BUDGET:.0f})",
    )


def pytest_pycollect_makeitem(collector: pytest.Module, name: str, obj: object) -> ScenarioItem | None:
    """Collect scenarios whose name pytest would take a function for a test by."""
    if isinstance(obj, Scenario) and name.startswith("test"):
        item: ScenarioItem = ScenarioItem.from_parent(collector, name=name, scenario=obj)
        return item
    return None


class ScenarioItem(pytest.Item):
    """One scenario, as a test."""

    def __init__(self, *, scenario: Scenario, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scenario = scenario
        self.result = Result()

    def runtest(self) -> None:
        program = self.scenario.program
        result = self.result = explore(program, Dpor(), budget=self.config.getoption("--uvfio-budget"))
        if result.finding is not None:
            raise NotProven(self._report(shrink(program, result.finding)))
        if not result.complete:
            raise NotProven(f"not proven in {result.seconds:.0f} s: {result.runs} executions, and more to try")
        unseen = self.scenario.outcomes - set(result.outcomes)
        if unseen:
            raise NotProven(f"never seen, so the scenario has lost its teeth: {sorted(unseen)}")
        self.add_report_section("call", "uvfio", f"complete: {result.classes} classes, {result.cut} cut off")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, NotProven):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        line = self.scenario.setup.__code__.co_firstlineno - 1
        return self.path, line, f"scenario {self.name}"

    def _report(self, finding: Finding) -> str:
        trace, _result = record(self.scenario.program, finding.schedule)
        place = f"{self.path}::{self.name}"
        return render(self.scenario.name, trace, finding, command=f"uvfio replay {place} {finding.replay}")
