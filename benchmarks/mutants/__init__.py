"""Mutation testing: does a test fail when one place of the code is changed? `make mutants` runs it.

`places` draws the changes, `covering` says which tests run a line, `swap` puts a change into loaded functions or into
the import of a module, `trial` runs tests under a change, and `session` keeps what came of each.
"""
