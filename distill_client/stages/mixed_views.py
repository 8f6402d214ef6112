"""Mixed views: everything beside the pool is spent on MixUp of randomly transformed pool images."""

from collections.abc import Iterator
from functools import partial

from distill_client.stages.interim import is_flat_after
from distill_client.stages.stage import Stage, Walk
from distill_client.synthesis.views import render_views


def stages(walk: Walk) -> Iterator[Stage]:
    """All of them at once: none depends on an answer. Or, "until-flat", in rounds, as long as these add enough.

    Rounds cut the same plan into parts: all of them together buy what is bought at once otherwise.
    """
    pool, views = walk.material.pool, walk.material.plan.views
    if not walk.material.cost.rounds:
        if len(views):
            yield Stage("views", lambda: render_views(pool.images_nhwc, views))
        return
    start, rounds = 0, walk.material.cost.of_rounds()
    for number, (stage, images) in enumerate(rounds.items(), start=1):
        yield Stage(stage, partial(render_views, pool.images_nhwc, views.part(start, start + images)))
        start += images
        if number < len(rounds) and is_flat_after(walk, number):
            return
