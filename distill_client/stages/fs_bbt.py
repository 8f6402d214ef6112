"""FS-BBT: blends of two pool images, and a CVAE's images where a blend would be hardly more than one of the two.

As released, the CVAE learns from a second pool, whose answers are bought for it: the student never sees them.
"""

from collections.abc import Iterable, Iterator

from distill_client.contenders import restore_network, save_network
from distill_client.randomness import torch_generator
from distill_client.stages.stage import SECOND_POOL, Stage, Walk
from distill_client.student.targets import answered_rows, top_classes
from distill_client.synthesis.cvae import generate, train_cvae
from distill_client.synthesis.cvae_networks import create_cvae
from distill_client.synthesis.epochs import Epochs
from distill_client.synthesis.mixup import mix_pairs
from shared.wire.images import Images


def stages(walk: Walk) -> Iterator[Stage]:
    """First the blends, then what the CVAE makes of the pool and the answers to it (FS-BBT sections 3.1 and 3.2)."""
    pool, plan, cost = walk.material.pool, walk.material.plan, walk.material.cost
    if cost.mixup:
        yield Stage("mixup", lambda: mix_pairs(pool.images_nhwc, plan.first_n, plan.second_n, plan.lambda_n))
    if cost.cvae:
        second_nhwc = pool.second_nhwc
        if second_nhwc is not None:
            yield Stage(SECOND_POOL, lambda: [second_nhwc])
        yield Stage("cvae", lambda: _generate(walk))


def _pool_of_the_cvae(walk: Walk) -> str:
    return SECOND_POOL if walk.material.pool.second_nhwc is not None else "pool"


def _generate(walk: Walk) -> Iterable[Images]:
    """CVAE images under the plan's z and conditions; the CVAE learns from its pool and the teacher's top classes."""
    folder, plan = walk.folder, walk.material.plan
    config, seed = folder.config.synthesis.cvae, folder.config.seed
    pool = folder.labels.labelled(_pool_of_the_cvae(walk))
    cvae = create_cvae(
        config,
        image_hwc=pool.images_nhwc.shape[1:],
        classes=len(folder.record.teacher.classes),
        generator=torch_generator(seed, "cvae.initial-weights"),
    ).to(walk.device)
    if folder.cvae_path.exists():
        restore_network(cvae, folder.cvae_path)
    else:
        heard, checkpoint_path = walk.reporter.training("CVAE"), folder.checkpoint_path("cvae")
        with folder.timed("train_cvae"):
            answered_n = answered_rows(pool.values)
            train_cvae(
                cvae,
                config,
                pool.images_nhwc if answered_n.all() else pool.images_nhwc[answered_n],
                top_classes(pool.values[answered_n]),
                torch_generator(seed, "cvae.training", walk.device),
                Epochs(lambda epoch: heard(epoch, config.epochs, float("nan")), checkpoint_path),
            )
        save_network(cvae, folder.cvae_path)
        checkpoint_path.unlink(missing_ok=True)
    return generate(cvae, plan.z_nd, plan.classes_n)
