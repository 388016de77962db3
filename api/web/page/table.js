import { element } from "./dom.js";

// Table shows rows in columns that sort by a click or a key on their heads. A
// column is {title, cell, sort, number}: cell makes text or nodes of a row, sort
// what it sorts by (numbers, or texts), and number puts it to the right. Without a choice rows stay in
// the order in which they came. Rows that have not changed keep their elements,
// and with them the focus.
export class Table {
  constructor(caption, columns, key) {
    this.columns = columns;
    this.key = key;
    this.kept = new Map(); // key -> {json, row, tr}
    this.rows = [];
    this.by = null; // the column, and descending
    this.body = element("tbody");
    this.heads = columns.map((c, i) => {
      const button = element("button", { type: "button" }, c.title);
      button.addEventListener("click", () => this.sort(i));
      return element("th", { scope: "col", class: c.number && "number" }, c.sort ? button : c.title);
    });
    this.empty = element("p", { class: "empty", hidden: true }, "Nothing.");
    const table = element("table", {}, element("caption", {}, caption), element("thead", {}, element("tr", {}, this.heads)), this.body);
    this.node = element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption }, table, this.empty);
  }

  sort(i) {
    if (this.by?.column !== i) this.by = { column: i, descending: false };
    else if (!this.by.descending) this.by.descending = true;
    else this.by = null;
    this.heads.forEach((h, j) => {
      if (this.by?.column === j) h.setAttribute("aria-sort", this.by.descending ? "descending" : "ascending");
      else h.removeAttribute("aria-sort");
    });
    this.place();
  }

  // show takes the rows that there are now.
  show(rows) {
    const kept = new Map();
    this.rows = rows.map((row) => {
      const key = this.key(row);
      const json = JSON.stringify(row);
      const old = this.kept.get(key);
      const entry = old ?? { tr: element("tr") };
      if (old?.json !== json) this.fill(entry, row);
      entry.json = json;
      entry.row = row;
      kept.set(key, entry);
      return entry;
    });
    this.kept = kept;
    this.empty.hidden = rows.length > 0;
    this.place();
  }

  fill(entry, row) {
    const at = [...entry.tr.children].findIndex((td) => td.contains(document.activeElement));
    entry.tr.replaceChildren(...this.columns.map((c, i) => {
      const content = [c.cell(row)].flat().filter((x) => x !== null && x !== undefined);
      return i === 0
        ? element("th", { scope: "row", class: c.number && "number" }, content)
        : element("td", { class: c.number && "number" }, content);
    }));
    if (at >= 0) entry.tr.children[at]?.querySelector("a, button")?.focus();
  }

  // place puts the rows in order; where they are already, nothing moves.
  place() {
    let list = this.rows;
    if (this.by) {
      const { sort } = this.columns[this.by.column];
      const sign = this.by.descending ? -1 : 1;
      list = list.map((e) => ({ e, k: sort(e.row) }));
      list.sort((a, b) => sign * compare(a.k, b.k));
      list = list.map(({ e }) => e);
    }
    const now = this.body.children;
    if (now.length === list.length && list.every((e, i) => now[i] === e.tr)) return;
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    this.body.replaceChildren(...list.map((e) => e.tr));
    focused?.focus();
  }
}

function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}
