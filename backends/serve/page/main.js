// The page: what is asked when, and where answers go. One question of a kind is on its way at a time.
import { Gone, ask } from "./ask.js";
import { byId, el } from "./dom.js";
import { applyFix, goTo, makeEditor, setText, underline } from "./editor.js";
import { fragmentOf, textOf } from "./link.js";
import { showPicture } from "./picture.js";
import { showPlans, showProblems, showReport, showSearches } from "./report.js";

const PAUSE = 40; // ms without a key before the server is asked
const CALM = 120; // ms more before fixes are looked for
const AGAIN = 2000; // ms until a server that does not answer is asked again
const VIEWS = ["devices", "communication", "block", "timeline", "memory"];
const PANELS = { estimate: "estimate", searches: "searches" }; // the views of a plan share one
const panelOf = (tab) => PANELS[tab] ?? "picture";

const state = { plan: null, tab: "estimate", phase: "prefill", answered: null, asking: false, again: false, plans: [], timer: 0, linkTimer: 0 };
let view;

const text = () => view.state.doc.toString();

function say(words, kind = "") {
  const status = byId("status");
  status.textContent = words;
  status.className = kind;
}

// ---- estimates

function changed() {
  clearTimeout(state.timer);
  state.timer = setTimeout(estimate, PAUSE);
  clearTimeout(state.linkTimer);
  state.linkTimer = setTimeout(keepLink, 400);
}

async function estimate() {
  if (state.asking) return; // asked again when the answer is there
  state.asking = true;
  const asked = text();
  const started = performance.now();
  try {
    const found = await ask("estimate", { text: asked, plan: state.plan });
    if (asked === text()) show(found, performance.now() - started);
    if (asked === text() && found.report && found.names.length > 1) {
      const all = await ask("compare", { text: asked, plan: state.plan });
      if (asked === text()) {
        state.plans = all.plans ?? [];
        showPlans(byId("plans"), state.plans, state.plan, choose);
        showFindings(all.diagnostics);
      }
    }
  } catch (error) {
    if (!(error instanceof Gone)) throw error;
    say(`${error.message}: is \`planc serve\` still running?`, "error");
    state.timer = setTimeout(estimate, AGAIN);
    return;
  } finally {
    state.asking = false;
  }
  if (asked !== text() || state.again) {
    state.again = false;
    estimate();
  }
}

function showFindings(found) {
  underline(view, found);
  showProblems(byId("problems"), found, {
    go: (d) => goTo(view, d.line, d.column),
    fix: (one) => applyFix(view, one),
  });
  byId("problems-part").hidden = !found.length;
}

function show(found, took) {
  const errors = found.diagnostics.filter((d) => d.severity === "error").length;
  showFindings(found.diagnostics);
  if (found.diagnostics.some((d) => d.hint && d.severity !== "note")) findFixes(text());
  if (errors) say(`${errors} error${errors > 1 ? "s" : ""}`, "error");
  else say(`${found.report?.plan ?? ""}, ${Math.max(1, Math.round(took))} ms`);
  const stale = errors > 0;
  byId("answers").classList.toggle("stale", stale);
  byId("stale").hidden = !(stale && state.answered);
  byId("answers").hidden = stale && !state.answered;
  byId("nothing").hidden = !(stale && !state.answered);
  if (stale) return;
  state.answered = found;
  byId("tab-searches").hidden = !found.searches.length;
  for (const name of ["estimate", ...VIEWS]) byId(`tab-${name}`).hidden = !found.report;
  if (!found.report) say(`${found.searches.length} search${found.searches.length > 1 ? "es" : ""}`);
  if (!found.report || (state.tab === "searches" && !found.searches.length)) {
    state.plan = null;
    showPlans(byId("plans"), [], null, choose);
    if (state.tab !== (found.report ? "estimate" : "searches")) {
      open(found.report ? "estimate" : "searches");
      if (!found.report) return;
    }
  }
  if (!found.report) {
    search();
    return;
  }
  state.plan = found.report.plan;
  if (found.names.length < 2) state.plans = [];
  showPlans(byId("plans"), state.plans.filter((plan) => found.names.includes(plan.name)), state.plan, choose);
  showReport(byId("estimate"), found.report);
  showPhases(found.report.phases);
  if (found.report.simulates) simulate(text(), state.plan);
  if (panelOf(state.tab) === "picture") draw();
  else if (state.tab === "searches") search();
}

let searching = null;

async function search() {
  searching?.abort();
  searching = new AbortController();
  const target = byId("searches");
  if (!target.childElementCount) target.replaceChildren(el("p", { class: "said" }, "searching"));
  try {
    showSearches(target, await ask("search", { text: text() }, searching.signal));
  } catch (error) {
    if (error instanceof Gone) say(error.message, "error");
    else if (error.name !== "AbortError") throw error;
  }
}

// Which hints are edits that work takes the server longer to find: it is asked when nobody types.
async function findFixes(asked) {
  await new Promise((done) => setTimeout(done, CALM));
  if (asked !== text()) return;
  const found = await ask("fixes", { text: asked, plan: state.plan }).catch(() => null);
  if (found?.fixable && asked === text()) showFindings(found.diagnostics);
}

async function simulate(asked, plan) {
  const said = el("span", {}, "; in closed form, the simulation is on its way");
  byId("estimate").querySelector(".load").append(said);
  const found = await ask("simulate", { text: asked, plan }).catch(() => null);
  if (!found || asked !== text() || plan !== state.plan) return;
  if (found.report) showReport(byId("estimate"), found.report);
  else said.textContent = `; in closed form, without a simulation: ${found.diagnostics[0]?.message}`;
}

function choose(name) {
  state.plan = name;
  if (state.asking) state.again = true;
  else estimate();
}

// ---- pictures

function showPhases(phases) {
  const picker = byId("phase");
  if (!phases.includes(state.phase)) state.phase = phases[0];
  picker.replaceChildren(...phases.map((name) => el("option", { value: name, selected: name === state.phase }, name)));
  picker.parentElement.hidden = panelOf(state.tab) !== "picture" || phases.length < 2;
}

let drawing = null;

async function draw() {
  drawing?.abort();
  drawing = new AbortController();
  const target = byId("picture");
  target.setAttribute("aria-busy", "true");
  try {
    const question = { text: text(), plan: state.plan, view: state.tab, phase: state.phase };
    const found = await ask("picture", question, drawing.signal);
    showPicture(target, found, `${state.plan} ${state.tab} ${state.phase}`);
    target.removeAttribute("aria-busy");
  } catch (error) {
    if (error instanceof Gone) say(error.message, "error");
    else if (error.name !== "AbortError") throw error;
  }
}

function makeTabs() {
  const tabs = ["estimate", ...VIEWS, "searches"].map((name) =>
    el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": panelOf(name), hidden: name === "searches",
      onclick: () => open(name) }, name));
  byId("tabs").replaceChildren(...tabs);
  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const there = tabs.filter((tab) => !tab.hidden);
    const next = there[(there.findIndex((tab) => tab.id === `tab-${state.tab}`) + step + there.length) % there.length];
    next.focus();
    next.click();
  });
  open("estimate");
}

function open(name) {
  state.tab = name;
  for (const tab of byId("tabs").children) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
  }
  for (const panel of ["estimate", "picture", "searches"]) byId(panel).hidden = panel !== panelOf(name);
  if (panelOf(name) === "picture") byId("picture").setAttribute("aria-labelledby", `tab-${name}`);
  if (!state.answered) return;
  if (state.answered.report) showPhases(state.answered.report.phases);
  if (panelOf(name) === "picture") draw();
  else if (name === "searches") search();
}

// ---- links, examples, the look

async function keepLink() {
  const link = await fragmentOf(text());
  history.replaceState(null, "", link);
}

async function copyLink() {
  await keepLink();
  try {
    await navigator.clipboard.writeText(location.href);
    say("link copied: it holds the text");
  } catch {
    byId("link").value = location.href;
    byId("link-part").showModal();
    byId("link").select();
  }
}

async function followLink() {
  try {
    return await textOf(location.hash);
  } catch (error) {
    state.broken = `the link holds no plan: ${error.message}`;
    return null;
  }
}

function saveFile() {
  const address = URL.createObjectURL(new Blob([text()], { type: "text/plain" }));
  el("a", { href: address, download: `${state.plan ?? "plan"}.plan` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

async function format() {
  const asked = text();
  const found = await ask("format", { text: asked }).catch(() => null);
  if (found?.text === undefined || asked !== text()) say("not formatted: correct the errors first", "error");
  else if (found.text !== asked) setText(view, found.text);
}

function makeLook() {
  const next = { light: "dark", dark: "light" };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const now = () => document.documentElement.dataset.look ?? (dark.matches ? "dark" : "light");
  const kept = localStorage.getItem("look");
  if (kept in next) document.documentElement.dataset.look = kept;
  byId("look").addEventListener("click", () => {
    document.documentElement.dataset.look = next[now()];
    localStorage.setItem("look", now());
  });
}

async function start() {
  makeLook();
  makeTabs();
  const { words, examples } = await (await fetch("page.json")).json();
  const linked = await followLink();
  view = makeEditor(byId("editor"), words, linked ?? examples[0].text, changed);
  const menu = byId("examples");
  menu.append(...examples.map(({ title }, at) => el("option", { value: String(at) }, title)));
  menu.addEventListener("change", () => {
    state.plan = null;
    if (menu.value) setText(view, examples[Number(menu.value)].text);
    menu.value = "";
  });
  byId("copy").addEventListener("click", copyLink);
  byId("save").addEventListener("click", saveFile);
  byId("format").addEventListener("click", format);
  byId("phase").addEventListener("change", (event) => {
    state.phase = event.target.value;
    draw();
  });
  window.addEventListener("hashchange", async () => {
    const given = await followLink();
    if (given !== null && given !== text()) setText(view, given);
    else if (state.broken) say(state.broken, "error");
  });
  await estimate();
  if (state.broken) say(state.broken, "error");
}

start();
