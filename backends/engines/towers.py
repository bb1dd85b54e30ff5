"""How engines lay the tower of a model: each image over all ranks, as the model lies, or whole images on each rank."""

from __future__ import annotations

from plandsl.backends.engines.degrees import read_degrees
from plandsl.spec.plan import PlanSpec


def read_tower(plan: PlanSpec) -> bool | None:
    """Whether each rank encodes whole images (True), or all share each image (False).

    None where the plan has no tower, where both are the same, or where the tower lies as no engine lays it.
    """
    tower = plan.tower
    if plan.model.tower is None or tower is None:
        return None
    images = shared = 1
    for axis in tower.axes:
        dims = {dim for rule in tower.rules if axis.name in rule.axes for dim in rule.dims}
        if axis.size == 1 or axis.name in tower.replica_axes:
            continue
        if dims == {"batch"}:
            images *= axis.size
        elif "heads" in dims and not dims & {"batch", "tokens", "context", "layers"}:
            shared *= axis.size
        else:
            return None
    model = read_degrees(plan.modes[0])
    own, group = (images, shared), model.tensor * model.sequence * model.context
    if group == 1 or own not in ((model.attention * group, 1), (model.attention, group)):
        return None
    return own == (model.attention * group, 1)
