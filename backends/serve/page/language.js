// How the words of a plan are coloured. The server knows the language; this knows which letters make a word.
import { HighlightStyle, StreamLanguage, syntaxHighlighting } from "@codemirror/language";
import { tags } from "@lezer/highlight";

const STYLE = HighlightStyle.define([
  { tag: tags.comment, class: "w-comment" },
  { tag: tags.string, class: "w-string" },
  { tag: tags.number, class: "w-number" },
  { tag: tags.unit, class: "w-unit" },
  { tag: tags.keyword, class: "w-keyword" },
  { tag: tags.definition(tags.variableName), class: "w-name" },
  { tag: tags.propertyName, class: "w-field" },
  { tag: tags.function(tags.variableName), class: "w-call" },
  { tag: tags.operator, class: "w-operator" },
]);

// The tokens of a line. `words` has the kinds of declarations and the keywords of the grammar.
export function planLanguage(words) {
  const kinds = new Set(words.kinds);
  const keywords = new Set([...words.kinds, ...words.keywords]);
  const parser = {
    name: "plan",
    startState: () => ({ opens: false }),
    token(stream, state) {
      if (stream.eatSpace()) return null;
      if (stream.match(/#.*/)) return "comment";
      if (stream.match(/"[^"]*"?/)) return "string";
      if (stream.match(/[0-9][0-9_]*(\.[0-9]+)?([eE][+-]?[0-9]+)?/)) return "number";
      if (stream.match("%") || stream.match(/[/*+<>=!-]+|\.\.|@/)) return stream.current() === "%" ? "unit" : "operator";
      if (stream.match(/[A-Za-z_][A-Za-z0-9_]*/)) {
        const word = stream.current();
        const named = state.opens;
        state.opens = false;
        const before = stream.string.slice(0, stream.start);
        if (/[0-9]\s*$/.test(before) && stream.match(/\/[A-Za-z]+/)) return "unit";
        if (/[0-9]\s*$/.test(before) && words.units.includes(word)) return "unit";
        if (named) return "definition";
        if (stream.match(/\s*=(?!=)/, false) && !/\blet\s+$/.test(before)) return "property";
        if (keywords.has(word)) {
          state.opens = (kinds.has(word) || word === "let") && /^\s*[A-Za-z_]\w*\s*(=|\{|$)/.test(stream.string.slice(stream.pos));
          return "keyword";
        }
        return stream.match(/\s*\(/, false) ? "call" : null;
      }
      stream.next();
      return null;
    },
    // a line stands two spaces deeper than the one before, where that opens a bracket
    indent(_, after, context) {
      const at = context.lineAt(context.pos, -1);
      let before = at.from > 0 ? context.lineAt(at.from - 1, -1) : null;
      while (before && !before.text.trim() && before.from > 0) before = context.lineAt(before.from - 1, -1);
      if (!before) return 0;
      const code = before.text.replace(/#.*|"[^"]*"/g, "");
      const opens = /[{([]\s*$/.test(code) ? 2 : 0;
      return Math.max(0, context.lineIndent(before.from) + opens - (/^\s*[})\]]/.test(after) ? 2 : 0));
    },
    languageData: { indentOnInput: /^\s*[})\]]$/, commentTokens: { line: "#" }, closeBrackets: { brackets: ["(", "[", "{", '"'] } },
    tokenTable: {
      unit: tags.unit,
      property: tags.propertyName,
      definition: tags.definition(tags.variableName),
      call: tags.function(tags.variableName),
    },
  };
  return [StreamLanguage.define(parser), syntaxHighlighting(STYLE)];
}
