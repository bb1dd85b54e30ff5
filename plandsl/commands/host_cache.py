"""Host memory behind a KV cache that a command line gives as a multiple of the cache: how many bytes that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plandsl.answers.estimate import Estimate
from plandsl.backends.engines.server import HostCache, Server
from plandsl.driver import compile_text


def size_host_caches(servers: Sequence[Server], write: Callable[[Sequence[Server]], str]) -> list[Server]:
    """The servers with bytes in the place of ratios. ``write`` gives the text of a plan of some servers.

    The plan without the host memory says how large a GPU's own cache is. Raises `PlanError` where it does not compile.
    """
    if not any(server.host_cache is not None and server.host_cache.ratio for server in servers):
        return list(servers)
    bare = [server._replace(host_cache=None) for server in servers]
    found = compile_text(write(bare), "imported.plan")[0].closed_form()
    pools = [found] if found.pools is None else [found.pools.prefill.estimate, found.pools.decode.estimate]
    return [_sized(server, estimate) for server, estimate in zip(servers, pools, strict=True)]


def _sized(server: Server, estimate: Estimate) -> Server:
    host = server.host_cache
    if host is None or not host.ratio:
        return server
    size = round(host.ratio * kv_bytes(server, estimate), -9)
    return server._replace(host_cache=HostCache(max(size, 1e9), write=host.write))


def kv_bytes(server: Server, estimate: Estimate) -> float:
    """Bytes of KV cache on each GPU of a server: the tokens of a copy, whose cache lies on its ranks."""
    tokens = estimate.kv_capacity_tokens / max(estimate.replicas, 1)
    return tokens * estimate.kv_bytes_per_token / server.degrees.ranks
