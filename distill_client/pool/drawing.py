"""Which of the candidates a run works with: usable, distinct, outside the test set, drawn by the run's seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill_client.config import PoolConfig
from distill_client.errors import ConfigError
from distill_client.pool.candidates import Candidates
from shared.datasets import Skipped
from shared.wire.images import image_digests

_SKIPPED_SHOWN = 5


@dataclass(frozen=True)
class Pool:
    """images_nhwc uint8 N x H x W x C, all distinct, in random order.

    truth_n int64 is for the student-alone baseline only: the method itself never sees a true label; None where there
    are none. ``files`` names the pictures in the same order and ``skipped`` what was passed over, both for folders
    and files only; ``usable`` is how many the pool was drawn from. ``second_nhwc`` is another draw of as many images
    from the same source, for the CVAE alone; the two share what chance makes them share.
    """

    images_nhwc: NDArray[np.uint8]
    truth_n: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    place: str = ""
    usable: int = 0
    files: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    second_nhwc: NDArray[np.uint8] | None = None

    @property
    def second_images(self) -> int:
        """How many images of the second draw are not in the pool as well: what it costs beside the pool."""
        if self.second_nhwc is None:
            return 0
        return len(set(image_digests(self.second_nhwc)) - set(image_digests(self.images_nhwc)))


def draw_pool(
    config: PoolConfig,
    candidates: Candidates,
    class_names: tuple[str, ...],
    forbidden: frozenset[bytes],
    rng: np.random.Generator,
) -> Pool:
    """Draw ``config.images`` distinct images whose digests are not in ``forbidden`` (the test set's).

    ``class_names`` is what truth indexes, or what the teacher answers in where there is none. Raises ConfigError when
    there are not that many.
    """
    usable, passed_over = _distinct(candidates, forbidden)
    skipped = (*candidates.skipped, *passed_over)
    if config.balanced and candidates.truth_n is not None:
        by_class = [usable[candidates.truth_n[usable] == label] for label in range(len(class_names))]
        available = len(class_names) * min(len(members) for members in by_class)
        _require(
            config.images, available, candidates, skipped, "class-balanced, distinct images outside the test set"
        )
        chosen = _draw_balanced(config.images, by_class, rng)
    else:
        _require(config.images, len(usable), candidates, skipped, "distinct images outside the test set")
        chosen = rng.choice(usable, config.images, replace=False)
    return Pool(
        candidates.images_nhwc[chosen],
        None if candidates.truth_n is None else candidates.truth_n[chosen],
        class_names,
        candidates.place,
        len(usable),
        tuple(candidates.files[row] for row in chosen) if candidates.files else (),
        skipped,
    )


def _distinct(candidates: Candidates, forbidden: frozenset[bytes]) -> tuple[NDArray[np.int64], list[Skipped]]:
    """Index of the first copy of every image that may be used, and, of named ones, why others may not."""
    first: dict[bytes, int] = {}
    skipped: list[Skipped] = []
    for row, digest in enumerate(image_digests(candidates.images_nhwc)):
        fault = _fault(candidates, row, first.get(digest), is_forbidden=digest in forbidden)
        if not fault:
            first[digest] = row
        elif candidates.files:
            skipped.append(Skipped(candidates.files[row], fault))
    return np.array(list(first.values()), dtype=np.int64), skipped


def _fault(candidates: Candidates, row: int, same_as: int | None, *, is_forbidden: bool) -> str:
    """Why an image cannot be in the pool; empty when it can."""
    if is_forbidden:
        return "it is in the test set, which is never sent"
    if same_as is not None:
        return "at the teacher's input the same as " + (
            candidates.files[same_as] if candidates.files else str(same_as)
        )
    image_hwc = candidates.images_nhwc[row]
    if candidates.files and (image_hwc == image_hwc[0, 0]).all():
        return "a single colour all over at the teacher's input, which no answer is worth"
    return ""


def _draw_balanced(wanted: int, by_class: list[NDArray[np.int64]], rng: np.random.Generator) -> NDArray[np.int64]:
    """Equal numbers per true class (FS-BBT section 4.1); classes chosen at random get one of the remainder each."""
    classes = len(by_class)
    quotas = np.full(classes, wanted // classes)
    quotas[rng.permutation(classes)[: wanted % classes]] += 1
    chosen = [rng.choice(members, quota, replace=False) for members, quota in zip(by_class, quotas, strict=True)]
    return rng.permutation(np.concatenate(chosen))


def _require(wanted: int, available: int, candidates: Candidates, skipped: tuple[Skipped, ...], what: str) -> None:
    if wanted <= available:
        return
    message = f"pool.images is {wanted}; at most {available} are to be had: {candidates.place} holds that many {what}"
    if skipped:
        shown = [f"{one.file} ({one.reason})" for one in skipped[:_SKIPPED_SHOWN]]
        more = [f"and {len(skipped) - len(shown)} more"] if len(skipped) > len(shown) else []
        message += f"; {len(skipped)} skipped: {', '.join([*shown, *more])}"
    raise ConfigError(message)
