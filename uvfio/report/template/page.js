// SPDX-License-Identifier: GPL-2.0-only
"use strict";
// Walks through what report/html.py has prepared. Nothing is computed twice from the
// code: steps, values and places are those of the run.

const entries = JSON.parse(document.getElementById("data").textContent);
const COLOURS = 14;

/** An element: el("p.soft", {title: "..."}, "text", child). */
function el(kind, props, ...children) {
  const [tag, ...classes] = kind.split(".");
  const made = document.createElement(tag);
  made.classList.add(...classes);
  for (const [name, value] of Object.entries(props || {})) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(tag, props, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const plural = (n, word) => `${n} ${word}${n === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;

/** How an entry's verdict is shown: a bound, or an outcome never seen, is not green. */
function colourOf(summary) {
  const whole = summary.verdict === "complete" && !summary.expected && !(summary.unseen || []).length && typeof summary.preemptions !== "number";
  return summary.verdict === "found" ? "found" : whole ? "complete" : "other";
}

// ---- what is known of a run, worked out once -------------------------------------

class Run {
  constructor(data) {
    Object.assign(this, data);
    this.locks = new Map(); // number of a lock: its colour
    this.colours = new Map(); // lock class: its colour
    this.contendedThings = new Set(this.steps.filter((step) => step.contended).map((step) => step.thing));
    this.spans = []; // {task, lock, from, to, level, wait}
    this.tasks.forEach((task) => this.findSpans(task.name));
    this.tasks.forEach((task) => this.findWaits(task.name));
    this.deepest = Math.max(1, ...this.spans.map((span) => span.level + 1));
    this.steps.forEach((step) => step.held.forEach((lock) => this.colour(lock)));
  }

  colour(lock) {
    const lockClass = this.things[lock].replace(/#\d+$/, ""); // device.mutex and device.mutex#2 are one
    if (!this.colours.has(lockClass)) this.colours.set(lockClass, `var(--l${this.colours.size % COLOURS})`);
    this.locks.set(lock, this.colours.get(lockClass));
    return this.locks.get(lock);
  }

  place(step) {
    return step.stack.length ? this.places[step.stack[0]] : null;
  }

  findSpans(task) {
    const open = new Map();
    this.steps.forEach((step, i) => {
      if (step.task !== task) return;
      for (const [lock, span] of open) {
        if (!step.held.includes(lock)) {
          span.to = i;
          open.delete(lock);
        }
      }
      for (const lock of step.held) {
        if (open.has(lock)) continue;
        const taken = new Set([...open.values()].map((span) => span.level));
        let level = 0;
        while (taken.has(level)) level += 1;
        const span = { task, lock, from: i, to: this.steps.length, level, wait: false };
        open.set(lock, span);
        this.spans.push(span);
      }
    });
  }

  /** Where a task could not go on because another one held what it wanted. */
  findWaits(task) {
    let before = -1;
    this.steps.forEach((step, i) => {
      if (step.task !== task) return;
      if (step.kind === "blocked" || (step.kind === "lock" && before >= 0)) {
        const rival = this.spans.find(
          (span) => !span.wait && span.task !== task && span.lock === step.thing && span.from < i && span.to > before,
        );
        const own = this.spans.find((span) => span.task === task && span.lock === step.thing && span.from === i);
        const level = own ? own.level : step.held.length;
        if (rival || step.kind === "blocked") {
          const from = rival ? Math.max(before, rival.from) : before;
          this.spans.push({ task, lock: step.thing, from, to: step.kind === "blocked" ? this.steps.length : i, level, wait: true });
        }
      }
      before = i;
    });
  }

  /** Everything as it is once step *last* is done. */
  state(last) {
    const values = new Map();
    const freed = new Map();
    const tasks = new Map(this.tasks.map((task) => [task.name, { step: -1, held: new Map(), blocked: null }]));
    for (let i = 0; i <= last; i += 1) {
      const step = this.steps[i];
      const task = tasks.get(step.task);
      if (task) {
        const held = new Map(step.held.map((lock) => [lock, task.held.has(lock) ? task.held.get(lock) : i]));
        tasks.set(step.task, { step: i, held, blocked: step.kind === "blocked" ? step : null });
      }
      if (step.kind === "free") freed.set(step.thing, { step: i, task: step.task });
      if (step.thing < 0 || ["BUG", "blocked", "free", "start", "spawn"].includes(step.kind)) continue;
      const key = `${step.thing}.${step.field}`;
      const was = values.get(key);
      const changed = !was || was.value !== step.value || step.kind === "write";
      values.set(key, {
        thing: step.thing,
        field: step.field,
        value: step.value,
        contended: step.contended || Boolean(was && was.contended),
        by: changed && (step.writes || !was) ? { step: i, task: step.task, read: !step.writes } : was.by,
      });
    }
    return { values, freed, tasks };
  }
}

// ---- one run to step through -----------------------------------------------------

class Viewer {
  constructor(run, found, onMove) {
    this.run = run;
    this.onMove = onMove;
    this.frame = 0;
    this.onlyContended = found && run.steps.filter((step) => step.contended).length > 1;
    this.at = found ? run.steps.length - 1 : 0;
    this.root = el("div.viewer");
    this.build();
    new ResizeObserver(() => this.drawLanes()).observe(this.lanes);
    this.list();
    this.move(this.at);
  }

  build() {
    const button = (label, keys, title, act) => el("button", { type: "button", title: `${title} (${keys})`, "aria-label": title, click: act }, label);
    this.buttons = {
      first: button("|◀", "Home", "First step", () => this.jump(0)),
      back: button("◀", "←", "Step back", () => this.next(-1)),
      forward: button("▶", "→", "Step forward", () => this.next(1)),
      last: button("▶|", "End", "Last step", () => this.jump(this.run.steps.length - 1)),
    };
    this.slider = el("input", { type: "range", min: 0, max: this.run.steps.length - 1, "aria-label": "Step",
      input: () => this.jump(Number(this.slider.value)) });
    this.counter = el("output", { id: "counter" });
    this.filter = el("input", { type: "checkbox", id: "contended", change: () => this.setFilter(this.filter.checked) });
    this.filter.checked = this.onlyContended;
    const keys = [["←", "→"], ["Home", "End"], ["[", "]"], ["c"]].map((pair) => pair.map((key) => el("kbd", {}, key)));
    this.lanes = el("div.lanes", { "aria-hidden": "true" });
    this.steps = el("div.steps", { role: "listbox", tabindex: 0, "aria-label": "Steps", id: "steps" });
    this.steps.style.setProperty("--tasks", this.run.tasks.length);
    this.steps.style.setProperty("--deepest", this.run.deepest);
    this.title = el("h2");
    this.where = el("span.soft.mono");
    this.stack = el("div.stack", { role: "group", "aria-label": "Calls, outermost first" });
    this.code = el("div.code", { tabindex: 0, role: "region", "aria-label": "Source" });
    this.who = el("tbody");
    this.objects = el("tbody");
    this.live = el("div.silent", { "aria-live": "polite" });
    const table = (id, names, body) => el("table.table.mono", { id }, el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col" }, name)))), body);
    this.root.append(
      el("div.bar", {}, Object.values(this.buttons), this.slider, this.counter, el("label", {}, this.filter, "only contended steps"),
        el("span.keys", {}, keys[0], " step  ", keys[1], " ends  ", keys[2], " same task  ", keys[3], " contended")),
      this.lanes,
      el("div.split", {},
        el("section.panel.schedule", { "aria-label": "Schedule" }, this.steps),
        el("div.side", {},
          el("section.panel", { "aria-label": "Code" }, el("header", {}, this.title, this.where), this.stack, this.code),
          el("section.panel", {}, el("header", {}, el("h2", {}, "Who holds what")),
            el("div.body", {}, table("who", ["Task", "Holds · since step", "Is at"], this.who))),
          el("section.panel", {}, el("header", {}, el("h2", {}, "Objects after this step, latest change first")),
            el("div.body", {}, table("objects", ["Object", "Value", "Set by · step"], this.objects))))),
      this.live,
    );
  }

  visible(i) {
    return !this.onlyContended || this.run.steps[i].contended;
  }

  setFilter(on) {
    this.onlyContended = this.filter.checked = on;
    this.list();
    this.move(this.nearest(this.at));
  }

  nearest(i) {
    for (let off = 0; off < this.run.steps.length; off += 1) {
      for (const j of [i + off, i - off]) if (j >= 0 && j < this.run.steps.length && this.visible(j)) return j;
    }
    return i;
  }

  next(by, task) {
    for (let i = this.at + by; i >= 0 && i < this.run.steps.length; i += by) {
      if (this.visible(i) && (!task || this.run.steps[i].task === task)) return this.move(i);
    }
    return undefined;
  }

  jump(i) {
    this.move(this.nearest(i));
  }

  move(i) {
    this.at = Math.min(Math.max(i, 0), this.run.steps.length - 1);
    if (!this.visible(this.at)) {
      this.onlyContended = this.filter.checked = false; // asked for by number
      this.list();
    }
    this.frame = 0;
    this.show();
    this.onMove(this.at);
  }

  list() {
    const { run } = this;
    const heads = run.tasks.map((task, n) => el("span", {}, `CPU${n} (${task.name === task.comm ? task.name : `${task.name}: ${task.comm}`})`));
    this.rows = [];
    this.steps.classList.toggle("all", !this.onlyContended);
    const inside = {};
    run.steps.forEach((step, i) => {
      if (!this.visible(i)) return;
      const place = run.place(step);
      const enters = place && inside[step.task] !== place.function;
      if (place) inside[step.task] = place.function;
      const cells = run.tasks.map((task) => el("span.cell", {}, this.tracks(task.name, i),
        task.name === step.task || (!step.task && task === run.tasks[0])
          ? el("span.what", {}, enters ? el("span.in", {}, `${place.function}()`) : null, el("b", {}, step.text)) : null));
      const row = el(`div.step.${step.kind}`, { role: "option", id: `step${i}`, "data-step": i, click: () => this.move(i) },
        el("span.n", { "aria-label": `step ${i + 1}${step.task ? `, ${step.task}` : ""}${step.contended ? ", contended" : ""}` }, i + 1), cells);
      row.classList.toggle("contended", step.contended);
      this.rows[i] = row;
    });
    this.steps.replaceChildren(el("div.heads", { "aria-hidden": "true" }, el("span"), heads), ...this.rows.filter(Boolean));
  }

  tracks(task, i) {
    const bars = Array.from({ length: this.run.deepest }, () => el("i"));
    for (const span of this.run.spans) {
      if (span.task !== task || i < span.from || i > span.to) continue;
      const bar = bars[span.level];
      if (!bar) continue;
      const colour = this.run.colour(span.lock);
      bar.style.background = span.wait ? `repeating-linear-gradient(${colour} 0 2px, transparent 2px 5px)` : colour;
      bar.title = `${task} ${span.wait ? "waits for" : "holds"} ${this.run.things[span.lock]}`;
    }
    return el("span.tracks", {}, bars);
  }

  show() {
    const { run } = this;
    const step = run.steps[this.at];
    const state = run.state(this.at);
    this.slider.value = this.at;
    this.slider.setAttribute("aria-valuetext", `step ${this.at + 1}: ${step.text}`);
    this.counter.textContent = `step ${this.at + 1} of ${run.steps.length}`;
    this.buttons.first.disabled = this.buttons.back.disabled = this.at === this.nearest(0);
    this.buttons.last.disabled = this.buttons.forward.disabled = this.at === this.nearest(run.steps.length - 1);
    this.rows.forEach((row, i) => {
      row.setAttribute("aria-selected", i === this.at);
      row.classList.toggle("late", i > this.at);
    });
    const row = this.rows[this.at];
    if (row) {
      this.steps.setAttribute("aria-activedescendant", row.id);
      within(this.steps, row, this.steps.firstChild.offsetHeight);
    }
    const place = run.place(step);
    this.live.textContent = `Step ${this.at + 1}: ${step.task} ${step.text}${place ? ` in ${place.function}` : ""}`;
    this.drawLanes();
    this.showCode(step, state);
    this.showWho(state);
    this.showObjects(state);
  }

  showCode(step, state) {
    const { run } = this;
    this.title.textContent = `${step.task ? `${step.task}: ` : ""}${step.text.replace(/^<- /, "")}`;
    this.title.classList.toggle("badword", step.kind === "BUG" || step.kind === "blocked");
    this.stack.replaceChildren(...step.stack.map((_p, n) => step.stack.length - 1 - n).flatMap((n, i) => [
      i ? el("span.soft", { "aria-hidden": "true" }, "›") : "",
      el("button", { type: "button", "aria-pressed": n === this.frame, title: `${run.places[step.stack[n]].file}:${run.places[step.stack[n]].line}`,
        click: () => { this.frame = n; this.showCode(step, state); } }, run.places[step.stack[n]].function)]));
    const place = step.stack.length ? run.places[step.stack[this.frame]] : null;
    this.where.textContent = place ? `${place.file}:${place.line}` : "";
    if (!place) {
      this.code.replaceChildren(el("div.body.soft", {}, "Found when all tasks had ended: no line of code to show."));
      return;
    }
    const block = run.blocks[place.block];
    const others = new Map(); // line: letters of those who are there too
    for (const [name, task] of state.tasks) {
      const there = name !== step.task && task.step >= 0 && run.steps[task.step].stack.map((p) => run.places[p]).find((p) => p.block === place.block);
      if (there) others.set(there.line, (others.get(there.line) || "") + name);
    }
    const coloured = colour(block.lines);
    const rows = [];
    for (let n = 0; n <= block.lines.length; n += 1) {
      const line = block.first + n;
      for (const text of block.gone[line] || []) rows.push(el("div.row.gone", {}, el("span.no"), el("span.who"), el("span.src", {}, text)));
      if (n === block.lines.length) break;
      const here = line === place.line;
      const made = el("div.row", here ? { "aria-current": "true" } : {}, el("span.no", {}, line),
        el("span.who", {}, (here ? step.task : "") + (others.get(line) || "")), el("span.src", {}, ...coloured[n]));
      made.classList.toggle("here", here);
      made.classList.toggle("ran", block.added.includes(line));
      rows.push(made);
    }
    this.code.replaceChildren(...rows);
    const here = this.code.querySelector(".here");
    if (here) this.code.scrollTop = here.offsetTop - this.code.clientHeight / 2;
  }

  showWho(state) {
    const { run } = this;
    this.who.replaceChildren(...run.tasks.map(({ name }) => {
      const task = state.tasks.get(name);
      const held = [...task.held].map(([lock, since]) => el("div", {}, this.swatch(lock), run.things[lock], el("span.soft", {}, ` · ${since + 1}`)));
      const place = task.step >= 0 ? run.place(run.steps[task.step]) : null;
      const blocked = task.blocked && el("div.badword", {}, `waits for ${run.things[task.blocked.thing]}`);
      const nothing = held.length ? null : el("span.soft", {}, "nothing");
      return el(name === run.steps[this.at].task ? "tr.now" : "tr", { "data-task": name }, el("td", {}, name), el("td", {}, held, nothing, blocked),
        el("td", {}, place ? [`${place.function}()`, el("div.soft", {}, `${place.file}:${place.line}`)] : el("span.soft", {}, "not started")));
    }));
  }

  swatch(lock) {
    const made = el("i.swatch", { "aria-hidden": "true" });
    made.style.background = this.run.colour(lock);
    return made;
  }

  showObjects(state) {
    const { run } = this;
    const rows = [...state.values.values()].filter((row) => (row.field || row.value) && !run.locks.has(row.thing) && (!this.onlyContended || row.contended));
    const listed = new Set(rows.map((row) => row.thing));
    const wanted = (thing) => !listed.has(thing) && (!this.onlyContended || run.contendedThings.has(thing));
    for (const [thing] of state.freed) if (wanted(thing)) rows.push({ thing, field: "", value: "", by: null });
    const latest = (row) => Math.max(row.by ? row.by.step : -1, state.freed.has(row.thing) ? state.freed.get(row.thing).step : -1);
    rows.sort((a, b) => latest(b) - latest(a));
    this.objects.replaceChildren(...rows.map((row) => {
      const freed = state.freed.get(row.thing);
      const by = freed ? `freed by ${freed.task} · ${freed.step + 1}` : row.by.read ? "" : `${row.by.task} · ${row.by.step + 1}`;
      const made = el("tr", {}, el("td", {}, run.things[row.thing], row.field ? `.${row.field}` : ""),
        el("td", {}, row.value), el("td.soft", {}, by));
      made.classList.toggle("freed", Boolean(freed));
      made.classList.toggle("changed", freed ? freed.step === this.at : row.by.step === this.at && !row.by.read);
      return made;
    }));
    if (!rows.length) this.objects.replaceChildren(el("tr", {}, el("td.soft", { colspan: 3 }, "nothing touched yet")));
  }

  drawLanes() {
    const { run } = this;
    const width = this.lanes.clientWidth - 22;
    if (width <= 0) return;
    const left = 30;
    const deep = (task) => Math.max(1, ...run.spans.filter((span) => span.task === task).map((span) => span.level + 1));
    const x = (i) => left + ((i + 0.5) * (width - left)) / run.steps.length;
    const parts = [svg("defs", {}, svg("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("line", { x1: 0, x2: 0, y1: 0, y2: 5, class: "hatch", "stroke-width": 1.4 })))];
    const tops = {};
    let y = 4;
    for (const { name } of run.tasks) {
      tops[name] = y;
      parts.push(svg("text", { x: 4, y: y + 11 }, name), svg("line", { class: "rail", x1: left, x2: width, y1: y + 7, y2: y + 7 }));
      y += 20 + deep(name) * 7;
    }
    for (const span of run.spans) {
      const from = x(Math.max(span.from, 0));
      const bar = svg("rect", { x: from, y: tops[span.task] + 15 + span.level * 7, height: 5, rx: 1.5,
        width: Math.max(x(Math.min(span.to, run.steps.length - 0.5)) - from, 2) });
      if (span.wait) bar.setAttribute("class", "wait");
      else bar.style.fill = run.colour(span.lock);
      bar.append(svg("title", {}, `${span.task} ${span.wait ? "waits for" : "holds"} ${run.things[span.lock]}, step ${span.from + 1} to ${Math.min(span.to + 1, run.steps.length)}`));
      parts.push(bar);
    }
    run.steps.forEach((step, i) => {
      const big = step.kind === "BUG" || step.kind === "blocked";
      const height = big ? 14 : step.contended ? 11 : 5;
      const tick = Math.min(3, Math.max(1, ((width - left) / run.steps.length) * 0.6)) + (big ? 2 : 0);
      const top = step.task ? tops[step.task] : 0;
      parts.push(svg("rect", { class: `tick ${step.kind}${step.contended ? " contended" : ""}`, x: x(i) - tick / 2, y: top + 7 - height / 2, width: tick, height }));
    });
    parts.push(svg("line", { class: "cursor", x1: x(this.at), x2: x(this.at), y1: 0, y2: y }));
    const drawing = svg("svg", { width, height: y, viewBox: `0 0 ${width} ${y}` }, ...parts);
    drawing.addEventListener("click", (event) => {
      const share = (event.clientX - drawing.getBoundingClientRect().left - left) / (width - left);
      this.jump(Math.min(Math.max(Math.floor(share * run.steps.length), 0), run.steps.length - 1));
    });
    const legend = [...run.colours].map(([lockClass, hue]) => {
      const mark = el("i");
      mark.style.background = hue;
      return el("span.mono", {}, mark, lockClass);
    });
    this.lanes.replaceChildren(drawing, el("div.legend", {}, legend));
  }

  key(event) {
    const task = this.run.steps[this.at].task;
    const act = {
      ArrowRight: () => this.next(1), ArrowDown: () => this.next(1), j: () => this.next(1), n: () => this.next(1),
      ArrowLeft: () => this.next(-1), ArrowUp: () => this.next(-1), k: () => this.next(-1), p: () => this.next(-1),
      Home: () => this.jump(0), End: () => this.jump(this.run.steps.length - 1),
      "]": () => this.next(1, task), "[": () => this.next(-1, task), c: () => this.setFilter(!this.onlyContended),
    }[event.key];
    const scrolls = event.target.closest && event.target.closest(".code, .chooser, pre");
    if (!act || event.ctrlKey || event.metaKey || event.altKey || event.target === this.slider || (scrolls && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    act();
  }
}

/** Scroll *box* so that *row* is in sight below its sticky head, and nothing else moves. */
function within(box, row, head) {
  const top = row.offsetTop - head - 40;
  const bottom = row.offsetTop + row.offsetHeight + 60;
  if (box.scrollTop > top) box.scrollTop = top;
  else if (box.scrollTop + box.clientHeight < bottom) box.scrollTop = bottom - box.clientHeight;
}

const TOKEN = /("""[^]*?(?:"""|$)|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|#[^\n]*)|\b(and|as|assert|break|class|continue|def|del|elif|else|except|finally|for|from|if|import|in|is|lambda|not|or|pass|raise|return|try|while|with|yield|None|True|False)\b/g;

/** The lines as nodes: comments and strings soft, words of the language bold. */
function colour(lines) {
  const text = lines.join("\n");
  const out = [[]];
  const put = (piece, tag) => piece.split("\n").forEach((part, n) => {
    if (n) out.push([]);
    if (part) out[out.length - 1].push(tag ? el(tag, {}, part) : part);
  });
  let last = 0;
  for (const found of text.matchAll(TOKEN)) {
    put(text.slice(last, found.index));
    put(found[0], found[1] ? "span.soft" : "b");
    last = found.index + found[0].length;
  }
  put(text.slice(last));
  return out;
}

// ---- the page --------------------------------------------------------------------

function verdict(entry) {
  const { summary } = entry;
  const { finding, verdict: said } = summary;
  if (said === "known") return `Known bug of today's Linux: ${finding.kind}`;
  if (finding) return said === "known" ? `Known bug of today's Linux: ${finding.kind}` : `BUG: ${finding.kind}`;
  if (said === "complete" && summary.expected) return `Complete, but the known bug of Linux is gone: ${summary.expected}`;
  if (said === "complete" && (summary.unseen || []).length) return "Complete, but an outcome is never seen: the scenario has lost its teeth";
  if (said === "complete" && typeof summary.preemptions === "number") return `Complete up to ${plural(summary.preemptions, "preemption")}: nothing found`;
  if (said === "complete") return "Complete: every interleaving tried, nothing found";
  if (summary.policy === "replay") return "One schedule: nothing found";
  return said === "sampled" ? "Sampled: nothing found" : `Not complete: ${said}`;
}

function counts(summary) {
  const classes = summary.executions - summary.cut_off;
  const many = summary.finding ? `found in execution ${summary.executions}` : plural(classes, "class");
  return `${many}, ${summary.cut_off} cut off, deepest ${plural(summary.deepest, "step")}, ${summary.seconds} s, policy ${summary.policy}`;
}

function copyable(text) {
  const code = el("code", {}, text);
  const button = el("button", { type: "button", click: () => {
    getSelection().selectAllChildren(code);
    const copied = document.execCommand("copy"); // navigator.clipboard is not there for file://
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } }, "Copy");
  return el("div.command", {}, code, button);
}

function head(entry) {
  const { summary } = entry;
  const outcomes = Object.entries(summary.outcomes || {});
  return el("header", {},
    el(`h1.${colourOf(summary)}`, { id: "verdict" }, verdict(entry)),
    summary.finding ? el("div.message", { id: "message" }, summary.finding.message) : null,
    el("p", {}, el("strong.mono", {}, summary.scenario), "  ", entry.question),
    el("p.soft", { id: "counts" }, counts(summary)),
    outcomes.length && !summary.finding ? el("table.table", { id: "outcomes" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Outcome"), el("th.n", { scope: "col" }, "Classes"))),
      el("tbody", {}, [...outcomes, ...(summary.unseen || []).map((name) => [name, "never seen"])].map(([name, n]) => el("tr", {}, el("td.mono", {}, name), el("td.n", {}, n))))) : null,
    entry.command ? copyable(entry.command) : null);
}

function overview(chosen, choose) {
  const rows = entries.map((entry, n) => el("tr", n === chosen ? { "aria-current": "true" } : {},
    el("td.mono", {}, el("button", { type: "button", click: () => choose(n) }, entry.summary.scenario)),
    el(`td.verdict.${colourOf(entry.summary)}`, {}, entry.summary.finding ? `${entry.summary.verdict === "known" ? "known: " : ""}${entry.summary.finding.kind}` : entry.summary.verdict),
    el("td.n", {}, entry.summary.executions - entry.summary.cut_off), el("td.n", {}, entry.summary.cut_off),
    el("td.n", {}, entry.summary.deepest), el("td.n", {}, entry.summary.seconds), el("td", {}, entry.question)));
  const names = [["Scenario"], ["Verdict"], ["Classes", 1], ["Cut off", 1], ["Deepest", 1], ["Seconds", 1], ["Question"]];
  return el("div.chooser", { tabindex: 0, role: "region", "aria-label": "Scenarios" }, el("table.table", { id: "scenarios" },
    el("thead", {}, el("tr", {}, names.map(([name, n]) => el(n ? "th.n" : "th", { scope: "col" }, name)))), el("tbody", {}, rows)));
}

let viewer = null;

function open(n, step) {
  const entry = entries[n];
  const found = Boolean(entry.summary.finding);
  viewer = null;
  const remember = (at) => history.replaceState(null, "", `#${n + 1}.${at + 1}`);
  if (entry.run) viewer = new Viewer(new Run(entry.run), found, remember);
  document.getElementById("page").replaceChildren(...[
    entries.length > 1 ? overview(n, open) : null,
    el(viewer ? "section.case.run" : "section.case", {}, head(entry), viewer && viewer.root)].filter(Boolean));
  if (viewer) viewer.move(step === undefined ? viewer.at : step);
  const chosen = document.querySelector(".chooser [aria-current]");
  if (chosen) within(chosen.closest(".chooser"), chosen, 0);
}

document.addEventListener("keydown", (event) => viewer && viewer.key(event));
const asked = /^#(\d+)\.(\d+)$/.exec(location.hash);
const firstOf = (...verdicts) => entries.findIndex((entry) => verdicts.includes(entry.summary.verdict));
const first = [firstOf("found"), firstOf("known"), 0].find((n) => n >= 0);
if (asked && entries[asked[1] - 1]) open(asked[1] - 1, asked[2] - 1);
else open(first);
