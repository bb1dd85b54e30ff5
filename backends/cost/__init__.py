"""The cost backend: a schedule becomes seconds, bytes and reasons."""

from __future__ import annotations

from plandsl.backends.cost.answers.estimate import estimate
from plandsl.backends.cost.deployments.single import CostModel, Metrics

__all__ = ["CostModel", "Metrics", "estimate"]
