"""What a run buys beside its pool, stage by stage: one module for each method of making synthetic images.

A method is a generator of stages. A stage is bought before the next one is asked for, so what comes later may depend
on the answers to what came earlier. It is asked for again by a run that goes on after a kill: nothing is rendered
then that was recorded before, and a method draws from the run's seed and from what was bought alone.
"""

from collections.abc import Iterator

from distill_client.stages import active_mixup, fs_bbt, mixed_views, wgan_gp
from distill_client.stages.stage import Stage as Stage
from distill_client.stages.stage import Walk as Walk
from distill_client.stages.stage import taught_stages as taught_stages

_METHODS = {
    "fs-bbt": fs_bbt.stages,
    "mixed-views": mixed_views.stages,
    "active-mixup": active_mixup.stages,
    "wgan-gp": wgan_gp.stages,
}


def synthetic_stages(walk: Walk) -> Iterator[Stage]:
    """The stages of the run's own method, one after the other."""
    return _METHODS[walk.folder.config.synthesis.method](walk)
