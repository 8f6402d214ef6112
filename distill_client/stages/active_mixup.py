"""Active MixUp, BBKD's: in rounds, the blends of two pool images that the student so far is least sure of.

The published code (dwang181/active-mixup), but for three things. What is chosen is chosen of sampled pairs, where
all are too many (``synthesis.active.candidates``). A student is the one of its last step: the code keeps that of its
best epoch on the test set. And pixels are rounded, not cut off.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill_client.durable import write_durably
from distill_client.randomness import numpy_generator
from distill_client.stages.interim import interim_student
from distill_client.stages.stage import Stage, Walk
from distill_client.synthesis.active import choose, draw_candidates, least_confident, shares
from distill_client.synthesis.mixup import mix_pairs
from shared.wire.images import Images, InvalidImages, decode_npy, encode_npy


def stages(walk: Walk) -> Iterator[Stage]:
    """A stage a round; none but the first can be rendered before the one before it is bought."""
    for number, stage in enumerate(walk.material.cost.of_rounds(), start=1):
        yield Stage(stage, partial(_render, walk, number))


def _render(walk: Walk, number: int) -> Iterable[Images]:
    config, pool_nhwc = walk.folder.config.synthesis.active, walk.material.pool.images_nhwc
    chosen_n2 = _choices(walk, number)[-1]
    pairs_n2 = _candidates(walk)[chosen_n2[:, 0]]
    return mix_pairs(pool_nhwc, pairs_n2[:, 0], pairs_n2[:, 1], shares(config)[chosen_n2[:, 1]])


def _candidates(walk: Walk) -> NDArray[np.int64]:
    """The pairs that the whole run chooses from, drawn once; int64 N x 2 of pool images."""
    config, pool = walk.folder.config, walk.material.pool
    rng = numpy_generator(config.seed, "active.candidates")
    return draw_candidates(config.synthesis.active.candidates, len(pool.images_nhwc), rng)


def _choices(walk: Walk, rounds: int) -> list[NDArray[np.int64]]:
    """What each of the first rounds buys: rows of a candidate and the place of its share, int64 N x 2.

    They are kept, for what was paid for must be rendered again from them; what is not kept is chosen, and kept.
    """
    choices: list[NDArray[np.int64]] = []
    for number, images in enumerate(list(walk.material.cost.of_rounds().values())[:rounds], start=1):
        path = walk.folder.choice_path(number)
        chosen_n2 = _read_choice(path)
        if chosen_n2 is None or len(chosen_n2) != images:
            chosen_n2 = _choose(walk, choices, number, images)
            path.parent.mkdir(exist_ok=True)
            write_durably(path, encode_npy(chosen_n2))
        choices.append(chosen_n2)
    return choices


def _read_choice(path: Path) -> NDArray[np.int64] | None:
    """What was kept of a round's choice; None where nothing was, or it is damaged: it is made again then."""
    with suppress(OSError, InvalidImages):
        kept = decode_npy(path.read_bytes())
        if kept.dtype == np.int64 and kept.ndim == 2 and kept.shape[1] == 2:
            return kept.astype(np.int64)
    return None


def _choose(walk: Walk, earlier: list[NDArray[np.int64]], number: int, images: int) -> NDArray[np.int64]:
    """Choose for a round by the student of the rounds before; no pair is bought twice, under whatever share."""
    student, candidates_n2 = interim_student(walk, number - 1), _candidates(walk)
    is_taken_n = np.zeros(len(candidates_n2), dtype=bool)
    for chosen_n2 in earlier:
        is_taken_n[chosen_n2[:, 0]] = True
    with walk.folder.timed(f"choose_active-{number}"):
        grid, pool_nhwc = shares(walk.folder.config.synthesis.active), walk.material.pool.images_nhwc
        progress = walk.reporter.choosing(f"active-{number}", len(candidates_n2))
        confidence_n, place_n = least_confident(student, pool_nhwc, candidates_n2, grid, progress)
        chosen_n = choose(confidence_n, is_taken_n, images)
    return np.stack([chosen_n, place_n[chosen_n]], axis=1)
