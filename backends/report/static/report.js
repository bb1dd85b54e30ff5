// Draws the charts of the page, sorts its tables, and zooms its timelines. Everything that it shows stands in the page.
(() => {
  "use strict";
  const told = JSON.parse(document.getElementById("charts").textContent);
  const views = new Map();
  const NARROW = 700;

  // ---- charts

  // Rows are packed: a word is the number of an entry in a list.
  function unpacked({ fields, worded, words, rows }) {
    const named = fields.map((field) => worded.includes(field));
    return rows.map((row) => Object.fromEntries(row.map((value, i) => [fields[i], named[i] ? words[value] : value])));
  }

  // Legends above a chart get as many columns as fit.
  function setColumns(part, columns) {
    if (part === null || typeof part !== "object") return;
    if (part.legend && part.legend.orient === "top" && part.type === "nominal") part.legend.columns = columns;
    for (const inner of Object.values(part)) setColumns(inner, columns);
  }

  // Panels stand side by side where there is room; Vega-Lite gives panels no width by itself.
  function fitted(chart, room) {
    const spec = structuredClone(chart.spec);
    if (chart.columns) {
      const columns = room < NARROW ? 1 : chart.columns;
      spec.columns = columns;
      spec.spacing = 24;
      const margin = 78;
      for (const panel of spec.concat) panel.width = Math.max(160, Math.floor(room / columns) - margin);
    }
    setColumns(spec, Math.max(1, Math.floor((room - 60) / 165)));
    if (chart.packed) spec.data = { values: unpacked(chart.packed) };
    return spec;
  }

  async function draw(place) {
    const chart = told.charts[place.dataset.chart];
    const old = views.get(place.dataset.chart);
    if (old) old.finalize();
    const result = await vegaEmbed(place, fitted(chart, place.clientWidth), {
      mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, config: told.config,
      tooltip: { disableDefaultStyle: true },
    });
    views.set(place.dataset.chart, result);
    // a reader of a screen hears what the chart says as a whole, and reads the table beside it
    const svg = place.querySelector("svg");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", chart.spec.description);
    svg.removeAttribute("aria-roledescription");
    for (const inner of svg.children) inner.setAttribute("aria-hidden", "true");
  }

  async function drawAll() {
    // what is seen first is drawn first; the others follow while the page is idle
    for (const place of document.querySelectorAll("[data-chart]")) {
      await draw(place);
      await new Promise((next) => setTimeout(next));
    }
    document.documentElement.dataset.drawn = "yes";
  }

  let width = window.innerWidth;
  let pending = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(pending);
    pending = setTimeout(() => {
      for (const place of document.querySelectorAll("[data-chart]")) draw(place);
    }, 200);
  });

  // ---- zoom by buttons

  function zoom(place, how) {
    const { signal, low, high } = told.charts[place.dataset.chart].zoom;
    const view = views.get(place.dataset.chart).view;
    const now = view.signal(signal);
    const [a, b] = now && now.length === 2 ? now.map(Number) : [low, high];
    const middle = (a + b) / 2, half = (b - a) / 2;
    const next = {
      in: [middle - half / 2, middle + half / 2],
      out: [middle - half * 2, middle + half * 2],
      left: [a - half, b - half],
      right: [a + half, b + half],
      all: [low, high],
    }[how];
    const wide = Math.min(next[1] - next[0], high - low);
    const from = Math.max(low, Math.min(next[0], high - wide));
    view.signal(signal, [from, from + wide]).runAsync();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-zoom]");
    if (button) zoom(button.closest("figure").querySelector("[data-chart]"), button.dataset.zoom);
  });

  // ---- tables that sort, as the ARIA Authoring Practices have them: a button in each heading, `aria-sort` on it

  function sort(heading) {
    const table = heading.closest("table");
    const at = [...heading.parentNode.children].indexOf(heading);
    const number = heading.classList.contains("n");
    const was = heading.getAttribute("aria-sort");
    const down = was ? was === "ascending" : number;
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => (number ? Number(row.children[at].dataset.sort) : row.children[at].dataset.sort);
    const order = number ? (a, b) => key(a) - key(b) : (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
    const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * order(a, b));
    table.tBodies[0].append(...rows);
  }

  document.addEventListener("click", (event) => {
    const heading = event.target.closest(".sorting th");
    if (heading && event.target.closest("button")) sort(heading);
  });

  // ---- on paper all details are open

  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("main details:not([open])")];
    for (const one of closed) one.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });

  drawAll();
})();
