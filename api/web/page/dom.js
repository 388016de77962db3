// Elements are made of text, never of markup: whatever a name says is shown.

// element makes an element with attributes and children, which are nodes or
// text; null and undefined are left out.
export function element(tag, attributes, ...children) {
  const e = document.createElement(tag);
  set(e, attributes);
  e.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return e;
}

// drawing is element for SVG.
export function drawing(tag, attributes, ...children) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(e, attributes);
  e.append(...children);
  return e;
}

function set(e, attributes) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) e.setAttribute(name, value === true ? "" : value);
  }
}

export const byID = (id) => document.getElementById(id);
