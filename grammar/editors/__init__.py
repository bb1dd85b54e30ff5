"""Parts for editors: words for colours, the grammar of VS Code (`vscode/`), and a lexer for Pygments."""
