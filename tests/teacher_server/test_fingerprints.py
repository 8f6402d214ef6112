"""What is kept of an image: its digest, a hash that near images share, and the teacher's first choice."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.wire.images import Images, image_digests
from teacher_server.fingerprints import FINGERPRINT, difference_hashes, pack_fingerprints

SHAPES = [(28, 28, 1), (8, 8, 1), (32, 32, 3), (224, 224, 3), (5, 7, 1), (1, 1, 1), (8, 9, 1)]


def bits_between(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> list[int]:
    return [int(value).bit_count() for value in one ^ other]


def smooth_images(count: int, seed: int) -> Images:
    """28 x 28 images of a few large areas, which is what hashes of 8 x 9 cells are about."""
    coarse = np.random.default_rng(seed).integers(0, 200, (count, 7, 7, 1)).astype(np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def test_records_are_packed_in_order() -> None:
    images = smooth_images(3, 1)
    digests = image_digests(images)
    probabilities = np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0], [0, 0.25, 0.75]], np.float32)
    packed = pack_fingerprints(images, digests, probabilities)
    assert FINGERPRINT.itemsize == 32 + 8 + 2 + 4
    assert len(packed) == 3 * FINGERPRINT.itemsize
    records = np.frombuffer(packed, FINGERPRINT)
    assert [record.tobytes() for record in records["digest"]] == digests
    assert records["dhash"].tolist() == difference_hashes(images).tolist()
    assert records["top_class"].tolist() == [1, 0, 2]
    assert records["confidence"].tolist() == [np.float32(0.7), 0.5, 0.75]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_of_one_colour_has_no_bits(shape: tuple[int, int, int]) -> None:
    images = np.stack([np.full(shape, value, np.uint8) for value in range(0, 256, 5)])
    assert difference_hashes(images).tolist() == [0] * len(images)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1] > 1], ids=str)
def test_brighter_to_the_right_sets_every_bit_and_darker_none(shape: tuple[int, int, int]) -> None:
    rising = np.broadcast_to(np.linspace(0, 255, shape[1]).astype(np.uint8)[None, :, None], shape)
    found = difference_hashes(np.stack([rising, rising[:, ::-1]]))
    assert found.tolist() == [2**64 - 1, 0]


def test_the_first_bit_is_the_upper_left() -> None:
    image = np.zeros((1, 8, 9, 1), np.uint8)
    image[0, 0, 1] = 255
    assert difference_hashes(image).tolist() == [1 << 63]
    image = np.zeros((1, 8, 9, 1), np.uint8)
    image[0, 7, 8] = 255
    assert difference_hashes(image).tolist() == [1]


def test_near_images_have_near_hashes_and_others_do_not() -> None:
    images = smooth_images(50, 1)
    noise = np.random.default_rng(2).integers(-2, 3, images.shape)
    noisy = (images.astype(np.int64) + noise).clip(0, 255).astype(np.uint8)
    larger = images.repeat(2, axis=1).repeat(2, axis=2)
    hashes = difference_hashes(images)
    assert max(bits_between(hashes, difference_hashes(noisy))) <= 12
    assert bits_between(hashes, difference_hashes(larger)) == [0] * 50
    assert np.mean(bits_between(hashes, difference_hashes(smooth_images(50, 3)))) > 20


def test_a_hash_does_not_depend_on_the_batch() -> None:
    images = smooth_images(64, 1)
    together = difference_hashes(images)
    assert together.tolist() == [int(difference_hashes(image[None])[0]) for image in images]
