"""Requests over time: queues, schedulers, blocks of KV memory, routers, and what becomes of each request."""
