"""The codes of syntax mistakes: title, text, an example that produces it, and what to do."""

from __future__ import annotations

SYNTAX_CODES: dict[str, tuple[str, str, str, str]] = {
    "E101": (
        "syntax error",
        "A value, a name, a sign or a separator is missing, or is in the wrong place. The message says what was "
        "expected. A text of another language, such as YAML, JSON, Python or a command for a shell, is one mistake, "
        "and the hint has a plan that says the same.",
        "plan serve {\n  model =\n  node = mi325x_8\n}\n",
        "Write what the message asks for. Items on one line are separated by `,`; a field is `name = value`.",
    ),
    "E102": (
        "invalid character",
        "Outside strings and comments a plan consists of ASCII letters, digits, `_`, and the signs of the "
        "language. Word processors often replace these with curly quotes, long dashes and arrows. A name, as in "
        "`model = llama_3_1_8b`, has no quotes at all.",
        "let label = \u201ca plan\u201d\n",
        "Replace the character: strings are in straight double quotes, a rule is written `heads -> tensor`.",
    ),
    "E103": (
        "missing closing quote",
        "A string starts with a double quote and ends with the next one, on the same line.",
        'use "catalog.plan\n',
        'Close the string with `"` before the end of the line.',
    ),
    "E104": (
        "missing closing bracket, or the text ends too early",
        "Every `{`, `(` and `[` needs a closing bracket. The message names the open bracket and its line, and points "
        "at the place where the closing bracket was expected: before the next item or declaration, or at the end of "
        "the file.",
        "plan serve {\n  node = mi325x_8\n",
        "Write the closing bracket where the message points.",
    ),
    "E105": (
        "unmatched closing bracket",
        "A `}`, `)` or `]` has no opening bracket, or closes a bracket of another kind.",
        "plan serve {\n  node = mi325x_8\n}\n}\n",
        "Remove the bracket, or add its opening bracket.",
    ),
    "E106": (
        "number out of range",
        "A number has at most 40 digits, and a number with an exponent must be below 1e308.",
        "let bytes = 1e999\n",
        "Write a smaller number: units such as `TB` and `PFLOP/s` keep numbers short.",
    ),
    "E107": (
        "nested too deeply",
        "Brackets nest at most 64 levels deep, and one expression has a chain of at most 200 operators. The rest of "
        "the file is not read.",
        "let x = " + "(" * 65 + "1" + ")" * 65 + "\n",
        "Name parts of the expression with `let`.",
    ),
    "E108": (
        "the file is too large",
        "A source file has at most 262,144 bytes.",
        "",
        "Split the file, and join its parts with `use`.",
    ),
    "E109": (
        "not a text file",
        "A plan is UTF-8 text. The message shows the first byte that is not valid UTF-8.",
        "",
        "Save the file as UTF-8, without NUL bytes.",
    ),
}
