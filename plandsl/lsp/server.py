"""The server: requests of an editor become calls of `plandsl.editing`, in one thread, the latest text first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from lsprotocol import types as lsp
from pygls import uris
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer

from plandsl._version import __version__
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.editing.actions import Action, actions, rename
from plandsl.editing.complete import complete
from plandsl.editing.desk import Desk
from plandsl.editing.hover import about_entry, hover
from plandsl.editing.inlays import inlays
from plandsl.editing.outline import folds, outline, painted
from plandsl.editing.symbols import path_of, used
from plandsl.lsp import convert
from plandsl.lsp.convert import Columns, Shown

T = TypeVar("T")

PAUSE = 0.008
"""Seconds without a change after which a text is looked at."""

MOST_FIXED = 5
"""Most findings of one request whose fixes are looked for: each is tried out."""

TRIGGERS = [".", "=", " ", "{", "[", "(", "@", ">", '"', "/"]
"""Signs after which an editor asks what may follow."""


class Server(LanguageServer):
    """The open files, and the thread in which they are read. A change stops the work on the text before it."""

    def __init__(self) -> None:
        super().__init__("planc", f"v{__version__}", text_document_sync_kind=lsp.TextDocumentSyncKind.Incremental)
        self.desk = Desk()
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="planc")
        self.versions: dict[str, int] = {}
        self.uris: dict[str, str] = {}  # name of an open file -> its URI, as the editor spells it
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.published: dict[str, list[Diagnostic]] = {}

    # ---- files

    def name_of(self, uri: str) -> str:
        """The name of a file on the desk: its path, or ``<...>`` for a text that no file holds."""
        path = uris.to_fs_path(uri) if uri.startswith("file:") else None
        return path or f"<{uri}>"

    def columns(self, name: str) -> Columns:
        """The columns of an open file, or of one on disk."""
        codec = self.workspace.position_codec
        lines = self.desk.text(name).split("\n") if name in self.desk.names else convert.lines_of(name)
        return Columns(lines, codec)

    def take(self, uri: str, version: int | None) -> None:
        """Put the text of a document on the desk, and look at it and at the files that use it."""
        name = self.name_of(uri)
        self.uris[name], self.versions[name] = uri, version or 0
        self.desk.put(name, self.workspace.get_text_document(uri).source)
        for one in (name, *self.desk.users_of(name)):
            self.look_soon(one)

    def drop(self, uri: str) -> None:
        """Close a document."""
        name = self.name_of(uri)
        users = self.desk.users_of(name)
        self.desk.close(name)
        if (task := self.tasks.pop(name, None)) is not None:
            task.cancel()
        self.versions.pop(name, None)
        self.uris.pop(name, None)
        self.published.pop(name, None)
        self.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(uri=uri, diagnostics=[]))
        for one in users:
            self.look_soon(one)

    # ---- work

    async def run(self, call: Callable[[], T]) -> T:
        """What ``call`` gives, in the one thread that reads texts."""
        return await asyncio.get_running_loop().run_in_executor(self.worker, call)

    def look_soon(self, name: str) -> None:
        """Look at a file after a pause, unless it changes before that."""
        if (task := self.tasks.get(name)) is not None:
            task.cancel()
        self.tasks[name] = asyncio.get_running_loop().create_task(self._look(name))

    async def _look(self, name: str) -> None:
        await asyncio.sleep(PAUSE)
        version = self.versions.get(name)

        def stale() -> bool:
            return self.versions.get(name) != version

        found = await self.run(lambda: self.desk.reading(name).look(stale))
        if stale():
            return
        self._publish(name, found)
        if any(d.severity == "error" for d in found):
            return
        # a plan at a time, so that requests need not wait for all of them
        reading = await self.run(lambda: self.desk.reading(name))
        for plan in reading.plans:
            await self.run(lambda plan=plan: reading.plan(plan))  # type: ignore[misc]
            if stale():
                return
        self._publish(name, await self.run(lambda: reading.check(stale)))

    def _publish(self, name: str, found: list[Diagnostic]) -> None:
        if self.published.get(name) is not None and self.published[name] == found:
            return
        self.published[name] = found
        uri, columns = self.uris[name], self.columns(name)
        placed = self.desk.placed(name, found)
        params = lsp.PublishDiagnosticsParams(
            uri=uri,
            version=self.versions.get(name),
            diagnostics=[convert.diagnostic(one, columns, uri) for one in placed],
        )
        self.text_document_publish_diagnostics(params)

    async def ask(self, uri: str, position: lsp.Position, call: Callable[[str, int, int], T]) -> tuple[T, Columns]:
        """What ``call`` says of a place of a document, and the columns of its text."""
        name = self.name_of(uri)
        columns = self.columns(name)
        line, column = columns.place(position)
        return await self.run(lambda: call(name, line, column)), columns

    @property
    def shown(self) -> Shown:
        """What the editor can show."""
        text = self.client_capabilities.text_document
        item = text.completion.completion_item if text and text.completion else None
        return Shown(
            snippets=bool(item and item.snippet_support),
            documentation=_markup(item.documentation_format if item else None),
            hover=_markup(text.hover.content_format if text and text.hover else None),
        )


def _markup(formats: Sequence[lsp.MarkupKind] | None) -> lsp.MarkupKind:
    """Markdown where an editor shows it, else plain text."""
    return lsp.MarkupKind.Markdown if lsp.MarkupKind.Markdown in (formats or ()) else lsp.MarkupKind.PlainText


def make_server() -> Server:
    """A server with all that it can do."""
    server = Server()
    _add_files(server)
    _add_words(server)
    _add_names(server)
    _add_edits(server)
    _add_shape(server)
    return server


def _add_files(server: Server) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    async def opened(ls: Server, params: lsp.DidOpenTextDocumentParams) -> None:
        ls.take(params.text_document.uri, params.text_document.version)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    async def changed(ls: Server, params: lsp.DidChangeTextDocumentParams) -> None:
        ls.take(params.text_document.uri, params.text_document.version)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    async def closed(ls: Server, params: lsp.DidCloseTextDocumentParams) -> None:
        ls.drop(params.text_document.uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    async def saved(ls: Server, params: lsp.DidSaveTextDocumentParams) -> None:
        _touch(ls)

    @server.feature(lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    async def watched(ls: Server, params: lsp.DidChangeWatchedFilesParams) -> None:
        _touch(ls)


def _touch(ls: Server) -> None:
    ls.desk.touch()
    for name in ls.desk.names:
        ls.look_soon(name)


def _add_words(server: Server) -> None:
    options = lsp.CompletionOptions(trigger_characters=TRIGGERS, resolve_provider=True)

    @server.feature(lsp.TEXT_DOCUMENT_COMPLETION, options)
    async def completed(ls: Server, params: lsp.CompletionParams) -> lsp.CompletionList:
        def offer(name: str, line: int, column: int) -> tuple[Any, int, int]:
            return complete(ls.desk.reading(name), line, column), line, column

        (found, line, column), columns = await ls.ask(params.text_document.uri, params.position, offer)
        where = lsp.Range(columns.position(line, found.column), columns.position(line, column))
        shown = ls.shown
        items = [convert.completion(item, at, where, shown) for at, item in enumerate(found.items)]
        return lsp.CompletionList(is_incomplete=False, items=items)

    @server.feature(lsp.COMPLETION_ITEM_RESOLVE)
    async def resolved(ls: Server, item: lsp.CompletionItem) -> lsp.CompletionItem:
        data = item.data if isinstance(item.data, dict) else {}
        kind, name = data.get("of"), data.get("name")
        if isinstance(kind, str) and isinstance(name, str):
            text = await ls.run(lambda: about_entry(kind, name))
            item.documentation = lsp.MarkupContent(ls.shown.documentation, text) if text else None
        return item

    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    async def hovered(ls: Server, params: lsp.HoverParams) -> lsp.Hover | None:
        found, columns = await ls.ask(
            params.text_document.uri,
            params.position,
            lambda name, line, column: hover(ls.desk.reading(name), line, column),
        )
        return (
            None
            if found is None
            else lsp.Hover(lsp.MarkupContent(ls.shown.hover, found.text), columns.range(found.span))
        )

    @server.feature(lsp.TEXT_DOCUMENT_INLAY_HINT)
    async def inlaid(ls: Server, params: lsp.InlayHintParams) -> list[lsp.InlayHint]:
        name = ls.name_of(params.text_document.uri)
        version, columns = ls.versions.get(name), ls.columns(name)
        first, last = params.range.start.line + 1, params.range.end.line + 1
        found = await ls.run(
            lambda: inlays(ls.desk.reading(name), first, last, lambda: ls.versions.get(name) != version)
        )
        return [
            lsp.InlayHint(
                columns.position(one.line, one.column), one.text, tooltip=one.about or None, padding_left=True
            )
            for one in found
        ]


def _add_names(server: Server) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_DEFINITION)
    async def defined(ls: Server, params: lsp.DefinitionParams) -> list[lsp.Location]:
        found, _ = await ls.ask(params.text_document.uri, params.position, ls.desk.declared_at)
        return [_location(ls, path, span) for path, span in found]

    @server.feature(lsp.TEXT_DOCUMENT_REFERENCES)
    async def referred(ls: Server, params: lsp.ReferenceParams) -> list[lsp.Location]:
        def find(name: str, line: int, column: int) -> list[tuple[str, Any]]:
            one = ls.desk.symbol(name, line, column)
            if one is None:
                return []
            found = used(ls.desk.occurrences(), one)
            return [(o.path, o.span) for o in found if params.context.include_declaration or not o.defines]

        found, _ = await ls.ask(params.text_document.uri, params.position, find)
        return [_location(ls, path, span) for path, span in found]

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT)
    async def highlighted(ls: Server, params: lsp.DocumentHighlightParams) -> list[lsp.DocumentHighlight]:
        def find(name: str, line: int, column: int) -> list[Any]:
            one = ls.desk.symbol(name, line, column)
            here = path_of(ls.desk.reading(name).unit)
            return [] if one is None else [o for o in used(ls.desk.occurrences(name), one) if o.path == here]

        found, columns = await ls.ask(params.text_document.uri, params.position, find)
        kinds = (lsp.DocumentHighlightKind.Read, lsp.DocumentHighlightKind.Write)
        return [lsp.DocumentHighlight(columns.range(o.span), kinds[o.defines]) for o in found]

    @server.feature(lsp.TEXT_DOCUMENT_PREPARE_RENAME)
    async def prepared(ls: Server, params: lsp.PrepareRenameParams) -> lsp.Range | None:
        found, columns = await ls.ask(params.text_document.uri, params.position, ls.desk.symbol)
        return None if found is None else columns.range(found.span)

    @server.feature(lsp.TEXT_DOCUMENT_RENAME, lsp.RenameOptions(prepare_provider=True))
    async def renamed(ls: Server, params: lsp.RenameParams) -> lsp.WorkspaceEdit | None:
        def find(name: str, line: int, column: int) -> dict[str, list[Any]]:
            one = ls.desk.symbol(name, line, column)
            if one is None:
                return {}
            readings = {other: ls.desk.reading(other) for other in ls.desk.names}
            return {**rename(readings, ls.desk.occurrences(), one, params.new_name)}

        try:
            found, _ = await ls.ask(params.text_document.uri, params.position, find)
        except PlanError as error:
            raise JsonRpcInvalidParams(_told(error)) from None
        changes = {
            _uri(ls, path): convert.edits(made, ls.columns(ls.desk.name_of(path))) for path, made in found.items()
        }
        return lsp.WorkspaceEdit(changes=changes) if changes else None


def _told(error: PlanError) -> str:
    first = error.diagnostics[0]
    return f"{first.code}: {first.message}" + (f" ({first.hint})" if first.hint else "")


def _uri(ls: Server, path: str) -> str:
    return ls.uris.get(ls.desk.name_of(path)) or convert.uri_of(path)


def _location(ls: Server, path: str, span: Any) -> lsp.Location:
    return lsp.Location(_uri(ls, path), ls.columns(ls.desk.name_of(path)).range(span))


def _add_edits(server: Server) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_FORMATTING)
    async def formatted(ls: Server, params: lsp.DocumentFormattingParams) -> list[lsp.TextEdit]:
        from plandsl.grammar.fmt import format_text

        name = ls.name_of(params.text_document.uri)
        text, columns = ls.desk.text(name), ls.columns(name)
        try:
            made = await ls.run(lambda: format_text(text, name))
        except PlanError as error:
            why = f"not formatted: {error.diagnostics[0].message}"
            ls.window_show_message(lsp.ShowMessageParams(lsp.MessageType.Warning, why))
            return []
        end = lsp.Position(len(columns.lines), 0)
        return [] if made == text else [lsp.TextEdit(lsp.Range(lsp.Position(0, 0), end), made)]

    options = lsp.CodeActionOptions(code_action_kinds=[lsp.CodeActionKind.QuickFix])

    @server.feature(lsp.TEXT_DOCUMENT_CODE_ACTION, options)
    async def acted(ls: Server, params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
        uri = params.text_document.uri
        name = ls.name_of(uri)
        columns = ls.columns(name)
        asked = {(str(d.code), d.range.start.line, d.range.start.character) for d in params.context.diagnostics}
        placed = [(d, convert.diagnostic(d, columns, uri)) for d in ls.published.get(name, []) if d.span is not None]
        chosen = [
            (d, made) for d, made in placed if (d.code, made.range.start.line, made.range.start.character) in asked
        ]
        by_finding = dict(chosen[:MOST_FIXED])
        found: list[Action] = await ls.run(lambda: actions(ls.desk.reading(name), list(by_finding)))
        return [
            lsp.CodeAction(
                title=one.title,
                kind=lsp.CodeActionKind.QuickFix,
                diagnostics=[by_finding[one.of]],
                is_preferred=at == 0,
                edit=lsp.WorkspaceEdit(changes={uri: convert.edits(one.edits, columns)}),
            )
            for at, one in enumerate(found)
        ]


def _add_shape(server: Server) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    async def outlined(ls: Server, params: lsp.DocumentSymbolParams) -> list[lsp.DocumentSymbol]:
        name = ls.name_of(params.text_document.uri)
        columns = ls.columns(name)
        found = await ls.run(lambda: outline(ls.desk.reading(name)))
        return [convert.symbol(one, columns) for one in found]

    @server.feature(lsp.TEXT_DOCUMENT_FOLDING_RANGE)
    async def folded(ls: Server, params: lsp.FoldingRangeParams) -> list[lsp.FoldingRange]:
        name = ls.name_of(params.text_document.uri)
        found = await ls.run(lambda: folds(ls.desk.reading(name)))
        kinds = {"comment": lsp.FoldingRangeKind.Comment, "region": lsp.FoldingRangeKind.Region}
        return [lsp.FoldingRange(one.first - 1, one.last - 1, kind=kinds[one.kind]) for one in found]

    @server.feature(lsp.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL, convert.LEGEND)
    async def coloured(ls: Server, params: lsp.SemanticTokensParams) -> lsp.SemanticTokens:
        name = ls.name_of(params.text_document.uri)
        columns = ls.columns(name)
        found = await ls.run(lambda: painted(ls.desk.reading(name)))
        return lsp.SemanticTokens(data=convert.tokens(found, columns))
