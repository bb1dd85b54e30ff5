"""The cost backend: a schedule becomes seconds, bytes and reasons."""

from __future__ import annotations

from plandsl.backends.cost.answers.estimate import estimate
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.deployments.single import Single

__all__ = ["Deployment", "Metrics", "Replicas", "Single", "estimate"]
