"""Launch files of serving engines: from a plan to command lines and manifests, and back.

A plan becomes a `Deployment` (`server.py`), which says what engines and the language both can say. Each engine turns it
into settings by the names of its own arguments, and reads such settings (`vllm.py`, `sglang.py`, `trtllm.py`; the names
stand in `flags.py` as data). Scripts and manifests print settings.
"""
