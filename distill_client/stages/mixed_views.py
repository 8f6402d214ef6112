"""Mixed views: everything beside the pool is spent on MixUp of randomly transformed pool images."""

from collections.abc import Iterator

from distill_client.stages.stage import Stage, Walk
from distill_client.synthesis.views import render_views


def stages(walk: Walk) -> Iterator[Stage]:
    """All of them at once: none depends on an answer."""
    pool, plan = walk.material.pool, walk.material.plan
    if len(plan.views):
        yield Stage("views", lambda: render_views(pool.images_nhwc, plan.views))
