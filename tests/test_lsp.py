"""`planc lsp`, asked by a client of the protocol: pytest-lsp starts it as editors do."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

pytest_lsp = pytest.importorskip("pytest_lsp")
pytest.importorskip("pygls")

from lsprotocol import types as lsp  # noqa: E402
from pygls.exceptions import JsonRpcException  # noqa: E402
from pytest_lsp import ClientServerConfig, LanguageClient  # noqa: E402

from plandsl.grammar.fmt import format_text  # noqa: E402
from tests.marks import marked  # noqa: E402

pytestmark = [pytest.mark.extras, pytest.mark.asyncio]

ROOT = Path(__file__).parents[1]
OWN = (ROOT / "examples" / "own_model.plan").read_text("utf-8")
TOP = lsp.Range(lsp.Position(0, 0), lsp.Position(0, 0))


@pytest_lsp.fixture(config=ClientServerConfig(server_command=[sys.executable, "-m", "plandsl", "lsp", "--stdio"]))
async def client(lsp_client: LanguageClient):
    capabilities = lsp.ClientCapabilities(
        text_document=lsp.TextDocumentClientCapabilities(
            completion=lsp.CompletionClientCapabilities(
                completion_item=lsp.ClientCompletionItemOptions(
                    snippet_support=True, documentation_format=[lsp.MarkupKind.Markdown]
                )
            ),
            hover=lsp.HoverClientCapabilities(content_format=[lsp.MarkupKind.Markdown]),
        )
    )
    await lsp_client.initialize_session(lsp.InitializeParams(capabilities=capabilities))
    yield
    await lsp_client.shutdown_session()


class Open:
    """A document that is open in the client."""

    def __init__(self, client: LanguageClient, path: Path, text: str) -> None:
        self.client, self.uri, self.version, self.lines = client, path.as_uri(), 1, text.split("\n")
        document = lsp.TextDocumentItem(self.uri, "plan", self.version, text)
        client.text_document_did_open(lsp.DidOpenTextDocumentParams(document))

    @property
    def id(self) -> lsp.TextDocumentIdentifier:
        return lsp.TextDocumentIdentifier(self.uri)

    def change(self, text: str, where: lsp.Range | None = None) -> None:
        self.version += 1
        whole = lsp.TextDocumentContentChangeWholeDocument(text)
        change = whole if where is None else lsp.TextDocumentContentChangePartial(where, text)
        identifier = lsp.VersionedTextDocumentIdentifier(self.version, self.uri)
        self.client.text_document_did_change(lsp.DidChangeTextDocumentParams(identifier, [change]))

    async def findings(self) -> list[lsp.Diagnostic]:
        """The findings of the latest version."""
        for _ in range(400):
            found = self.client.diagnostics.get(self.uri)
            if found is not None and self.client.seen.get(self.uri) == self.version:
                return list(found)
            await asyncio.sleep(0.02)
        raise AssertionError("no findings came")


def watch(client: LanguageClient) -> None:
    """Let the client remember the version that findings are of."""
    client.seen = {}  # type: ignore[attr-defined]
    own = client.protocol.fm.features[lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS]

    def heard(params: lsp.PublishDiagnosticsParams) -> Any:
        client.seen[params.uri] = params.version  # type: ignore[attr-defined]
        return own(params)

    client.protocol.fm.features[lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS] = heard


def at(text: str) -> tuple[str, lsp.Position]:
    place = marked(text)
    return place.text, lsp.Position(place.line - 1, place.column - 1)


async def test_findings_follow_the_text(client, tmp_path):
    watch(client)
    doc = Open(client, tmp_path / "a.plan", OWN.replace("tp = 4", "tpp = 4"))
    (found,) = [d for d in await doc.findings() if d.severity == lsp.DiagnosticSeverity.Error]
    assert (found.code, found.range.start.line, found.severity) == ("E206", 27, lsp.DiagnosticSeverity.Error)
    assert "did you mean `tp`" in found.message
    doc.change("tp", lsp.Range(found.range.start, found.range.end))
    assert [d for d in await doc.findings() if d.severity == lsp.DiagnosticSeverity.Error] == []
    for turn in range(20):  # only the last version counts
        doc.change(OWN.replace("batch = 16", f"batch = {turn}"))
    doc.change(OWN.replace("h100_8", "h100_9"))
    assert [d.code for d in await doc.findings() if d.severity == lsp.DiagnosticSeverity.Error] == ["E201"]


async def test_columns_count_the_units_of_the_client(client, tmp_path):
    watch(client)
    doc = Open(client, tmp_path / "a.plan", 'gpu g = h100_sxm with { source = "\U0001f600\U0001f600", memry = 2 GB }\n')
    (found,) = await doc.findings()
    assert (found.range.start.character, found.range.end.character) == (41, 46), "each face is two units of UTF-16"


async def test_unsaved_texts_of_used_files_count(client, tmp_path):
    watch(client)
    (tmp_path / "shared.plan").write_text("let many = 1\n")
    root = Open(client, tmp_path / "a.plan", 'use "shared.plan"\nworkload w { input = other, output = 1 }\n')
    assert [d.code for d in await root.findings()] == ["E201"]
    shared = Open(client, tmp_path / "shared.plan", "let many = 1\nlet other = 2\n")
    for _ in range(300):
        if not client.diagnostics[root.uri]:
            break
        await asyncio.sleep(0.02)
    assert not client.diagnostics[root.uri]
    where = await client.text_document_definition_async(lsp.DefinitionParams(root.id, lsp.Position(1, 22)))
    assert [(one.uri, one.range.start.line) for one in where] == [(shared.uri, 1)]
    edit = await client.text_document_rename_async(lsp.RenameParams(root.id, lsp.Position(1, 22), "more"))
    assert {uri: len(made) for uri, made in edit.changes.items()} == {root.uri: 1, shared.uri: 1}


async def test_completion_and_its_documentation(client, tmp_path):
    text, here = at("plan p {\n  model = llama_3_1_8¦\n}")
    doc = Open(client, tmp_path / "a.plan", text)
    found = await client.text_document_completion_async(lsp.CompletionParams(doc.id, here))
    (item,) = [one for one in found.items if one.label == "llama_3_1_8b"]
    assert item.text_edit.range == lsp.Range(lsp.Position(1, 10), here)
    full = await client.completion_item_resolve_async(item)
    assert "8,030,261,248 parameters" in full.documentation.value
    text, here = at("plan p { ¦ }")
    doc.change(text)
    found = await client.text_document_completion_async(lsp.CompletionParams(doc.id, here))
    inserts = {one.label: one for one in found.items}
    assert inserts["model"].text_edit.new_text == "model = "
    assert inserts["speculate"].insert_text_format == lsp.InsertTextFormat.Snippet


async def test_hover_definition_and_references(client, tmp_path):
    text, here = at(OWN.replace("plan own", "plan o¦wn"))
    doc = Open(client, tmp_path / "a.plan", text)
    said = await client.text_document_hover_async(lsp.HoverParams(doc.id, here))
    assert "TTFT" in said.contents.value
    places = lsp.ReferenceParams(lsp.ReferenceContext(include_declaration=True), doc.id, here)
    assert len(await client.text_document_references_async(places)) == 3
    _, node = at(OWN.replace("h100_8", "h1¦00_8"))
    (where,) = await client.text_document_definition_async(lsp.DefinitionParams(doc.id, node))
    assert where.uri.endswith("/catalog/nodes/h100.plan")
    lit = await client.text_document_document_highlight_async(lsp.DocumentHighlightParams(doc.id, here))
    assert [one.kind for one in lit].count(lsp.DocumentHighlightKind.Write) == 1
    with pytest.raises(JsonRpcException, match="E585: `h100_8` belongs to the catalog"):
        await client.text_document_rename_async(lsp.RenameParams(doc.id, node, "mine"))


async def test_fixes_formatting_and_shape(client, tmp_path):
    watch(client)
    doc = Open(client, tmp_path / "a.plan", OWN.replace("h100_8", "h100_9").replace("  layers", "layers"))
    found = [d for d in await doc.findings() if d.severity == lsp.DiagnosticSeverity.Error]
    context = lsp.CodeActionContext(diagnostics=found)
    offered = await client.text_document_code_action_async(lsp.CodeActionParams(doc.id, found[0].range, context))
    assert "write `h100_8`" in [one.title for one in offered]
    options = lsp.FormattingOptions(tab_size=2, insert_spaces=True)
    (edit,) = await client.text_document_formatting_async(lsp.DocumentFormattingParams(doc.id, options))
    assert edit.new_text == format_text(OWN.replace("h100_8", "h100_9"), "a")
    symbols = await client.text_document_document_symbol_async(lsp.DocumentSymbolParams(doc.id))
    assert [one.name for one in symbols][:3] == ["small", "chat", "own"]
    folded = await client.text_document_folding_range_async(lsp.FoldingRangeParams(doc.id))
    assert (2, 19) in [(one.start_line, one.end_line) for one in folded]
    tokens = await client.text_document_semantic_tokens_full_async(lsp.SemanticTokensParams(doc.id))
    assert len(tokens.data) % 5 == 0
    assert len(tokens.data) > 500
    doc.change("plan p {")
    assert not await client.text_document_formatting_async(lsp.DocumentFormattingParams(doc.id, options))
    doc.change(OWN)
    whole = lsp.Range(lsp.Position(0, 0), lsp.Position(60, 0))
    hints = await client.text_document_inlay_hint_async(lsp.InlayHintParams(doc.id, whole))
    assert any(str(one.label).startswith("TTFT") for one in hints)


async def test_hostile_documents_get_an_answer(client, tmp_path):
    watch(client)
    doc = Open(client, tmp_path / "a.plan", "x" * 300_000)
    assert [d.code for d in await doc.findings()] == ["E108"]
    doc.change("let a = " + "(" * 20_000)
    assert await doc.findings()
    doc.change('use "../../../etc/passwd"\nuse "/etc/passwd"\n\0\ud7ff{{{{"')
    assert await doc.findings()
    for line in (0, 2, 999):
        position = lsp.Position(line, 5)
        await client.text_document_hover_async(lsp.HoverParams(doc.id, position))
        await client.text_document_completion_async(lsp.CompletionParams(doc.id, position))
        await client.text_document_definition_async(lsp.DefinitionParams(doc.id, position))
    client.text_document_did_close(lsp.DidCloseTextDocumentParams(doc.id))
    await client.text_document_hover_async(lsp.HoverParams(doc.id, lsp.Position(0, 0)))
