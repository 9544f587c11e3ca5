# SPDX-License-Identifier: GPL-2.0-only
"""What a report says: the steps, what they did, who holds what, and the text that ran."""

import json
import re

import pytest
from programs import Bare
from report_runs import RUNS, entry

from uvfio.bugs import catalogue, variant
from uvfio.cli.main import main
from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import explore
from uvfio.linux.kernel.mutex import Mutex
from uvfio.report.html import Entry, page
from uvfio.report.record import record
from uvfio.report.terminal import render
from uvfio.runtime.shown import PACKAGE, shown_path

FOUND = [name for name in RUNS if name != "toy.silent"]


def data_of(text):
    """What the script of a page works on."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def run_of(trace):
    """The run on a page made of *trace*."""
    summary = {"scenario": "s", "verdict": "found", "finding": {"kind": "warning"}}
    (shown,) = data_of(page([Entry(summary, "?", text="text", trace=trace)]))
    return shown["run"]


@pytest.fixture(scope="module")
def bug():
    """A bug of the catalogue, found and recorded."""
    patched = catalogue.catalogue()["G2"]
    scenario = variant.scenarios(patched)[patched.scenario]
    finding = explore(scenario.program, Dpor()).finding
    trace, again = record(scenario.program, finding.schedule)
    assert again.finding == finding
    return scenario, finding, trace


@pytest.mark.parametrize("name", FOUND)
def test_the_terminal_stays_under_80_columns(name):
    assert max(map(len, entry(name, RUNS[name]).text.splitlines())) < 80


@pytest.mark.parametrize("every_step", [False, True])
def test_a_bug_of_the_catalogue_stays_under_80_columns(bug, every_step):
    scenario, finding, trace = bug
    lines = render(scenario.name, trace, finding, every_step).splitlines()
    assert max(map(len, lines)) < 80
    assert lines[-1] == f"      uvfio replay {scenario.name} {finding.replay}"


def test_a_deadlock_says_who_waits_for_whom():
    text = entry("toy.deadlock", RUNS["toy.deadlock"]).text
    assert re.search(r"^  A holds: #0 k  at programs\.py:\d+$", text, re.MULTILINE)
    assert "\n  A waits for m, held by B\n" in text
    assert "\n  B waits for k, held by A\n" in text
    assert text.count("<blocked>") == 2


def test_use_after_free_says_where_it_was_freed_and_writes_nothing():
    trace = entry("toy.use_after_free", RUNS["toy.use_after_free"]).trace
    texts = [step.text for step in trace.steps]
    assert texts[-3:] == ["kfree(Node#2)  <- freed here", "Node#2.dead = ...", "<- BUG: use-after-free"]
    assert trace.steps[-1].place.function == "user"
    assert "free" in [step.kind for step in trace.contended()]


def test_what_follows_a_broken_rule_is_not_shown():
    broken = entry("toy.broken_while_locked", RUNS["toy.broken_while_locked"])
    last = broken.trace.steps[-1]
    assert last.kind == "BUG"
    assert [broken.trace.objects.names[lock] for lock in last.held] == ["outer", "inner"]
    assert "unlock" not in " ".join(step.kind for step in broken.trace.steps)
    assert re.search(r"A holds: #0 outer +at report_runs\.py:\d+\n +#1 inner +at report_runs\.py:\d+", broken.text)
    assert broken.text.startswith("uvfio: BUG: warning in checker (report_runs.py:")


def test_what_the_judge_finds_comes_when_all_has_ended():
    lost = entry("toy.lost_update", RUNS["toy.lost_update"])
    assert "  <- BUG: outcome, when all had ended\n" in lost.text
    assert "\n  an update is lost\n    and this line is laid out\n" in lost.text
    assert lost.trace.steps[-1].task == ""


def test_what_breaks_while_cleaning_up_has_a_place_but_no_column():
    broken = entry("toy.broken_in_the_end", RUNS["toy.broken_in_the_end"])
    assert broken.trace.tasks == ["A", "B"]
    assert broken.trace.steps[-1].place.function == "clean_up"
    assert broken.text.startswith("uvfio: BUG: warning in clean_up (report_runs.py:")
    assert "  <- BUG: warning, when all had ended\n" in broken.text


def test_values_are_those_that_the_step_left_behind():
    steps = entry("toy.lost_update", RUNS["toy.lost_update"]).trace.steps
    seen = [(step.task, step.kind, step.value) for step in steps if step.field == "x"]
    assert seen[-1] == (seen[-1][0], "write", "'0+'"), "the second update overwrites the first"
    assert [value for _task, kind, value in seen if kind == "read"] == ["0", "0"]


def test_locks_held_and_counts_are_recorded():
    trace = entry("toy.deadlock", RUNS["toy.deadlock"]).trace
    taken = next(step for step in trace.steps if step.text == "lock(k)")
    assert (taken.value, taken.held) == ("held by A", (taken.thing,))


def test_a_lock_is_held_until_the_step_that_releases_it():
    trace = entry("toy.use_after_free", RUNS["toy.use_after_free"]).trace
    held = [(step.text, [trace.objects.names[lock] for lock in step.held]) for step in trace.steps]
    assert held[:3] == [
        ("lock(root.lock)", ["root.lock"]),
        ("read Node.child: Node#2", ["root.lock"]),
        ("unlock(root.lock)", []),
    ]


def test_a_lock_that_is_let_go_at_once_was_held():
    def touch(runtime):
        lock = Bare(runtime) and Mutex("lock")
        runtime.spawn(lambda: lock.lock() or lock.unlock(), "A")
        return lambda: 0

    trace, _result = record(touch, ["A", "A"])
    seen = [(step.text, step.value, len(step.held)) for step in trace.steps]
    assert seen[-2:] == [("lock(lock)", "held by A", 1), ("unlock(lock)", "free", 0)]


def test_contended_steps_are_those_on_what_two_tasks_use(bug):
    _scenario, _finding, trace = bug
    contended = [step.text for step in trace.contended()]
    assert "VfioGroup.container = NULL" in contended
    assert not any("pci_rescan_remove_lock" in text for text in contended), "only one task takes it"


def test_the_source_is_what_ran_and_the_patch_is_marked(bug):
    _scenario, _finding, trace = bug
    blocks = run_of(trace)["blocks"]
    (patched,) = [block for block in blocks if block["lines"][0].startswith("def vfio_device_remove_group(")]
    assert [line.strip() for lines in patched["gone"].values() for line in lines] == ["with group.group_lock:"]
    assert "        with group.group_lock:" not in patched["lines"]
    (other,) = [block for block in blocks if block["lines"][0].startswith("def vfio_group_ioctl_unset_container(")]
    assert (other["gone"], other["added"]) == ({}, [])


def test_every_place_is_in_its_block(bug):
    _scenario, _finding, trace = bug
    run = run_of(trace)
    assert run["places"]
    for place in run["places"]:
        block = run["blocks"][place["block"]]
        assert block["first"] <= place["line"] < block["first"] + len(block["lines"]), place


def test_a_page_needs_nothing_else_and_cannot_be_broken_out_of():
    made = entry("toy.deadlock", RUNS["toy.deadlock"])
    evil = "</script></pre><img onerror=alert(1)>"
    made.summary["finding"]["message"] = evil
    text = page([Entry(made.summary, evil, evil, evil, made.trace)])
    assert evil not in text
    assert "<img" not in text
    assert not re.search(r"""(?:src|href|url\(|@import)\s*=?\s*["']?(?!data:|#)\w*[:/]""", text)
    assert data_of(text)[0]["summary"]["finding"]["message"] == evil


def test_the_commands_write_pages(tmp_path, capsys):
    file = tmp_path / "page.html"
    assert main(["explore", "vfio.two_openers", "--report", str(file)]) == 0
    (silent,) = data_of(file.read_text())
    assert (silent["summary"]["verdict"], silent["run"]) == ("complete", None)
    assert main(["replay", "vfio.two_openers", "A3", "--report", str(file)]) == 0
    (replayed,) = data_of(file.read_text())
    assert replayed["run"]["steps"]
    assert replayed["command"] == "uvfio replay vfio.two_openers A3"
    capsys.readouterr()


def test_a_report_that_cannot_be_written_is_found_out_first(capsys):
    assert main(["explore", "vfio.two_openers", "--report", "/no/such/place.html"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "uvfio: the report must be writable: /no/such/place.html: No such file or directory\n"


def test_a_clone_has_any_name():
    """A file of the package is shown below it, any other by its name, wherever the checkout is."""
    assert shown_path(f"{PACKAGE}/linux/vfio/group.py") == "linux/vfio/group.py"
    assert shown_path("/home/me/uvfio/tests/mine.py") == "mine.py"
    assert shown_path("<string>") == "<string>"
