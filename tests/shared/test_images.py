"""Image bytes as a stranger might send them, and the digests both sides must agree on."""

import hashlib
import io
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from shared.wire.images import (
    InvalidImages,
    answer_digest,
    batch_digest,
    decode_npy,
    encode_npy,
    image_digests,
    require_images,
)


def npy(
    data: bytes = b"abcd",
    *,
    descr: str = "'|u1'",
    fortran: str = "False",
    shape: str = "(1, 2, 2, 1)",
    version: tuple[int, int] = (1, 0),
) -> bytes:
    """An .npy file whose header says whatever it is told to."""
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


def saved(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


@settings(deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, max_side=6)))
def test_encoded_arrays_come_back_read_only(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    decoded = decode_npy(encode_npy(array))

    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, array)
    assert not decoded.flags.writeable


@pytest.mark.parametrize("array", [np.array([0.25, 1.0], np.float32), np.array([[3], [-1]], np.int64)])
def test_answers_come_back_too(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    np.testing.assert_array_equal(decode_npy(encode_npy(array)), array)


def test_both_header_versions_that_numpy_writes_are_read() -> None:
    assert decode_npy(npy(version=(1, 0))).shape == decode_npy(npy(version=(2, 0))).shape == (1, 2, 2, 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "header cannot be read", id="nothing"),
        pytest.param(b"\x93NUMPY", "header cannot be read", id="magic only"),
        pytest.param(b"PK\x03\x04" + bytes(60), "header cannot be read", id="an npz"),
        pytest.param(npy()[:40], "header cannot be read", id="cut in the header"),
        pytest.param(npy(b"abc"), "needs 4 bytes of data, the body holds 3", id="cut in the data"),
        pytest.param(npy(b"abcde"), "needs 4 bytes of data, the body holds 5", id="bytes after the data"),
        pytest.param(npy(version=(3, 0)), "version 3.0", id="version 3"),
        pytest.param(npy(shape="(10**13, 28, 28, 1)"), "header cannot be read", id="an expression for a shape"),
        pytest.param(npy(shape="(10000000000000, 28, 28, 1)"), "needs 7840000000000000 bytes", id="petabytes"),
        pytest.param(npy(b"", shape=f"(0, {10**30})"), "not one an array can have", id="no images, endlessly wide"),
        pytest.param(npy(b"", shape=f"(0, {2**62}, {2**62})"), "not one an array can have", id="overflow"),
        pytest.param(npy(shape="(-1, -4)"), "needs 4 bytes", id="negative extents"),
        pytest.param(npy(b"", shape="(0, -4)"), "needs 0 bytes", id="zero times negative"),
        pytest.param(npy(shape="(True, 2, 2, 1)"), "not one an array can have", id="true as an extent"),
        pytest.param(npy(b"a", shape="(" + "1, " * 70 + ")"), "not one an array can have", id="70 dimensions"),
        pytest.param(npy(fortran="True"), "Fortran order", id="Fortran order"),
        pytest.param(npy(fortran="1"), "header cannot be read", id="1 for true"),
        pytest.param(npy(descr="'|O'", shape="(1,)"), "holds objects", id="objects announced"),
        pytest.param(npy(descr="'<U1'", shape="(1,)"), "not numeric", id="text"),
        pytest.param(npy(descr="'<M8[s]'", shape="(1,)"), "not numeric", id="dates"),
        pytest.param(npy(descr="'<c8'", shape="(1,)"), "not numeric", id="complex"),
        pytest.param(npy(descr="[('a', '|u1')]", shape="(4,)"), "not numeric", id="a structure"),
        pytest.param(npy(descr="('|u1', (2, 2))", shape="(1,)"), "not numeric", id="an array of arrays"),
        pytest.param(npy(descr="'|V4'", shape="(1,)"), "not numeric", id="raw memory"),
        pytest.param(npy(descr="(" * 5000), "header cannot be read", id="a header that nests deeply"),
        pytest.param(b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "header cannot be read", id="a 4 GB header"),
    ],
)
def test_hostile_bodies_are_refused(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidImages, match=reason) as caught:
        decode_npy(body)
    assert caught.value.index is None


class Bomb:
    exploded = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (setattr, (Bomb, "exploded", True))


def test_a_pickled_array_is_never_unpickled() -> None:
    body = saved(np.array([Bomb()], dtype=object), allow_pickle=True)

    with pytest.raises(InvalidImages, match="pickled arrays are never read"):
        decode_npy(body)
    assert not Bomb.exploded


def test_a_header_that_promises_petabytes_allocates_nothing() -> None:
    body = npy(shape="(10000000000000, 28, 28, 1)")
    tracemalloc.start()
    try:
        with pytest.raises(InvalidImages):
            decode_npy(body)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidImages):
        decode_npy(body)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_is_another_array(data: st.DataObject) -> None:
    """Whatever bytes change, the outcome is InvalidImages or an array as large as the body: never another error."""
    body = bytearray(saved(np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)))
    for position in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        body[position] = data.draw(st.integers(0, 255))
    try:
        array = decode_npy(bytes(body))
    except InvalidImages:
        return
    assert array.nbytes <= len(body)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((1, 28, 28, 1), np.float32), "dtype is float32"),
        (np.zeros((1, 28, 28, 1), np.int8), "dtype is int8"),
        (np.zeros((28, 28, 1), np.uint8), r"shape is \(28, 28, 1\)"),
        (np.zeros((1, 28, 28, 3), np.uint8), r"shape is \(1, 28, 28, 3\)"),
        (np.zeros((1, 1, 28, 28), np.uint8), r"shape is \(1, 1, 28, 28\)"),
        (np.zeros((0, 28, 28, 1), np.uint8), "no images"),
    ],
)
def test_arrays_that_are_not_the_teachers_input_are_refused(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], reason: str
) -> None:
    with pytest.raises(InvalidImages, match=reason) as caught:
        require_images(array, height=28, width=28, channels=1)
    assert "uint8 of shape (N, 28, 28, 1)" in str(caught.value)


def test_the_teachers_input_passes_unchanged() -> None:
    images_nhwc = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 1)
    assert require_images(images_nhwc, height=3, width=4, channels=1) is images_nhwc


def test_image_digest_is_sha256_over_shape_and_bytes() -> None:
    images_nhwc = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)

    expected = [hashlib.sha256(struct.pack("<III", 3, 4, 3) + image.tobytes()).digest() for image in images_nhwc]

    assert image_digests(images_nhwc) == expected
    assert image_digests(np.asfortranarray(images_nhwc)) == expected
    assert image_digests(np.concatenate([images_nhwc, images_nhwc])[::2]) == [expected[0]] * 2


def test_the_same_bytes_in_another_shape_are_another_image() -> None:
    image = np.zeros((1, 2, 8, 1), np.uint8)
    digests = {image_digests(image.reshape(1, *shape))[0] for shape in [(2, 8, 1), (8, 2, 1), (4, 4, 1), (16, 1, 1)]}
    assert len(digests) == 4


def test_batch_digest_depends_on_order_and_number() -> None:
    first, second = image_digests(np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1))

    assert batch_digest([first, second]) == hashlib.sha256(first + second).hexdigest()
    assert len({batch_digest(batch) for batch in ([first, second], [second, first], [first], [])}) == 4


def test_answer_digest_does_not_depend_on_byte_or_memory_order() -> None:
    probabilities_nk = np.array([[0.25, 0.75], [1.0, 0.0]], np.float32)
    labels_n = np.array([1, 0], np.int64)

    expected = hashlib.sha256(struct.pack("<4f", 0.25, 0.75, 1.0, 0.0)).hexdigest()

    assert answer_digest(probabilities_nk) == expected
    assert answer_digest(probabilities_nk.astype(">f4")) == expected
    assert answer_digest(np.asfortranarray(probabilities_nk)) == expected
    assert answer_digest(labels_n) == hashlib.sha256(struct.pack("<2q", 1, 0)).hexdigest()
    assert answer_digest(labels_n) == answer_digest(labels_n.astype(">i8"))
