import { drawing, element } from "./dom.js";

const kept = 61; // samples: two minutes with one in 2 s

// Rates makes rates of counters that are asked for again and again.
export class Rates {
  constructor() {
    this.samples = []; // {at, counters, gauges}, the oldest first
  }

  // take adds what the daemon told at an instant. One that was started again
  // counts from zero.
  take(at, { counters, gauges }) {
    const last = this.samples.at(-1);
    if (last && Object.entries(counters).some(([n, v]) => v < (last.counters[n] ?? 0))) this.samples = [];
    this.samples.push({ at: Date.parse(at), counters, gauges });
    if (this.samples.length > kept) this.samples.shift();
  }

  // between is the rate of the counters that of chooses between two samples;
  // null where there are none.
  between(a, b, of) {
    if (!a || !b || b.at <= a.at) return null;
    let sum = 0;
    for (const [name, v] of Object.entries(b.counters)) if (of(name)) sum += v - (a.counters[name] ?? 0);
    return (sum * 1000) / (b.at - a.at);
  }

  now(of) {
    return this.between(this.samples.at(-2), this.samples.at(-1), of);
  }

  minute(of) {
    const last = this.samples.at(-1);
    return this.between(this.samples.find((s) => s.at >= last.at - 61000), last, of);
  }

  // counters are the rows of those that choose takes.
  counters(choose) {
    return Object.entries(this.samples.at(-1)?.counters ?? {}).filter(([name]) => choose(name)).map(([name, value]) => {
      const of = (n) => n === name;
      return { name, value, now: this.now(of), minute: this.minute(of) };
    });
  }

  // figure draws one figure.
  figure({ title, of, gauge, as }) {
    const values = gauge
      ? this.samples.map((s) => s.gauges[gauge] ?? 0)
      : this.samples.slice(1).map((s, i) => this.between(this.samples[i], s, of) ?? 0);
    const now = values.length > 0 ? values.at(-1) : null;
    return element("div", {}, element("dt", {}, title), element("dd", {}, now === null ? "–" : as(now), line(values)));
  }
}

// line is for the eye only: the number says what is now.
function line(values) {
  const top = Math.max(...values, 1);
  const step = 100 / (kept - 2);
  const x = (i) => (100 - (values.length - 1 - i) * step).toFixed(1);
  const points = values.map((v, i) => `${x(i)} ${(19 - (17 * v) / top).toFixed(1)}`);
  const parts = points.length > 1 ? [
    drawing("path", { class: "under", d: `M${x(0)} 20L${points.join("L")}L100 20Z` }),
    drawing("path", { d: `M${points.join("L")}` }),
  ] : [];
  return drawing("svg", { viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" }, ...parts);
}
