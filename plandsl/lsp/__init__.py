"""`planc lsp`: what `plandsl.editing` says, in the Language Server Protocol. It needs the extra `lsp`."""
