// The estimates: a row for each plan, the numbers of one of them, and its tables.
import { el, prose } from "./dom.js";

const classes = (style) => style.split(" ").filter(Boolean).map((word) => `t-${word}`).join(" ");
const run = ([text, style]) => (style ? el("span", { class: classes(style) }, prose(text)) : prose(text));

function cell(tag, { runs, bar, tip }, side, more = {}) {
  const attributes = { class: side === "r" ? "right" : null, title: tip, ...more };
  if (!bar) return el(tag, attributes, ...runs.map(run));
  const parts = bar.filter(([, style]) => style !== "dim").map(([share, style]) => {
    const part = el("span", { class: `bar ${classes(style)}` });
    part.style.width = `${share}%`;
    return part;
  });
  return el(tag, attributes, el("span", { class: "track", "aria-hidden": "true" }, ...parts));
}

function table({ header, sides, labels, rows }, name) {
  const body = rows.map(({ style, cells }) =>
    el("tr", { class: classes(style) || null }, ...cells.map((one, at) =>
      at < labels && at === 0 ? cell("th", one, sides[at], { scope: "row" }) : cell("td", one, sides[at]))));
  const head = header && el("thead", {}, el("tr", {}, ...header.map((one, at) =>
    one.runs.length ? cell("th", one, sides[at], { scope: "col" }) : el("td"))));
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": name },
    el("table", {}, head, el("tbody", {}, ...body)));
}

const plain = (cell) => (cell?.runs ?? []).map(([text]) => text).join("");

// The lines and tables of a report. Each table has a name of its own, for those who hear the page.
function blocksOf(blocks, about) {
  const taken = new Set();
  return blocks.map((one) => {
    if (one.line) return el("p", { class: "said" }, ...one.line.map(run));
    const { header, rows } = one.table;
    const words = [...(header ?? []), ...(rows[0]?.cells ?? [])].map(plain).filter((word) => /[a-z]/i.test(word));
    let name = `${about}: ${words[0] ?? "table"}`;
    while (taken.has(name)) name += ", more";
    taken.add(name);
    return table(one.table, name);
  });
}

export function showReport(target, report) {
  const { overview, blocks, title } = report;
  const promises = overview.requires.map(({ text, ok, value }) =>
    el("li", { class: ok ? "met" : "missed" }, el("b", {}, ok ? "met" : "missed"), ` ${text}, ${value}`));
  const numbers = overview.numbers.map(({ word, value, beside, tip }) =>
    el("div", { title: tip || null, class: word === "memory" && !overview.fits ? "number missed" : "number" },
      el("dt", {}, word), el("dd", {}, el("b", {}, value), beside ? el("span", {}, beside) : null)));
  target.replaceChildren(
    el("h2", {}, el("b", {}, report.plan), ` ${title}`),
    el("p", { class: "load" }, report.load),
    promises.length ? el("ul", { class: "promises", "aria-label": "requirements" }, ...promises) : "",
    el("dl", { class: "numbers" }, ...numbers),
    ...blocksOf(blocks, report.plan),
  );
}

// The answer of each search of the text.
export function showSearches(target, { searches, diagnostics }) {
  if (!searches) {
    target.replaceChildren(el("p", { class: "said" }, prose(diagnostics[0]?.message ?? ""), " ",
      el("span", { class: "t-dim" }, prose(diagnostics[0]?.hint ?? ""))));
    return;
  }
  target.replaceChildren(...Object.entries(searches).map(([name, blocks]) => el("article", {}, ...blocksOf(blocks, name))));
}

const COLUMNS = [["ttft", "TTFT"], ["tpot", "TPOT"], ["throughput", "throughput"], ["per_gpu", "per GPU"], ["memory", "memory"]];

export function showPlans(target, plans, chosen, choose) {
  if (plans.length < 2) {
    target.replaceChildren();
    return;
  }
  const rows = plans.map((plan) => {
    const verdict = !plan.fits ? "too large" : !plan.asked ? "fits" : plan.missed ? `${plan.missed} missed` : "met";
    return el("tr", { class: plan.name === chosen ? "chosen" : null },
      el("th", { scope: "row" }, el("button", { type: "button", "aria-pressed": String(plan.name === chosen),
        onclick: () => choose(plan.name) }, plan.name)),
      el("td", { class: "right" }, String(plan.gpus)),
      ...COLUMNS.map(([field]) => el("td", { class: plan.best.includes(field) ? "right t-bold" : "right" }, plan[field])),
      el("td", { class: plan.fits && !plan.missed ? "met" : "missed" }, verdict));
  });
  const head = el("tr", {}, ...["plan", "GPUs", ...COLUMNS.map(([, word]) => word), "verdict"].map((word, at) =>
    el("th", { scope: "col", class: at > 0 && at < 7 ? "right" : null }, word)));
  const focused = target.contains(document.activeElement);
  target.replaceChildren(el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "all plans" },
    el("table", { class: "plans" }, el("thead", {}, head), el("tbody", {}, ...rows))));
  if (focused) target.querySelector('[aria-pressed="true"]')?.focus();
}

export function showProblems(target, diagnostics, { go, fix }) {
  const items = diagnostics.map((d) =>
    el("li", { class: d.severity },
      el("div", {},
        d.here && d.line
          ? el("button", { type: "button", class: "place", onclick: () => go(d), title: d.title }, `${d.code}, line ${d.line}`)
          : el("b", { title: d.title }, d.code),
        " ", prose(d.message)),
      d.label ? el("div", { class: "label" }, prose(d.label)) : null,
      d.hint ? el("div", { class: "hint" }, prose(d.hint)) : null,
      ...(d.fixes ?? []).map((one) =>
        el("button", { type: "button", class: "fix", onclick: () => fix(one) }, prose(one.title)))));
  target.replaceChildren(...items);
}
