// Elements without markup: every text of the page is set as text, so that nothing in a plan becomes HTML.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

// A text with `code` in backquotes.
export function prose(text) {
  const out = document.createDocumentFragment();
  text.split("`").forEach((piece, at) => {
    if (piece) out.append(at % 2 ? el("code", {}, piece) : piece);
  });
  return out;
}

// What the server writes as Markdown: paragraphs, `code`, and tables as lines of cells.
export function markdown(text) {
  return text.split("\n\n").map((part) => {
    const rows = part.split("\n").filter((line) => !/^[|\s:-]+$/.test(line));
    if (!rows.every((line) => line.startsWith("|"))) return el("p", {}, prose(part));
    const cells = (line) => line.slice(1, -1).split("|").map((cell) => el("td", {}, prose(cell.trim())));
    return el("table", {}, el("tbody", {}, ...rows.map((line) => el("tr", {}, ...cells(line)))));
  });
}
