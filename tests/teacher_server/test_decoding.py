"""A parsed body to a teacher's input: what the API tests do not reach."""

import io

import numpy as np
import pytest
from PIL import Image

from shared.wire.contracts import InputSpec
from shared.wire.error_codes import ErrorCode
from shared.wire.images import encode_npy
from teacher_server.decoding import DecodingLimits, ImageFilesBody, NpyBody, TensorBody, decode_body, quantise
from teacher_server.errors import Refusal
from teacher_server.teachers.manifest import InputTable

SPEC = InputSpec(height=4, width=6, channels=3)
LIMITS = DecodingLimits(images_max=5, file_pixels_max=1000, request_pixels_max=2000)


def png(height: int, width: int, *, value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def refusal_of(body: NpyBody | ImageFilesBody) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        decode_body(body, SPEC, LIMITS)
    return refusal.value


def test_an_array_is_taken_as_it_is() -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)
    assert np.array_equal(decode_body(NpyBody(encode_npy(images)), SPEC, LIMITS), images)


def test_every_pixel_comes_back_from_its_level() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    for levels in (pixels / np.float32(255), (pixels / 255.0).astype(np.float32), pixels * np.float32(1 / 255)):
        assert np.array_equal(quantise(levels.astype(np.float32).clip(0, 1)), pixels)
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)
    levels = (images / np.float32(255)).astype(np.float32)
    assert np.array_equal(decode_body(TensorBody(levels), SPEC, LIMITS), images)
    assert np.array_equal(decode_body(TensorBody(images), SPEC, LIMITS), images)


@pytest.mark.parametrize("level", [-0.001, 1.001, np.nan, np.inf, -np.inf])
def test_levels_that_are_none_are_named_with_their_image(level: float) -> None:
    levels = np.zeros((3, 4, 6, 3), np.float32)
    levels[1, 2, 3, 1] = level
    with pytest.raises(Refusal, match="from 0 to 1") as caught:
        decode_body(TensorBody(levels), SPEC, LIMITS)
    assert caught.value.members == {"index": 1}


def test_files_keep_their_order_and_take_the_teacher_s_shape() -> None:
    contents = tuple(png(4 + value, 6, value=value) for value in (9, 3, 7))
    images = decode_body(ImageFilesBody(contents), SPEC, LIMITS)
    assert images.shape == (3, 4, 6, 3)
    assert images[:, 0, 0, 0].tolist() == [9, 3, 7]


def test_a_file_of_another_size_is_cut_stretched_or_refused_as_the_teacher_declares() -> None:
    buffer = io.BytesIO()
    ends = np.zeros((40, 20, 3), np.uint8)  # twice as high as wide; bright at both ends, where a cut is made
    ends[:10] = ends[30:] = 200
    Image.fromarray(ends).save(buffer, "PNG")
    files = ImageFilesBody((png(4, 6), buffer.getvalue()))
    limits = DecodingLimits(images_max=5, file_pixels_max=1000, request_pixels_max=2000)

    stretched = decode_body(files, SPEC.model_copy(update={"resize": "stretch"}), limits)[1]
    assert stretched[:, 0, 0].tolist() == pytest.approx([200, 0, 0, 200], abs=30)  # antialiased
    cut = decode_body(files, SPEC.model_copy(update={"resize": "crop"}), limits)[1]
    assert not cut.any()
    with pytest.raises(Refusal, match="20 x 40 pixels; this teacher takes 6 x 4 exactly") as caught:
        decode_body(files, SPEC.model_copy(update={"resize": "exact"}), limits)
    assert caught.value.code is ErrorCode.INVALID_IMAGES
    assert caught.value.members == {"index": 1}


def test_a_manifest_that_says_no_rule_resizes_nothing() -> None:
    table = {"height": 4, "width": 6, "channels": 1, "mean": [0.0], "std": [1.0]}
    assert InputTable.model_validate(table).resize == "exact"
    assert InputTable.model_validate({**table, "resize": "crop"}).resize == "crop"
    with pytest.raises(ValueError, match="'exact', 'crop' or 'stretch'"):
        InputTable.model_validate({**table, "resize": "fill"})


def test_pixels_are_shared_among_the_files_of_a_request() -> None:
    assert len(decode_body(ImageFilesBody((png(25, 40),) * 2), SPEC, LIMITS)) == 2
    assert refusal_of(ImageFilesBody((png(25, 41), png(25, 40)))).members == {"index": 0}
    assert refusal_of(ImageFilesBody((png(4, 6), png(4, 6), png(25, 40)))).members == {"index": 2}


@pytest.mark.parametrize(
    "body",
    [NpyBody(encode_npy(np.zeros((6, 4, 6, 3), np.uint8))), ImageFilesBody((b"not even an image",) * 6)],
    ids=["npy", "files"],
)
def test_images_are_counted_before_files_are_decoded(body: NpyBody | ImageFilesBody) -> None:
    refusal = refusal_of(body)
    assert refusal.code is ErrorCode.TOO_MANY_IMAGES
    assert refusal.members == {"images": 6, "images_per_request_max": 5}


def test_no_files_are_no_images() -> None:
    refusal = refusal_of(ImageFilesBody(()))
    assert refusal.code is ErrorCode.INVALID_IMAGES
    assert "index" not in refusal.members
