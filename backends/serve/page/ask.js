// Questions to the server. An answer always has `diagnostics`; where the server gives none, they say so.

export class Gone extends Error {}

export async function ask(kind, question, signal) {
  let response;
  try {
    response = await fetch(`ask/${kind}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(question),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Gone("the server does not answer");
  }
  try {
    return await response.json();
  } catch {
    return { diagnostics: [{ code: "E599", severity: "error", message: `the server answered ${response.status}` }] };
  }
}

// The line and column of a place. Python counts characters, JavaScript halves of some.
export function cursorOf(doc, at) {
  const line = doc.lineAt(at);
  return { line: line.number, column: [...line.text.slice(0, at - line.from)].length + 1 };
}

// The place of a line and a column, both from 1, the column in characters.
export function placeOf(doc, line, column) {
  const found = doc.line(Math.max(1, Math.min(line, doc.lines)));
  let at = 0;
  for (const character of found.text) {
    if (--column < 1) break;
    at += character.length;
  }
  return found.from + Math.min(at, found.length);
}
