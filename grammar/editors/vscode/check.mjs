// Reads every .plan file below some folders with the grammar, as VS Code does, and says what it could not read.
import { readFile, readdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(import.meta.url);
const oniguruma = require("vscode-oniguruma");
const textmate = require("vscode-textmate");

await oniguruma.loadWASM(await readFile(require.resolve("vscode-oniguruma/release/onig.wasm")));
const registry = new textmate.Registry({
  onigLib: Promise.resolve({
    createOnigScanner: (patterns) => new oniguruma.OnigScanner(patterns),
    createOnigString: (text) => new oniguruma.OnigString(text),
  }),
  loadGrammar: async () => {
    const path = new URL("./syntaxes/plan.tmLanguage.json", import.meta.url).pathname;
    return textmate.parseRawGrammar(await readFile(path, "utf-8"), path);
  },
});
const grammar = await registry.loadGrammar("source.plan");

let files = 0;
let tokens = 0;
const wrong = [];
for (const folder of process.argv.slice(2)) {
  for (const name of (await readdir(folder, { recursive: true })).filter((path) => path.endsWith(".plan"))) {
    files += 1;
    let stack = textmate.INITIAL;
    const lines = (await readFile(join(folder, name), "utf-8")).split("\n");
    for (const [at, line] of lines.entries()) {
      const result = grammar.tokenizeLine(line, stack);
      stack = result.ruleStack;
      for (const token of result.tokens) {
        tokens += 1;
        const text = line.slice(token.startIndex, token.endIndex);
        const plain = token.scopes.length === 1 && text.trim() !== "";
        if (plain || token.scopes.some((scope) => scope.startsWith("invalid"))) {
          wrong.push(`${join(folder, name)}:${at + 1}:${token.startIndex + 1}: ${text}`);
        }
      }
    }
  }
}
console.log(`${files} files, ${tokens} tokens, ${wrong.length} of them unknown`);
wrong.slice(0, 20).forEach((line) => console.error(line));
process.exitCode = wrong.length || !files ? 1 : 0;
