// What the page shows of each daemon: views, each of parts, which are tables of
// what the daemon tells under a name. See api/webpage.go for the rows.
import { element } from "./dom.js";
import { address, bits, count, milliseconds, octets, order, rate, since, state, time, word } from "./format.js";

const number = (title, of) => ({ title, number: true, cell: (r) => count(of(r)), sort: (r) => Number(of(r) ?? 0) });
const instant = (title, of, otherwise) => ({ title, cell: (r) => since(of(r), otherwise), sort: (r) => Date.parse(of(r)) || 0 });
const plain = (title, of) => ({ title, cell: of, sort: (r) => (of(r) ?? "").toLowerCase() });
const addressed = (title, of) => ({ title, cell: (r) => address(of(r) ?? ""), sort: (r) => order(of(r)) });

const list = (items, more) => element("ul", {}, items.map((i) => element("li", {}, i)), more > 0 ? element("li", { class: "note" }, `and ${count(more)} more`) : null);

// link leads to a view with a search.
export const link = (view, text, shown) => element("a", { href: `#${view}?q=${encodeURIComponent(text)}` }, shown ?? text);

function locatorState(l) {
  if (!l.address) return state("not an address", "note");
  if (!l.reachable) return state("down", "down");
  if ((l.priority ?? 0) === 255) return state("not for unicast", "doubt");
  return state("up", "up");
}

function locators(record, names, total) {
  const all = record?.locators ?? [];
  if (all.length === 0) return word(record?.action, "ACTION_") || "none";
  return list(all.map((l, i) => [
    address(names?.[i] ?? l.address ?? "other"), " ", locatorState(l),
    element("span", { class: "note" }, ` ${l.priority ?? 0}/${l.weight ?? 0}`),
  ]), (total ?? all.length) - all.length);
}

const traffic = (of) => [
  { title: "Sent", number: true, cell: (r) => `${count(of(r)?.packetsOut)} (${octets(of(r)?.bytesOut)})`, sort: (r) => Number(of(r)?.packetsOut ?? 0) },
  { title: "Received", number: true, cell: (r) => `${count(of(r)?.packetsIn)} (${octets(of(r)?.bytesIn)})`, sort: (r) => Number(of(r)?.packetsIn ?? 0) },
];

const sites = {
  from: "sites",
  title: "Sites",
  key: (r) => JSON.stringify([r.site.name, r.site.shadowed]),
  columns: [
    { title: "Site", cell: (r) => list([
      r.site.name,
      r.site.origin === "SITE_ORIGIN_API" ? element("span", { class: "note" }, "put by the API") : null,
      r.site.shadowed ? state(`no effect: ${r.site.shadowed}`, "doubt") : null,
    ].filter((x) => x)), sort: (r) => r.site.name.toLowerCase() },
    { title: "EID-prefixes", cell: (r) => list((r.site.prefixes ?? []).map((p) => [link("mappings", p.eid, address(p.eid)), element("span", { class: "note" }, ` ${count(p.registered)} registered`)]), r.prefixes - (r.site.prefixes?.length ?? 0)) },
    { title: "Locators", cell: (r) => r.locators.length === 0 ? "none" : list(r.locators.map((l) => [
      address(l.name), " ",
      l.reachable === l.mappings ? state("up", "up") : l.reachable === 0 ? state("down", "down") : state(`up in ${l.reachable} of ${l.mappings}`, "doubt"),
    ])) },
    { title: "Registrations", cell: (r) => list([
      r.site.registrations ? state("registered", "up") : state("not registered", "down"),
      element("span", { class: "note" }, `${count(r.site.registrations)} of ${count(r.site.maxRegistrations)}`),
    ]), sort: (r) => r.site.registrations ?? 0 },
    { title: "Map-Registers", cell: (r) => list([
      `${count(r.site.accepted)} accepted`,
      Number(r.site.refused ?? 0) ? state(`${count(r.site.refused)} refused`, "doubt") : null,
      Number(r.site.authFailures ?? 0) ? state(`${count(r.site.authFailures)} not authentic`, "doubt") : null,
    ].filter((x) => x)), sort: (r) => Number(r.site.refused ?? 0) * 1e9 + Number(r.site.accepted ?? 0) },
    instant("Last heard", (r) => r.site.lastRegistration, "never"),
  ],
};

const mappings = {
  from: "mappings",
  title: "Mappings",
  key: (r) => r.mapping.record.eid,
  columns: [
    addressed("EID-prefix", (r) => r.mapping.record.eid),
    { title: "Locators", cell: (r) => locators(r.mapping.record, r.names, r.locators) },
    plain("Site", (r) => r.mapping.site ?? ""),
    plain("Origin", (r) => word(r.mapping.origin, "MAPPING_ORIGIN_")),
    plain("Answered by", (r) => r.mapping.forwarded ? "an ETR" : "the map-server"),
    { title: "TTL", number: true, cell: (r) => `${count(r.mapping.record.recordTtl)} min`, sort: (r) => r.mapping.record.recordTtl ?? 0 },
    { title: "Registered by", cell: (r) => r.registrations === 0 ? "" : list((r.mapping.registrations ?? []).map((g) => [address(g.from ?? g.xtrId ?? "not seen yet"), element("span", { class: "note" }, " expires ", since(g.expires))]), r.registrations - (r.mapping.registrations?.length ?? 0)), sort: (r) => r.registrations },
  ],
};

const localLocators = {
  from: "locators",
  title: "Locators of this router",
  key: (r) => `${r.interface ?? ""} ${r.address}`,
  columns: [
    plain("Interface", (r) => r.interface || "–"),
    addressed("Locator", (r) => r.address),
    { title: "State", cell: (r) => {
      const s = word(r.state, "LOCAL_LOCATOR_STATE_");
      return list([
        state(s, s === "up" ? "up" : s === "held" ? "doubt" : "down"),
        r.heldUntil ? ["used again ", since(r.heldUntil)] : null,
        r.drained ? state("drained", "doubt") : null,
      ].filter((x) => x));
    }, sort: (r) => r.state },
    { title: "Priority/weight", number: true, cell: (r) => `${r.priority ?? 0}/${r.weight ?? 0}`, sort: (r) => (r.priority ?? 0) * 256 - (r.weight ?? 0) },
    { title: "Paths", number: true, cell: (r) => `${count(r.paths)}${r.pathsDown ? `, ${count(r.pathsDown)} down` : ""}`, sort: (r) => r.pathsDown ?? 0 },
    number("Flaps", (r) => r.flaps),
    instant("Last reply", (r) => r.lastReply, "never"),
    ...traffic((r) => r.traffic),
  ],
};

const registrationKinds = { registered: "up", sent: "up", pending: "doubt", unconfirmed: "down", withdrawn: "note" };

const database = {
  from: "database",
  title: "EID-prefixes of this site",
  key: (r) => r.database.record.eid,
  columns: [
    addressed("EID-prefix", (r) => r.database.record.eid),
    { title: "Locators", cell: (r) => locators(r.database.record, r.names, r.locators) },
    { title: "Registrations", cell: (r) => list((r.database.registrations ?? []).map((g) => {
      const s = word(g.state, "REGISTRATION_STATE_");
      return [address(g.mapServer), " ", state(s, registrationKinds[s]), element("span", { class: "note" }, " ", since(g.lastNotify))];
    })) },
  ],
};

const servers = {
  from: "servers",
  title: "Map-servers",
  key: (r) => r.address,
  columns: [
    addressed("Map-server", (r) => r.address),
    { title: "Registered", number: true, cell: (r) => `${count(r.registered)} of ${count(r.databaseMappings)}`, sort: (r) => r.registered ?? 0 },
    instant("Last Map-Notify", (r) => r.lastNotify, "never"),
    number("Unanswered", (r) => r.failures),
    { title: "Round trip", number: true, cell: (r) => milliseconds(r.roundTripTime), sort: (r) => parseFloat(r.roundTripTime) || 0 },
  ],
};

const resolvers = {
  from: "resolvers",
  title: "Map-resolvers",
  key: (r) => r.address,
  columns: [
    addressed("Map-resolver", (r) => r.address),
    { title: "State", cell: (r) => r.up ? state("up", "up") : state("down", "down"), sort: (r) => (r.up ? 1 : 0) },
    number("Map-Requests", (r) => r.requests),
    number("Map-Replies", (r) => r.replies),
    number("Timeouts", (r) => r.timeouts),
    { title: "Round trip", number: true, cell: (r) => milliseconds(r.roundTripTime), sort: (r) => parseFloat(r.roundTripTime) || 0 },
    instant("Last reply", (r) => r.lastReply, "never"),
  ],
};

const cache = {
  from: "cache",
  title: "Map-cache",
  key: (r) => r.entry.record.eid,
  columns: [
    addressed("EID-prefix", (r) => r.entry.record.eid),
    { title: "Locators", cell: (r) => locators(r.entry.record, r.names, r.locators) },
    instant("Installed", (r) => r.entry.installed),
    instant("Expires", (r) => r.entry.expires),
    instant("Last used", (r) => r.entry.lastUsed, "never"),
    ...traffic((r) => r.entry.traffic),
  ],
};

const remote = {
  from: "remote",
  title: "Locators of other sites",
  key: (r) => r.address,
  columns: [
    addressed("Locator", (r) => r.address),
    { title: "State", cell: (r) => r.up ? state("up", "up") : state("down", "down"), sort: (r) => (r.up ? 1 : 0) },
    { title: "Paths", cell: (r) => list((r.paths ?? []).map((p) => ["from ", address(p.local), " ", p.up ? state("up", "up") : state("down", "down"), element("span", { class: "note" }, ` ${milliseconds(p.roundTripTime)}`)])) },
    { title: "Round trip", number: true, cell: (r) => milliseconds(r.roundTripTime), sort: (r) => parseFloat(r.roundTripTime) || 0 },
    number("Probes", (r) => r.probes),
    number("Replies", (r) => r.replies),
    instant("Last used", (r) => r.lastUsed, "never"),
    { title: "Sent", number: true, cell: (r) => `${count(r.traffic?.packetsOut)} (${octets(r.traffic?.bytesOut)})`, sort: (r) => Number(r.traffic?.packetsOut ?? 0) },
  ],
};

// faint shows what is zero so that the rest is seen.
const faint = (n, as) => n ? as(n) : element("span", { class: "note" }, as(n));

// A counter is {name, value, now, minute}; see rates.js.
const counters = [
  { title: "Counter", cell: (r) => address(r.name), sort: (r) => r.name },
  { title: "Value", number: true, cell: (r) => faint(r.value, count), sort: (r) => r.value },
  { title: "Now", number: true, cell: (r) => faint(r.now, rate), sort: (r) => r.now ?? -1 },
  { title: "Last minute", number: true, cell: (r) => faint(r.minute, rate), sort: (r) => r.minute ?? -1 },
];

const byName = (r) => r.name;

export const eventColumns = [
  { title: "Time", cell: (r) => time(r.time), sort: (r) => r.id },
  plain("Event", (r) => r.said ?? word(r.kind, "EVENT_KIND_")),
  addressed("EID-prefix", (r) => r.eid ?? ""),
  plain("Site", (r) => r.site ?? ""),
  { title: "Locators", cell: (r) => r.record ? locators(r.record) : "" },
  addressed("Who", (r) => r.peer || r.registrant || ""),
  plain("Reason", (r) => r.reason ?? ""),
];

const byEID = "An EID, such as 10.1.0.0/16 or [7]2001:db8::1";
const events = { id: "events", title: "Events", search: byEID, events: true };
const rates = { id: "rates", title: "Rates", search: "A part of a counter's name", parts: [{ counters: (name, text) => name.includes(text), title: "Rates", key: byName, columns: counters }] };
const drops = { id: "drops", title: "Drops", parts: [{ counters: (name) => name.startsWith("drop_"), order: (a, b) => b.value - a.value, title: "Drops", key: byName, columns: counters }] };

// views are those of each daemon, the first of them to begin with.
export const views = {
  mapserver: [
    { id: "sites", title: "Sites", search: "A part of a name, or an EID", parts: [sites] },
    { id: "mappings", title: "Mappings", search: byEID, parts: [mappings] },
    events,
    rates,
  ],
  xtr: [
    { id: "uplinks", title: "Uplinks", parts: [localLocators, database, servers, resolvers] },
    { id: "cache", title: "Map-cache", search: byEID, parts: [cache] },
    { id: "remote", title: "Remote locators", search: "A part of an address", parts: [remote] },
    drops,
    events,
    rates,
  ],
};

// figures are drawn on top of each view: the sum of the rates of the counters
// that of chooses, or the value of a gauge.
const dropped = (name) => name.startsWith("drop_") || name.startsWith("refused_");
export const figures = {
  mapserver: [
    { title: "Map-Requests", of: (n) => n === "map_requests", as: rate },
    { title: "Map-Registers", of: (n) => n === "map_registers", as: rate },
    { title: "Dropped, refused", of: dropped, as: rate },
    { title: "EID-prefixes", gauge: "eids", as: count },
    { title: "Registrations", gauge: "registrations", as: count },
  ],
  xtr: [
    { title: "Sent packets", of: (n) => n === "encap_packets", as: rate },
    { title: "Sent", of: (n) => n === "encap_bytes", as: bits },
    { title: "Received packets", of: (n) => n === "decap_packets", as: rate },
    { title: "Received", of: (n) => n === "decap_bytes", as: bits },
    { title: "Dropped packets", of: dropped, as: rate },
    { title: "Map-cache", gauge: "map_cache_entries", as: count },
  ],
};
