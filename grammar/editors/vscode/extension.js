// Starts `planc lsp` and connects it to the editor; all knowledge of the language is in the server.
"use strict";

const { commands, window, workspace } = require("vscode");
const { LanguageClient, TransportKind } = require("vscode-languageclient/node");

let client;

function makeClient() {
  const [command, ...args] = workspace.getConfiguration("plan").get("server.command");
  const server = { command, args, transport: TransportKind.stdio };
  const options = {
    documentSelector: [{ language: "plan" }],
    synchronize: { fileEvents: workspace.createFileSystemWatcher("**/*.{plan,csv,json}") },
  };
  return new LanguageClient("plan", "Plan", server, options);
}

async function start() {
  client = makeClient();
  try {
    await client.start();
  } catch (error) {
    const install = "Install it with: pip install 'plandsl[lsp]', or set `plan.server.command`.";
    window.showErrorMessage(`planc lsp does not start: ${error.message}. ${install}`);
    client = undefined;
  }
}

async function stop() {
  const running = client;
  client = undefined;
  await running?.stop();
}

async function activate(context) {
  const restart = async () => {
    await stop();
    await start();
  };
  context.subscriptions.push(
    commands.registerCommand("plan.restart", restart),
    workspace.onDidChangeConfiguration((event) => event.affectsConfiguration("plan.server") && restart()),
  );
  await start();
}

module.exports = { activate, deactivate: stop };
