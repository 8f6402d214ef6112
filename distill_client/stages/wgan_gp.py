"""WGAN-GP with balanced classes: DivBFKD's generator, trained and balanced without its millions of queries.

The GAN learns from the pool's images alone; a student of the pool's answers says which class a generated image shows,
and equal numbers of every class are bought, each image once. DivBFKD asks the teacher both times.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import nn

from distill_client.contenders import restore_network, save_network
from distill_client.randomness import torch_generator
from distill_client.stages.interim import interim_student
from distill_client.stages.stage import Stage, Walk
from distill_client.student.evaluation import predict_probabilities
from distill_client.synthesis.class_balance import choose_balanced, class_quotas
from distill_client.synthesis.epochs import Epochs
from distill_client.synthesis.gan import candidates_per_block, generate_candidates, train_gan
from distill_client.synthesis.gan_networks import Gan, create_gan
from shared.wire.images import Images


def stages(walk: Walk) -> Iterator[Stage]:
    """All of them at once, after the pool: the student that balances them learns from its answers."""
    if walk.material.cost.gan:
        yield Stage("gan", lambda: _generate(walk))


def _generate(walk: Walk) -> Iterable[Images]:
    """The chosen candidates, block by block; each block is generated again, as it was when it was judged."""
    gan = _trained_gan(walk)
    chosen_n, per_block = _choose(walk, gan, interim_student(walk, 0)), candidates_per_block(gan.image_chw)
    for block in range(chosen_n[-1] // per_block + 1):
        inside = chosen_n[chosen_n // per_block == block] % per_block
        if len(inside):
            yield generate_candidates(gan, walk.folder.config.seed, block)[inside]


def _choose(walk: Walk, gan: Gan, student: nn.Module) -> NDArray[np.int64]:
    """The numbers of the candidates to buy, ascending; generated until every class has its quota, or to the bound."""
    folder, images, per_block = walk.folder, walk.material.cost.gan, candidates_per_block(gan.image_chw)
    quotas_k = class_quotas(images, len(folder.record.teacher.classes))
    most = math.ceil(images * folder.config.synthesis.gan.candidates_per_image / per_block)
    heard = walk.reporter.choosing("gan", most * per_block)
    probabilities, found_k = [], np.zeros_like(quotas_k)
    with folder.timed("choose_gan"):
        for block in range(most):
            probabilities.append(predict_probabilities(student, generate_candidates(gan, folder.config.seed, block)))
            found_k += np.bincount(probabilities[-1].argmax(axis=1), minlength=len(found_k))
            heard((block + 1) * per_block)
            if (found_k >= quotas_k).all():
                break
        return choose_balanced(np.concatenate(probabilities), quotas_k)


def _trained_gan(walk: Walk) -> Gan:
    folder, pool_nhwc = walk.folder, walk.material.pool.images_nhwc
    config, seed = folder.config.synthesis.gan, folder.config.seed
    weights = torch_generator(seed, "gan.initial-weights")
    gan = create_gan(config, image_hwc=pool_nhwc.shape[1:], rng=weights).to(walk.device)
    if folder.gan_path.exists():
        restore_network(gan, folder.gan_path)
        return gan
    heard, checkpoint_path = walk.reporter.training("GAN"), folder.checkpoint_path("gan")
    epochs = Epochs(lambda epoch: heard(epoch, config.epochs, float("nan")), checkpoint_path)
    with folder.timed("train_gan"):
        train_gan(gan, config, pool_nhwc, torch_generator(seed, "gan.training", walk.device), epochs)
    save_network(gan, folder.gan_path)
    checkpoint_path.unlink(missing_ok=True)
    return gan
