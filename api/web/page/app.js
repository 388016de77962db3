import { byID, element } from "./dom.js";
import { clock, count, passed, time } from "./format.js";
import { Table } from "./table.js";
import { Rates } from "./rates.js";
import { Events } from "./events.js";
import { eventColumns, figures, views } from "./views.js";

const fast = 2000; // ms between two looks at the counters
const slow = 6000; // ms between two looks at a view

// The daemon that this page is of, its views, and the one that is shown.
let program, all, shown;
let paused = false;
const rates = new Rates();
const events = new Events(() => shown?.view.events && !paused && shown.tables[0].show(events.rows));

// ask gets what the daemon tells under a name.
async function ask(name, query) {
  const r = await fetch(`api/${name}?${new URLSearchParams(query)}`, { signal: AbortSignal.timeout(8000) });
  const body = await r.json();
  if (!r.ok) throw new Error(body.error);
  clock(body.time);
  return body;
}

// place is where the address of the page points to: a view, and what is searched.
function place() {
  const [id, rest] = location.hash.slice(1).split("?");
  const query = new URLSearchParams(rest);
  return { view: all.find((v) => v.id === id) ?? all[0], q: query.get("q") ?? "", skip: Number(query.get("skip")) || 0 };
}

const address = ({ view, q, skip }) => `#${view.id}` + (q || skip ? `?${new URLSearchParams({ ...(q && { q }), ...(skip && { skip }) })}` : "");

// show draws the view that is pointed to, empty, then fills it.
async function show(focus) {
  const to = place();
  const { view } = to;
  shown = { ...to, tables: [], pages: [] };
  document.title = `${view.title} · ${program} · Eidolon`;
  byID("title").textContent = view.title;
  for (const a of byID("views").querySelectorAll("a")) {
    if (a.hash === `#${view.id}`) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  byID("search").hidden = !view.search;
  byID("what").textContent = view.search ?? "";
  byID("text").value = to.q;
  const parts = view.events ? [{ title: "Events", columns: eventColumns, key: (r) => r.id }] : view.parts;
  byID("view").replaceChildren(...parts.flatMap((p) => {
    const table = new Table(p.title, p.columns, p.key);
    const pages = element("div", { class: "pages" });
    shown.tables.push(table);
    shown.pages.push(pages);
    return [parts.length > 1 ? element("h2", {}, p.title) : null, table.node, pages].filter((n) => n);
  }));
  if (focus) byID("title").focus();
  await fill();
}

// fill brings what is shown up to date.
async function fill() {
  const at = shown;
  try {
    if (at.view.events) {
      await ask("eid", { q: at.q }); // or it says what is wrong
      if (at !== shown) return;
      events.watch(at.q);
      at.tables[0].show(events.rows);
    } else {
      await Promise.all(at.view.parts.map((p, i) => part(at, p, i)));
    }
    if (at === shown) problem("");
  } catch (e) {
    if (at === shown) problem(e.message);
  }
}

async function part(at, p, i) {
  if (p.counters) {
    const rows = rates.counters((name) => p.counters(name, at.q));
    at.tables[i].show(p.order ? rows.sort(p.order) : rows);
    return;
  }
  const { data } = await ask(p.from, at.view.search ? { q: at.q, skip: at.skip } : {});
  if (at !== shown) return;
  at.tables[i].show(data.rows);
  pages(at, at.pages[i], data);
}

// pages leads to the rows before and after those that are shown.
function pages(at, node, { rows, skip, limit, more }) {
  if (!more && !skip) {
    node.replaceChildren();
    return;
  }
  if (!node.firstChild) {
    const go = (text, to) => {
      const b = element("button", { type: "button" }, text);
      b.addEventListener("click", () => { location.hash = address({ ...at, skip: to }); });
      return b;
    };
    node.append(go("Before", Math.max(0, skip - limit)), element("span", {}), go("After", skip + limit));
  }
  const [before, text, after] = node.children;
  before.disabled = skip === 0;
  after.disabled = !more || !at.view.search;
  text.textContent = rows.length ? `${count(skip + 1)} to ${count(skip + rows.length)}${more ? "; there are more" : ""}` : "no more";
}

function problem(text) {
  byID("problem").hidden = !text;
  if (byID("problem").textContent !== text) byID("problem").textContent = text;
}

async function look() {
  try {
    const [status, statistics] = await Promise.all([ask("status"), ask("statistics")]);
    rates.take(statistics.time, statistics.data);
    const reasons = status.data.notReady;
    const health = reasons.length === 0 ? "ready" : `not ready: ${reasons.join("; ")}`;
    if (byID("health").textContent !== health) byID("health").textContent = health;
    byID("health").className = reasons.length === 0 ? "up" : "down";
    byID("figures").replaceChildren(...figures[program].map((f) => rates.figure(f)));
    byID("updated").textContent = `as of ${time(statistics.time)}`;
    return status.data;
  } catch (e) {
    byID("health").textContent = "the daemon does not answer";
    byID("health").className = "down";
    return null;
  }
}

// every calls f again and again, one call at a time, while the page is seen and
// not paused.
function every(ms, f) {
  setTimeout(async () => {
    if (!paused && !document.hidden) await f();
    every(ms, f);
  }, ms);
}

async function start() {
  let version;
  try {
    ({ data: { version } } = await ask("status"));
  } catch (e) {
    problem(`the daemon does not answer: ${e.message}`);
    setTimeout(start, slow);
    return;
  }
  program = version.program;
  all = views[program];
  byID("program").textContent = program;
  byID("version").textContent = `${program} ${version.version}`;
  byID("views").replaceChildren(...all.map((v) => element("li", {}, element("a", { href: `#${v.id}` }, v.title))));
  byID("search").addEventListener("submit", (e) => {
    e.preventDefault();
    location.hash = address({ view: shown.view, q: byID("text").value.trim(), skip: 0 });
  });
  byID("all").addEventListener("click", () => { location.hash = address({ view: shown.view, q: "", skip: 0 }); });
  byID("skip").addEventListener("click", (e) => {
    e.preventDefault();
    byID("main").focus();
  });
  byID("pause").addEventListener("click", () => {
    paused = !paused;
    byID("pause").setAttribute("aria-pressed", String(paused));
    if (!paused) fill();
  });
  addEventListener("hashchange", () => show(true));
  await look();
  await show(false);
  every(fast, async () => {
    await look();
    if (shown.view.parts?.some((p) => p.counters)) await fill();
  });
  every(slow, async () => {
    if (!shown.view.events && !shown.view.parts.some((p) => p.counters)) await fill();
  });
  setInterval(passed, 1000);
}

start();
