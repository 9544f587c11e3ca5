# SPDX-License-Identifier: GPL-2.0-only
"""
Answers of Linux 7.3.4 to random VFIO calls over edu, pci-testdev and e1000e
(docs/vfio-corpus.md): the stack gives the same ones, in process and to a real program.
"""

import json

import pytest
from corpus.checks import check_recording, check_replay, check_size
from corpus.choices import changes
from corpus.sessions import DATA
from vfio_corpus.__main__ import COMMANDS
from vfio_corpus.differences import BEHIND_A_PORT, DIFFERENCES
from vfio_corpus.findings import FINDINGS
from vfio_corpus.generate import THEMES, Session
from vfio_corpus.inprocess import answers_of, replay
from vfio_corpus.replay import CORPUS
from vfio_corpus.wire import PLAIN, VFIO

ANSWERS = 34_190


@pytest.fixture(scope="module")
def sessions():
    return CORPUS.load()


@pytest.fixture(scope="module")
def told():
    return json.loads((DATA / "vfio_findings.json").read_text())


def test_the_corpus_is_as_large_as_it_says(sessions):
    check_size(sessions, ANSWERS, THEMES)


def test_every_call_was_made_and_has_succeeded(sessions):
    succeeded = set()
    for session in sessions:
        for call, answer in zip(session["calls"], session["answers"], strict=True):
            result, _changed = changes(answer)
            if not (isinstance(result, str) and result.startswith("E")):
                succeeded.add(call[0])
    assert {*VFIO, *PLAIN, "GROUP_GET_DEVICE_FD", "edu_dma", "factorial", "mmap"} <= succeeded


@pytest.mark.parametrize("theme", sorted(THEMES))
def test_every_answer_in_process(sessions, theme):
    check_replay(sessions, theme, 9, replay)


@pytest.mark.live
def test_every_answer_to_a_real_program():
    mismatches, answers = COMMANDS.run_live(0, 1)
    assert not mismatches, "\n\n".join(map(str, mismatches))
    assert answers == ANSWERS


def test_the_generator_still_makes_these_calls(sessions):
    for recorded in sessions[:20]:
        session = Session(recorded["seed"])
        calls = []
        for call, answer in zip(session.calls, recorded["answers"], strict=True):
            calls.append(json.loads(json.dumps(call)))
            session.answer(call, answer)
        assert calls == recorded["calls"]


@pytest.mark.parametrize("name", sorted(FINDINGS))
def test_what_linux_does_wrong_is_done_likewise(told, name):
    assert answers_of(FINDINGS[name]) == told[name]["answers"]


@pytest.mark.parametrize("name", sorted({**DIFFERENCES, **BEHIND_A_PORT}))
def test_a_device_model_that_is_not_qemus_still_differs_where_it_is_said_to(told, name):
    why, calls = {**DIFFERENCES, **BEHIND_A_PORT}[name]
    ours, linux = answers_of(calls, name in BEHIND_A_PORT), told[name]["answers"]
    assert ours[:-1] == linux[:-1]
    assert ours[-1] != linux[-1], f"does not differ any more: {why}"


def test_the_document_says_how_the_models_differ():
    text = " ".join((DATA.parent.parent / "docs" / "vfio-corpus.md").read_text().split())
    for name, (why, _calls) in {**DIFFERENCES, **BEHIND_A_PORT}.items():
        assert f"| `{name}` | {why} |" in text
    for name in FINDINGS:
        assert f"| `{name}` |" in text


@pytest.mark.oracle
def test_the_reference_kernel_answers_the_same_again(sessions):
    check_recording(CORPUS, sessions)
