# SPDX-License-Identifier: GPL-2.0-only
"""The web page in a real browser: stepping, what is shown at each step, both schemes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from report_runs import RUNS, entry
from shared import need_module, need_program

from uvfio.report.html import Entry, page


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    chromium = need_program("chromium", "chromium")
    driver = need_program("chromedriver", "chromium-driver")
    webdriver = need_module("selenium.webdriver", "selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--window-size=1400,900",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield Browser(made)
    made.quit()


class Browser:
    """What a reader does and sees."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, directory, *entries: Entry) -> None:
        file = directory / "page.html"
        file.write_text(page(entries), encoding="utf-8")
        self.driver.get("about:blank")
        self.driver.get(file.as_uri())

    def js(self, script: str, *args):
        return self.driver.execute_script(f"return {script}", *args)

    def press(self, key: str) -> None:
        self.js("void document.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))", key)

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def text(self, selector: str) -> str:
        return self.js("document.querySelector(arguments[0]).textContent", selector)

    def texts(self, selector: str) -> list[str]:
        return self.js("[...document.querySelectorAll(arguments[0])].map((found) => found.textContent)", selector)

    def step(self) -> int:
        """The step in hand, from 0; the counter and the marked row must agree."""
        shown = int(re.fullmatch(r"step (\d+) of \d+", self.text("#counter"))[1]) - 1
        assert self.js("[...document.querySelectorAll('[aria-selected=true]')].map((row) => row.dataset.step)") == [
            str(shown)
        ]
        return shown

    def complaints(self) -> list:
        return self.driver.get_log("browser")


@pytest.mark.parametrize("name", [name for name in RUNS if name != "toy.silent"])
def test_stepping_shows_each_step_its_line_and_its_locks(name, browser, tmp_path):
    made = entry(name, RUNS[name])
    steps = made.trace.steps
    browser.open(tmp_path, made)
    if browser.js("document.getElementById('contended').checked"):
        browser.press("c")
    browser.press("Home")
    for n, step in enumerate(steps):
        assert browser.step() == n
        assert browser.text("[aria-selected=true] b") == step.text
        if step.stack:
            assert browser.text(".code .here .no") == str(step.place.line)
            assert browser.text(".code .here .who").startswith(step.task)
            assert browser.text(".panel header .mono") == str(step.place)
        for lock in step.held:
            assert made.trace.objects.names[lock] in browser.text(f"#who [data-task={step.task}]")
        if step.task and not step.held and step.kind != "blocked":
            assert "nothing" in browser.text(f"#who [data-task={step.task}]")
        browser.press("ArrowRight")
    assert browser.step() == len(steps) - 1, "the last step is the last"
    assert browser.complaints() == []


def test_it_opens_at_the_finding_with_what_to_do_about_it(browser, tmp_path):
    made = entry("toy.use_after_free", RUNS["toy.use_after_free"])
    browser.open(tmp_path, made)
    assert browser.text("#verdict") == "BUG: use-after-free"
    assert browser.text("#message") == made.summary["finding"]["message"]
    assert browser.text(".command code") == made.command
    assert browser.step() == len(made.trace.steps) - 1
    assert browser.text("#plain pre") == made.text
    freed = browser.texts("#objects tr.freed")
    assert any("Node#2" in row and "freed by B" in row for row in freed)


def test_objects_have_the_values_of_the_step(browser, tmp_path):
    made = entry("toy.lost_update", RUNS["toy.lost_update"])
    browser.open(tmp_path, made)
    for n, step in enumerate(made.trace.steps):
        if step.kind == "write":
            browser.js("void (location.hash = `#1.${arguments[0]}`)", n + 1)
            browser.js("void open(0, arguments[0])", n)
            (row,) = browser.texts("#objects tr.changed")
            assert row == f"{step.what}.{step.field}{step.value}{step.task} · {n + 1}"


def test_only_contended_steps_or_all(browser, tmp_path):
    made = entry("toy.broken_while_locked", RUNS["toy.broken_while_locked"])
    browser.open(tmp_path, made)
    contended = [step.text for step in made.trace.contended()]
    assert 1 < len(contended) < len(made.trace.steps)
    assert browser.texts(".step b") == contended
    browser.click("#contended")
    assert browser.texts(".step b") == [step.text for step in made.trace.steps]
    assert len(browser.texts(".step.contended")) == len(contended)
    browser.press("c")
    assert browser.texts(".step b") == contended


def test_a_step_asked_for_by_number_is_shown_even_if_it_is_not_contended(browser, tmp_path):
    made = entry("toy.broken_while_locked", RUNS["toy.broken_while_locked"])
    hidden = next(n for n, step in enumerate(made.trace.steps) if step not in made.trace.contended())
    browser.open(tmp_path, made)
    browser.js("void open(0, arguments[0])", hidden)
    assert browser.step() == hidden


def test_buttons_rows_lanes_and_calls(browser, tmp_path):
    made = entry("toy.deadlock", RUNS["toy.deadlock"])
    browser.open(tmp_path, made)
    last = len(made.trace.steps) - 1
    browser.click("[aria-label='First step']")
    assert browser.step() == 0
    assert browser.js("document.querySelector(\"[aria-label='Step back']\").disabled")
    browser.click("[aria-label='Step forward']")
    assert browser.step() == 1
    browser.click("[aria-label='Last step']")
    assert browser.step() == last
    browser.click("[data-step='1']")
    assert browser.step() == 1
    browser.press("End")
    browser.press("[")
    assert made.trace.steps[browser.step()].task == made.trace.steps[last].task
    browser.click(".lanes svg")  # in the middle
    assert 0 < browser.step() < last
    outer = browser.text(".stack button")
    browser.click(".stack button")
    assert browser.text(".stack [aria-pressed=true]") == outer
    assert f"def {outer}(" in browser.text(".code")
    waits = browser.texts(".lanes rect.wait title")
    assert [re.sub(", step.*", "", wait) for wait in waits] == ["A waits for m", "B waits for k"]
    assert browser.complaints() == []


def test_lock_spans_begin_and_end_with_the_lock(browser, tmp_path):
    made = entry("toy.use_after_free", RUNS["toy.use_after_free"])
    browser.open(tmp_path, made)
    taken = {}
    spans = []
    for n, step in enumerate(made.trace.steps, 1):
        if step.kind == "lock":
            taken[step.task] = n
        elif step.kind == "unlock":
            spans.append(f"{step.task} holds root.lock, step {taken[step.task]} to {n}")
    assert browser.texts(".lanes rect:not(.wait) title") == spans


def test_several_scenarios_in_one_page(browser, tmp_path):
    made = [entry(name, run) for name, run in RUNS.items()]
    browser.open(tmp_path, *reversed(made))
    assert browser.text("#verdict") == "BUG: warning", "it opens at the first finding"
    rows = browser.texts("#scenarios tbody tr")
    assert len(rows) == len(RUNS)
    browser.click("#scenarios tbody tr:first-child button")
    assert browser.text("#verdict") == "Complete: every interleaving tried, nothing found"
    assert re.match(r"\d+ classes, 0 cut off, deepest \d+ steps, ", browser.text("#counts"))
    assert browser.text("#outcomes tbody tr").startswith("one outcome")
    browser.click("#scenarios tbody tr:last-child button")
    assert browser.text("#verdict") == "BUG: deadlock"
    assert browser.complaints() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preemptions": 2}, "Complete up to 2 preemptions: nothing found"),
        ({"unseen": ["EBUSY opened"]}, "Complete, but an outcome is never seen: the scenario has lost its teeth"),
        ({"expected": "leak"}, "Complete, but the known bug of Linux is gone: leak"),
        ({"verdict": "budget ended"}, "Not complete: budget ended"),
        ({"verdict": "sampled"}, "Sampled: nothing found"),
    ],
)
def test_a_silent_search_says_how_far_its_word_goes(change, said, browser, tmp_path):
    silent = entry("toy.silent", RUNS["toy.silent"])
    browser.open(tmp_path, Entry({**silent.summary, **change}, silent.question))
    assert browser.text("#verdict") == said
    assert browser.js("document.querySelector('#verdict').className") == "other"


def test_nothing_is_fetched(browser, tmp_path):
    browser.open(tmp_path, entry("toy.deadlock", RUNS["toy.deadlock"]))
    assert browser.js("performance.getEntriesByType('resource').length") == 0


CONTRAST = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (text) => rgb(text).map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const probe = document.body.appendChild(document.createElement("i"));
  const of = (name) => { probe.style.color = `var(--${name})`; return light(getComputedStyle(probe).color); };
  const bad = [];
  for (const ink of ["ink", "soft", "bad", "good", "wait"]) for (const paper of ["paper", "panel"]) {
    const [a, b] = [of(ink), of(paper)].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push([ink, paper, (a + 0.05) / (b + 0.05)]);
  }
  probe.remove();
  return bad;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_in_light_and_dark(scheme, browser, tmp_path):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.open(tmp_path, entry("toy.deadlock", RUNS["toy.deadlock"]))
    paper = browser.js("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 384) == (scheme == "light")
    assert browser.js(CONTRAST) == []


@pytest.mark.parametrize("width", [480, 1000, 1800])
def test_no_width_makes_the_page_scroll_sideways(width, browser, tmp_path):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.open(tmp_path, *[entry(name, run) for name, run in RUNS.items()])
        assert browser.js("document.scrollingElement.scrollWidth") <= width
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
