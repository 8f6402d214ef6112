"""Bodies: bounded while they are read, refused by name, and nothing charged for any that is refused."""

import io
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.types import Message

from shared.wire.images import NPY_MEDIA_TYPE, encode_npy
from tests.teacher_server.api.raw import DISCONNECT, chunk, each, never, npy_headers, raw_call
from tests.teacher_server.conftest import MakeWorld
from tests.teacher_server.support import (
    LABELS,
    Holder,
    World,
    numbered_images,
    numbers_of,
    require_problem,
    require_sound,
)


def post(holder: Holder, content: bytes, content_type: str | None = NPY_MEDIA_TYPE) -> Any:
    headers = holder.headers() | ({} if content_type is None else {"Content-Type": content_type})
    return holder.client.post(LABELS, content=content, headers=headers)


def post_files(holder: Holder, *contents: bytes, field: str = "images") -> Any:
    files = [(field, (f"{index}.png", content, "image/png")) for index, content in enumerate(contents)]
    return holder.client.post(LABELS, files=files, headers=holder.headers())


def image_file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def numbered_file(number: int) -> bytes:
    return image_file(Image.fromarray(numbered_images([number])[0, :, :, 0]))


def npy_v1(header: str, data: bytes = b"") -> bytes:
    padded = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data


def form(*parts: tuple[str, bytes], boundary: str = "b", end: str = "\r\n--{}--\r\n") -> bytes:
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"
        for disposition, content in parts
    )
    return body.removesuffix(b"\r\n") + end.format(boundary).encode()


FORM = "multipart/form-data; boundary=b"


# --- how much, how fast -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("announced", [str(10 * 10**9), "32769", "9" * 5000, "0" * 30 + "99999"])
def test_a_large_content_length_is_refused_unread(make_world: MakeWorld, announced: str) -> None:
    world = make_world(body_bytes_max=32768)
    holder = world.holder()
    for content_type in (NPY_MEDIA_TYPE, FORM):
        headers = npy_headers(holder.secret, Content_Length=announced) | {"Content-Type": content_type}
        answer = raw_call(world, headers, never())
        problem = require_problem(answer, 413, "body_too_large")
        assert problem["body_bytes_max"] == 32768
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("content_type", [NPY_MEDIA_TYPE, FORM])
def test_a_body_without_an_end_is_cut_off(make_world: MakeWorld, content_type: str) -> None:
    world = make_world(body_bytes_max=100_000)
    holder = world.holder()
    read = 0

    async def endless() -> AsyncIterator[Message]:
        nonlocal read
        yield chunk(b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n')
        while True:
            read += 1
            assert read < 10, "more was read than is allowed"
            yield chunk(b"x" * 20_000)

    answer = raw_call(world, npy_headers(holder.secret) | {"Content-Type": content_type}, endless())
    require_problem(answer, 413, "body_too_large")
    assert answer.headers["connection"] == "close"


def test_a_body_exactly_at_the_limit_is_read(make_world: MakeWorld) -> None:
    content = encode_npy(numbered_images(range(15)))
    assert len(content) == 15 * 64 + 128 >= 1024
    holder = make_world(body_bytes_max=len(content)).holder()
    assert post(holder, content).status_code == 200
    require_problem(post(holder, content + b"x"), 413, "body_too_large")


@pytest.mark.parametrize("content_type", [NPY_MEDIA_TYPE, FORM])
def test_a_slow_body_is_not_waited_for(make_world: MakeWorld, content_type: str) -> None:
    world = make_world(body_timeout_s=0.05)
    holder = world.holder()

    async def slow() -> AsyncIterator[Message]:
        yield chunk(b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nxxx')
        await anyio.sleep(600)

    answer = raw_call(world, npy_headers(holder.secret) | {"Content-Type": content_type}, slow())
    assert require_problem(answer, 408, "body_incomplete")["retryable"] is True
    assert answer.headers["connection"] == "close"
    assert holder.spent() == 0


@pytest.mark.parametrize("content_type", [NPY_MEDIA_TYPE, FORM])
def test_a_caller_that_goes_away_is_charged_nothing(world: World, content_type: str) -> None:
    holder = world.holder()
    content = encode_npy(numbered_images([1, 2])) if content_type == NPY_MEDIA_TYPE else form()
    messages = [chunk(content), DISCONNECT]  # everything came, but not the word that this was all
    headers = npy_headers(holder.secret) | {"Content-Type": content_type}
    require_problem(raw_call(world, headers, each(messages)), 408, "body_incomplete")
    assert world.classifier.calls == 0
    assert holder.spent() == 0
    require_sound(world.database)


def test_places_are_given_back_whatever_happened(make_world: MakeWorld) -> None:
    world = make_world(requests_in_flight_max=1, body_timeout_s=0.05)
    holder = world.holder()
    for messages in ([DISCONNECT], [chunk(b"x"), DISCONNECT]):
        require_problem(raw_call(world, npy_headers(holder.secret), each(messages)), 408, "body_incomplete")
    post(holder, b"nonsense")
    post(holder, b"nonsense", FORM)
    assert holder.buy([1]).charged == 1


# --- what kind ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type", [None, "", "application/json", "image/png", "application/octet-stream", "application/x-npy2"]
)
def test_other_media_types_are_refused_unread(world: World, content_type: str | None) -> None:
    holder = world.holder()
    headers = {"Authorization": f"Bearer {holder.secret}"}
    if content_type is not None:
        headers["Content-Type"] = content_type
    problem = require_problem(raw_call(world, headers, never()), 415, "unsupported_media_type")
    assert NPY_MEDIA_TYPE in problem["detail"]
    assert "multipart/form-data" in problem["detail"]


def test_a_compressed_body_is_refused_unread_and_not_taken_for_what_it_is_not(world: World) -> None:
    holder = world.holder()
    headers = {"Authorization": f"Bearer {holder.secret}", "Content-Type": NPY_MEDIA_TYPE, "Content-Encoding": "gzip"}
    problem = require_problem(raw_call(world, headers, never()), 415, "unsupported_media_type")
    assert "Content-Encoding is 'gzip'" in problem["detail"]


def test_media_types_are_read_whatever_their_case_and_parameters(world: World) -> None:
    holder = world.holder()
    content = encode_npy(numbered_images([5]))
    for content_type in ("Application/X-NPY", "application/x-npy; version=1", " application/x-npy"):
        assert post(holder, content, content_type).status_code == 200


PICKLE = io.BytesIO()
np.save(PICKLE, np.array([{"images": 1}], dtype=object), allow_pickle=True)
GOOD = encode_npy(numbered_images([1, 2]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a .npy file"),
        (b"\x93NUMPY", "not a .npy file"),
        (b"PK\x03\x04" + b"\0" * 100, "not a .npy file"),
        (GOOD[:-1], "needs 128 bytes of data, the body holds 127"),
        (GOOD + b"\0", "needs 128 bytes of data, the body holds 129"),
        (PICKLE.getvalue(), "pickled"),
        (encode_npy(np.zeros((1, 8, 8, 1), np.float32)), "float32"),
        (encode_npy(np.zeros((1, 8, 8, 1), np.int8)), "int8"),
        (encode_npy(np.zeros((1, 8, 8, 1), np.int64)), "int64"),
        (encode_npy(np.zeros((1, 8, 8, 1), bool)), "bool"),
        (encode_npy(np.zeros((8, 8, 1), np.uint8)), "(8, 8, 1)"),
        (encode_npy(np.zeros((1, 1, 8, 8), np.uint8)), "(1, 1, 8, 8)"),
        (encode_npy(np.zeros((1, 8, 8, 3), np.uint8)), "(1, 8, 8, 3)"),
        (encode_npy(np.zeros((1, 1, 8, 8, 1), np.uint8)), "(1, 1, 8, 8, 1)"),
        (npy_v1("{'descr': '|u1', 'fortran_order': False, 'shape': ()}", bytes(1)), "shape is ()"),
        (encode_npy(np.zeros((0, 8, 8, 1), np.uint8)), "no images"),
        (npy_v1("{'descr': '|u1', 'fortran_order': True, 'shape': (1, 8, 8, 1)}", bytes(64)), "Fortran"),
        (npy_v1("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 1)}"), "needs 64"),
        (npy_v1("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8, -1)}", bytes(64)), "shape"),
        (npy_v1("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 8, 8, 1)"), "not a .npy file"),
        (npy_v1("__import__('os').getcwd()"), "not a .npy file"),
        (b"\x93NUMPY\x07\x00" + GOOD[8:], "version 7.0"),
    ],
)
def test_arrays_that_are_not_this_teacher_s_input(world: World, content: bytes, says: str) -> None:
    holder = world.holder()
    problem = require_problem(post(holder, content), 422, "invalid_images")
    assert says in problem["detail"]
    assert problem["retryable"] is False
    assert world.classifier.calls == 0
    assert holder.spent() == 0


def test_too_many_images(make_world: MakeWorld) -> None:
    world = make_world(images_per_request_max=3)
    holder = world.holder()
    assert holder.buy(range(3)).charged == 3
    for images in (4, 50):
        problem = require_problem(holder.ask(range(images)), 413, "too_many_images")
        assert (problem["images"], problem["images_per_request_max"]) == (images, 3)
    assert post_files(holder, *[numbered_file(n) for n in range(3)]).status_code == 200
    for files in (4, 5, 50):
        require_problem(post_files(holder, *[numbered_file(n) for n in range(files)]), 413, "too_many_images")
    assert holder.spent() == 6


# --- image files --------------------------------------------------------------------------------------------------


def test_files_of_the_right_size_are_the_very_bytes(world: World) -> None:
    holder = world.holder()
    numbers = [40_000, 3, 517]
    response = post_files(holder, *map(numbered_file, numbers))
    assert response.status_code == 200
    assert numbers_of(response.json()["probabilities"]) == numbers
    # the same images as an array are the same question
    bought = holder.buy(numbers)
    events = holder.get("/v1/events").json()["events"][1:]
    assert events[0]["input_digest"] == events[1]["input_digest"]
    assert bought.probabilities == response.json()["probabilities"]


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "L"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("PNG", "LA"), ("PNG", "I;16"),
     ("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("WEBP", "RGBA")],
)  # fmt: skip
def test_files_of_other_sizes_and_modes_are_converted(world: World, kind: str, mode: str) -> None:
    holder = world.holder()
    black = (0, 0, 0, 255) if mode == "CMYK" else 0
    sizes = [(8, 8), (3, 5), (40, 17), (1, 1), (300, 200)]
    response = post_files(holder, *[image_file(Image.new(mode, size, black), kind) for size in sizes])
    assert response.status_code == 200, response.text
    assert numbers_of(response.json()["probabilities"]) == [0] * 5
    assert holder.spent() == 5


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"not an image",
        b"\x89PNG\r\n\x1a\n",
        numbered_file(1)[:40],
        image_file(Image.new("L", (8, 8)), "GIF"),
        image_file(Image.new("L", (8, 8)), "BMP"),
        image_file(Image.new("L", (8, 8)), "TIFF"),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
    ids=["empty", "text", "magic", "truncated", "gif", "bmp", "tiff", "svg"],
)
def test_the_file_at_fault_is_named(world: World, broken: bytes) -> None:
    holder = world.holder()
    for index in (0, 2):
        contents = [numbered_file(n) for n in range(3)]
        contents[index] = broken
        assert require_problem(post_files(holder, *contents), 422, "invalid_images")["index"] == index
    assert world.classifier.calls == 0
    assert holder.spent() == 0


@pytest.mark.parametrize("side", [6000, 60_000], ids=["above our limit", "above Pillow's"])
def test_a_decompression_bomb_is_refused_by_its_header(world: World, side: int) -> None:
    def png_chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    bomb = (
        b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + png_chunk(b"IEND", b"")
    )
    holder = world.holder()
    problem = require_problem(post_files(holder, numbered_file(1), bomb), 422, "invalid_images")
    assert problem["index"] == 1
    assert "more than the" in problem["detail"]
    assert "pixels" in problem["detail"]


def test_many_large_files_are_a_bomb_too(make_world: MakeWorld) -> None:
    holder = make_world(file_pixels_max=10_000, request_pixels_max=20_000).holder()
    large = image_file(Image.new("L", (100, 100)))
    assert post_files(holder, large, large).status_code == 200
    require_problem(post_files(holder, large, large, large), 422, "invalid_images")
    require_problem(post_files(holder, image_file(Image.new("L", (101, 100)))), 422, "invalid_images")


def test_files_larger_than_the_parser_keeps_in_memory(make_world: MakeWorld) -> None:
    noise: NDArray[np.uint8] = np.random.default_rng(1).integers(0, 256, (1100, 1100), np.uint8)
    content = image_file(Image.fromarray(noise), compress_level=0)
    assert len(content) > 2**20
    world = make_world()
    holder = world.holder()
    assert post_files(holder, content, numbered_file(7)).status_code == 200
    # broken off within such a file: whatever was opened for it is closed (a warning would fail this test)
    start = form(('name="images"; filename="a.png"', content), end="")
    messages = [chunk(start[: 2**20 + 5000]), DISCONNECT]
    headers = npy_headers(holder.secret) | {"Content-Type": FORM}
    require_problem(raw_call(world, headers, each(messages)), 408, "body_incomplete")
    require_problem(post_files(holder, content, b"broken"), 422, "invalid_images")


FILE = 'name="images"; filename="a.png"'


@pytest.mark.parametrize(
    ("content_type", "content", "says"),
    [
        ("multipart/form-data", form((FILE, numbered_file(1))), "boundary"),
        ("multipart/form-data; boundary=", form((FILE, numbered_file(1))), ""),
        (f"multipart/form-data; boundary={'b' * 300}", b"", ""),
        (FORM, b"", "closing boundary"),
        (FORM, b"nonsense", ""),
        (FORM, form((FILE, numbered_file(1)), boundary="other"), ""),
        (FORM, form((FILE, numbered_file(1)), (FILE, numbered_file(2)), end=""), "closing boundary"),
        (FORM, form((FILE, numbered_file(1)), end="\r\n--b"), "closing boundary"),
        (FORM, form((FILE, numbered_file(1)), end="\r\n--b\r\n"), "closing boundary"),
        (FORM, form((FILE.replace("images", "image"), numbered_file(1))), "'image'"),
        (FORM, form((FILE, numbered_file(1)), ('name="teacher"', b"numbers")), "'teacher'"),
        (FORM, form(('name="images"', numbered_file(1))), "holds text"),
        (FORM, form((FILE, numbered_file(1)), ('name="images"', b"x")), "holds text"),
        (FORM, form(('filename="a.png"', numbered_file(1))), "name"),
        (FORM, form(('name="images"', b"x" * (2**20 + 1))), "maximum size"),
        (FORM, form(*[(f'name="f{n}"', b"x") for n in range(30)]), "Too many fields"),
        (FORM, b"--b\r\nContent-Disposition form-data\r\n\r\nx\r\n--b--\r\n", ""),
        (FORM, b"--b\r\n\r\nx\r\n--b--\r\n", ""),
        (FORM, b"--b\r\n" + b"X: y\r\n" * 5000 + b"\r\nx\r\n--b--\r\n", ""),
    ],
)  # fmt: skip
def test_forms_that_are_not_image_files(world: World, content_type: str, content: bytes, says: str) -> None:
    holder = world.holder()
    problem = require_problem(post(holder, content, content_type), 422, "invalid_request")
    assert says in problem["detail"]
    assert holder.spent() == 0


def test_a_form_without_files(world: World) -> None:
    problem = require_problem(post(world.holder(), b"--b--\r\n", FORM), 422, "invalid_images")
    assert "at least one" in problem["detail"]


@pytest.mark.parametrize("end", ["\r\n--{}--", "\r\n--{}--\r\n", "\r\n--{}--\r\nan epilogue\r\n"])
@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=no-such-charset"])
def test_forms_as_others_write_them(world: World, end: str, charset: str) -> None:
    content = form((FILE, numbered_file(9)), (FILE, numbered_file(8)), end=end)
    response = post(world.holder(), content, FORM + charset)
    assert response.status_code == 200, response.text
    assert numbers_of(response.json()["probabilities"]) == [9, 8]


@pytest.mark.parametrize("step", [1, 7, 64])
def test_a_body_in_pieces_is_the_same_body(world: World, step: int) -> None:
    holder = world.holder()
    for content, content_type in (
        (encode_npy(numbered_images([11, 12])), NPY_MEDIA_TYPE),
        (form((FILE, numbered_file(11)), (FILE, numbered_file(12))), FORM),
    ):
        pieces = [chunk(content[start : start + step]) for start in range(0, len(content), step)]
        headers = npy_headers(holder.secret) | {"Content-Type": content_type}
        answer = raw_call(world, headers, each([*pieces, chunk(b"", more=False)]))
        assert answer.status_code == 200, answer.text
        assert numbers_of(answer.json()["probabilities"]) == [11, 12]
