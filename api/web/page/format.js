import { element } from "./dom.js";

const grouped = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

// scaled is a quantity with three digits and a decimal prefix before its unit.
function scaled(n, unit) {
  let i = 0;
  for (; n >= 999.5 && i < 5; i++) n /= 1000;
  return `${short.format(n)}\u00a0${["", "k", "M", "G", "T", "P"][i]}${unit}`;
}

// count is a whole number with its digits in groups.
export const count = (n) => grouped.format(Number(n ?? 0));

// rate is a number for each second; a dash where it is not known.
export function rate(n) {
  if (n === null || n === undefined) return "–";
  return (n >= 10 || n === 0 ? grouped.format(Math.round(n)) : n.toFixed(1)) + "/s";
}

// bits is a rate of octets as bits.
export function bits(octets) {
  if (octets === null || octets === undefined) return "–";
  return scaled(octets * 8, "bit/s");
}

// octets with a decimal prefix.
export const octets = (n) => scaled(Number(n ?? 0), "B");

// time of day of an instant.
export const time = (text) => new Date(text).toLocaleTimeString([], { hourCycle: "h23" });

// word takes the prefix off the name of an enumeration's value.
export const word = (value, prefix) => (value ?? "").replace(prefix, "").toLowerCase().replaceAll("_", " ");

// milliseconds of a duration of the API, such as "0.012s".
export function milliseconds(duration) {
  const ms = parseFloat(duration) * 1000;
  return Number.isNaN(ms) ? "" : ms.toFixed(ms < 10 ? 2 : 1) + " ms";
}

// address marks text as an address.
export const address = (text) => element("span", { class: "address" }, text);

// state is a word with a colour that says nothing that the word does not.
export const state = (text, kind) => element("span", { class: kind }, text);

// since shows an instant by its distance from now; distances go on by
// themselves, see passed.
export function since(text, otherwise = "") {
  if (!text) return otherwise;
  return element("time", { datetime: text, title: new Date(text).toLocaleString() }, distance(text));
}

let ahead = 0; // of the daemon's clock before this one, in ms

// clock takes the daemon's time.
export function clock(text) {
  ahead = Date.parse(text) - Date.now();
}

function distance(text) {
  const s = Math.round((Date.parse(text) - Date.now() - ahead) / 1000);
  const n = Math.abs(s);
  const t = n < 120 ? `${n} s` : n < 7200 ? `${Math.round(n / 60)} min` : n < 172800 ? `${Math.round(n / 3600)} h` : `${Math.round(n / 86400)} d`;
  return s > 0 ? `in ${t}` : `${t} ago`;
}

// passed brings all distances up to date.
export function passed() {
  for (const e of document.querySelectorAll("time")) {
    const text = distance(e.dateTime);
    if (e.textContent !== text) e.textContent = text;
  }
}

// order is a text for an EID or an address by which they sort as numbers do.
export function order(text) {
  const [, iid, rest] = /^(?:\[(\d+)\])?(.*)$/.exec(text ?? "");
  const at = rest.search(/[/ ]/);
  const a = at < 0 ? rest : rest.slice(0, at);
  const length = /^\/(\d+)/.exec(at < 0 ? "" : rest.slice(at))?.[1] ?? "999";
  const pad = (s, n) => s.padStart(n, "0");
  let key = "z" + rest; // a name, after all addresses
  if (/^\d+\.\d+\.\d+\.\d+(:\d+)?$/.test(a)) {
    key = "4" + a.split(/[.:]/).map((p) => pad(p, 5)).join(".");
  } else if (a.includes(":")) {
    const [head, tail] = a.replace(/^\[|\](:\d+)?$/g, "").split("::");
    const high = head ? head.split(":") : [];
    const low = tail ? tail.split(":") : [];
    const zeros = tail === undefined ? [] : Array(Math.max(0, 8 - high.length - low.length)).fill("0");
    key = "6" + [...high, ...zeros, ...low].map((p) => pad(p, 4)).join(":");
  }
  return `${pad(iid ?? "0", 10)} ${key} ${pad(length, 3)}`;
}
