"""What an editor says of a plan: pure functions of a text and a place in it, without any protocol of an editor.

`plandsl/lsp/` speaks them to editors. A web page that shows a plan while it is written may call them too.
"""
