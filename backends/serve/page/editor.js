// The editor: a text with colours, underlined mistakes, completions and what words mean.
import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap, snippet } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, toggleComment } from "@codemirror/commands";
import { bracketMatching, indentUnit } from "@codemirror/language";
import { lintGutter, lintKeymap, setDiagnostics } from "@codemirror/lint";
import { highlightSelectionMatches, searchKeymap } from "@codemirror/search";
import { EditorState } from "@codemirror/state";
import {
  EditorView, drawSelection, highlightActiveLine, highlightActiveLineGutter, highlightSpecialChars, hoverTooltip, keymap,
  lineNumbers,
} from "@codemirror/view";
import { ask, cursorOf, placeOf } from "./ask.js";
import { el, markdown, prose } from "./dom.js";
import { planLanguage } from "./language.js";

const where = (state, pos) => ({ text: state.doc.toString(), ...cursorOf(state.doc, pos) });

async function complete(context) {
  const word = context.matchBefore(/[A-Za-z_][A-Za-z0-9_]*/);
  if (!word && !context.explicit && !/[=,{.>]\s?$/.test(context.state.doc.lineAt(context.pos).text.slice(0, context.pos))) {
    return null;
  }
  const found = await ask("complete", where(context.state, context.pos)).catch(() => null);
  if (context.aborted || !found?.options?.length) return null;
  return {
    from: placeOf(context.state.doc, context.state.doc.lineAt(context.pos).number, found.column),
    options: found.options.map(({ label, type, detail, info, apply }, at) => ({
      label, type, detail, boost: -at / found.options.length,
      info: info ? () => el("div", {}, ...markdown(info)) : undefined,
      apply: apply.includes("$0") ? snippet(apply.replace("$0", "${}")) : apply || undefined,
    })),
    validFor: /^[A-Za-z0-9_]*$/,
  };
}

async function hover(view, pos) {
  const found = await ask("hover", where(view.state, pos)).catch(() => null);
  if (!found?.hover) return null;
  const { line, column, end_line, end_column, text } = found.hover;
  return {
    pos: placeOf(view.state.doc, line, column),
    end: placeOf(view.state.doc, end_line, end_column),
    create: () => ({ dom: el("div", { class: "hover" }, ...markdown(text)) }),
  };
}

export function makeEditor(parent, words, text, changed) {
  const nonce = document.querySelector('meta[name="csp-nonce"]').content;
  const extensions = [
    EditorView.cspNonce.of(nonce),
    lineNumbers(), highlightActiveLineGutter(), highlightSpecialChars(), history(), drawSelection(), bracketMatching(),
    closeBrackets(), highlightActiveLine(), highlightSelectionMatches(), lintGutter(), indentUnit.of("  "),
    planLanguage(words),
    autocompletion({ override: [complete], icons: false }),
    hoverTooltip(hover, { hoverTime: 350 }),
    keymap.of([
      ...closeBracketsKeymap, ...defaultKeymap, ...searchKeymap, ...historyKeymap, ...completionKeymap, ...lintKeymap,
      { key: "Mod-/", run: toggleComment },
    ]),
    EditorView.contentAttributes.of({ "aria-label": "plan", spellcheck: "false", autocapitalize: "off", tabindex: "0" }),
    EditorView.updateListener.of((update) => update.docChanged && changed()),
  ];
  return new EditorView({ parent, state: EditorState.create({ doc: text, extensions }) });
}

export function setText(view, text) {
  view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text }, selection: { anchor: 0 } });
}

// Apply a fix: its edits are of the text that the server saw, which is the text in the editor.
export function applyFix(view, fix) {
  const changes = fix.edits.map((edit) => ({
    from: placeOf(view.state.doc, edit.line, edit.column),
    to: placeOf(view.state.doc, edit.end_line, edit.end_column),
    insert: edit.text,
  }));
  view.dispatch({ changes });
  view.focus();
}

export function goTo(view, line, column) {
  const at = placeOf(view.state.doc, line, column);
  view.dispatch({ selection: { anchor: at }, effects: EditorView.scrollIntoView(at, { y: "center" }) });
  view.focus();
}

export function underline(view, diagnostics) {
  const doc = view.state.doc;
  const shown = diagnostics
    .filter((d) => d.here && d.line)
    .map((d) => {
      const from = placeOf(doc, d.line, d.column);
      let to = placeOf(doc, d.end_line, d.end_column);
      if (to <= from) to = Math.min(from + 1, doc.length);
      return {
        from: Math.min(from, to),
        to,
        severity: d.severity === "note" ? "info" : d.severity,
        renderMessage: () => el("div", { class: "message" }, el("b", {}, d.code), " ", prose(d.message),
          d.hint ? el("div", { class: "hint" }, prose(d.hint)) : null),
        message: d.message,
        actions: (d.fixes ?? []).map((fix) => ({ name: fix.title.replaceAll("`", ""), apply: (editor) => applyFix(editor, fix) })),
      };
    });
  view.dispatch(setDiagnostics(view.state, shown));
}
