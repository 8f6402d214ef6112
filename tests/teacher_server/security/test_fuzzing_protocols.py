"""The decoders of the other protocols: an answer or an error of their own shape, whatever comes, and no charge.

As ``test_fuzzing``; `make soak` gives them more.
"""

import base64
import gzip
import json
import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st

from shared.wire.contracts import InputSpec
from teacher_server.api.open_inference.compression import decompress
from teacher_server.api.open_inference.requests import parse_request
from teacher_server.decoding import DecodingLimits, decode_body
from teacher_server.errors import Refusal
from tests.teacher_server.api.inference import INFER, binary_request, bytes_tensor, json_input
from tests.teacher_server.api.raw import chunk, each, raw_call
from tests.teacher_server.conftest import MakeWorld
from tests.teacher_server.security.mutation import damaged, feed, sizes
from tests.teacher_server.security.schemathesis_hooks import picture
from tests.teacher_server.support import numbered_images, require_sound

SPEC = InputSpec(height=8, width=8, channels=1)
LIMITS = DecodingLimits(images_max=8, file_pixels_max=10_000, request_pixels_max=10_000)
PIXELS = numbered_images([1, 258])
LEVELS = (PIXELS / np.float32(255)).astype(np.float32)
FILES = [picture(7, kind=kind) for kind in ("PNG", "JPEG", "WEBP")]
TEXTS = [base64.b64encode(file).decode() for file in FILES]
OUTPUTS = [{"name": "probabilities", "parameters": {"binary_data": True, "classification": 2}}]


def raw_files() -> bytes:
    raw = bytes_tensor(FILES)
    tensor = {"name": "images", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    return json.dumps({"inputs": [tensor]}).encode() + raw


DOCUMENTS = [
    json.dumps(document).encode()
    for document in (
        {"inputs": [json_input(PIXELS)]},
        {"id": "é", "inputs": [json_input(LEVELS, nested=True)], "outputs": OUTPUTS},
        {"inputs": [{"name": "images", "shape": [3, 1], "datatype": "BYTES", "data": [[text] for text in TEXTS]}]},
    )
]
WITH_TENSORS = [binary_request(PIXELS)[0], binary_request(LEVELS, outputs=OUTPUTS)[0], raw_files()]
HUB_DOCUMENTS = [
    json.dumps({"inputs": TEXTS[0], "parameters": {"top_k": 2, "function_to_apply": "softmax"}}).encode(),
    json.dumps({"inputs": "data:image/png;base64," + TEXTS[1]}).encode(),
]


def json_length_of(body: bytes) -> int:
    """Where the JSON of a good body ends."""
    return json.JSONDecoder().raw_decode(body.decode("latin-1"))[1]


GOOD_LENGTHS = [json_length_of(body) for body in WITH_TENSORS]
REFUSED = {"invalid_request", "invalid_images", "too_many_images", "body_too_large"}
LENGTHS = st.none() | st.sampled_from([*map(str, GOOD_LENGTHS), "0", "-1", "9" * 18, "9" * 19, "1e2", "", "²"])


@sizes()
def test_infer_bodies(examples: int) -> None:
    read = 0
    refusals: list[Refusal] = []

    def consume(request: tuple[bytes, str | None]) -> None:
        nonlocal read
        content, length = request
        try:
            body, form = parse_request(content, length, SPEC, images_max=8)
            images_nhwc = decode_body(body, SPEC, LIMITS)
        except Refusal as refusal:
            refusals.append(refusal)
            return
        assert images_nhwc.dtype == np.uint8
        assert images_nhwc.shape[1:] == (8, 8, 1)
        assert form.classification >= 0
        read += 1

    feed(examples, st.tuples(damaged([*DOCUMENTS, *WITH_TENSORS, PIXELS[:1].tobytes()]), LENGTHS), consume)
    assert read, "some were good"
    assert {refusal.code.value for refusal in refusals} <= REFUSED
    assert max(len(str(refusal)) for refusal in refusals) < 2000


@sizes()
def test_compressed_bodies(examples: int) -> None:
    bytes_max = 10_000
    refused: set[str] = set()
    good = [gzip.compress(DOCUMENTS[0]), zlib.compress(WITH_TENSORS[0]), gzip.compress(bytes(10**7))]

    def consume(request: tuple[bytes, str]) -> None:
        content, encoding = request
        try:
            plain = decompress(content, encoding, bytes_max)
        except Refusal as refusal:
            refused.add(refusal.code.value)
            return
        assert len(plain) <= bytes_max

    feed(examples, st.tuples(damaged(good), st.sampled_from(["gzip", "deflate"])), consume)
    assert refused == {"invalid_request", "body_too_large"}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, str], bytes]:
    """A path, headers beside the key, and a body; mostly they fit one another."""
    door = draw(st.sampled_from(["json", "tensor", "hub json", "hub file"]))
    good = {"json": DOCUMENTS, "tensor": WITH_TENSORS, "hub json": HUB_DOCUMENTS, "hub file": FILES}[door]
    at = draw(st.integers(0, len(good) - 1))
    body = draw(damaged([good[at]]))
    headers = {"Content-Type": "application/json" if "json" in door else "application/octet-stream"}
    if door == "tensor":
        headers["Inference-Header-Content-Length"] = str(GOOD_LENGTHS[at])
    if draw(st.integers(0, 5)) == 0:
        headers["Inference-Header-Content-Length"] = draw(LENGTHS) or "x"
    if draw(st.integers(0, 5)) == 0:
        headers["Content-Encoding"] = draw(st.sampled_from(["gzip", "deflate", "br", "identity"]))
        body = gzip.compress(body) if draw(st.booleans()) else body
    if draw(st.integers(0, 5)) == 0:
        headers["Idempotency-Key"] = draw(st.sampled_from(["a", "b"]))
    path = "/hf/numbers" if door.startswith("hub") else INFER
    return path + draw(st.sampled_from(["", "", "", "x"])), headers, body


@sizes(short=150)
def test_requests_of_other_protocols(examples: int, make_world: MakeWorld) -> None:
    """Through the whole application: every request is answered or refused well, and charged as its answer says."""
    world = make_world(images_per_request_max=8)
    holder = world.holder(budget=10**9)
    charged_of: dict[str, int] = {}

    def consume(request: tuple[str, dict[str, str], bytes]) -> None:
        path, headers, body = request
        messages = [chunk(body), chunk(b"", more=False)]
        answer = raw_call(world, headers | {"Authorization": f"Bearer {holder.secret}"}, each(messages), path=path)
        if answer.status_code == 200:
            charged_of[answer.headers["request-id"]] = int(answer.headers["images-charged"])
            return
        assert 400 <= answer.status_code < 500, answer.text
        document: dict[str, Any] = answer.json()
        assert list(document) == ["error"]
        assert answer.headers["x-error-code"] in document["error"]
        assert not [value for value in answer.headers.values() if "\r" in value or "\n" in value]

    feed(examples, requests(), consume)
    assert holder.spent() == sum(charged_of.values())
    assert charged_of, "some were good"
    require_sound(world.database)
