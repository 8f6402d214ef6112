"""Every decoder of bytes from somebody else: an answer or an error of its own kind, whatever comes, and no charge.

`make soak` gives them 12,000 inputs each (`pytest -m soak tests/teacher_server/security/test_fuzzing.py`).
"""

import base64
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from distill_client.audit.exports import read_export
from distill_client.errors import RunStoreError, TeacherError, TeacherProtocolError
from distill_client.teachers.manners.patience import Retryable
from distill_client.teachers.native.answers import read_answer
from distill_client.teachers.native.refusals import failure_of
from distill_client.teachers.protocol import read_receipt
from shared.wire import contracts
from shared.wire.contracts import Event, EventsPage, InputSpec, Receipt, SigningKey, TeacherList, Usage
from shared.wire.image_files import decode_image_file
from shared.wire.images import InvalidImages, decode_npy, encode_npy, require_images
from shared.wire.receipts import GENESIS_HASH, chain_faults, event_hash
from shared.wire.signatures import fingerprint, receipt_faults, sign_event, trusted_keys
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.databases.address import parse_ledger_url
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.authentication import authenticate
from tests.teacher_server.api.raw import RawAnswer, chunk, each, raw_call
from tests.teacher_server.conftest import MakeWorld
from tests.teacher_server.security.mutation import damaged, feed, sizes
from tests.teacher_server.security.schemathesis_hooks import picture
from tests.teacher_server.support import LABELS, World, numbered_images, require_sound

SPEC = InputSpec(height=8, width=8, channels=1)
ARRAYS = [
    encode_npy(numbered_images([1, 2, 3])),
    encode_npy(np.zeros((2, 4), np.float32)),
    encode_npy(np.arange(3)),
    encode_npy(np.zeros((1, 8, 8, 1), ">u2")),
    encode_npy(np.zeros((0, 8, 8, 1), np.uint8)),
]
BOUNDARY = b"--b\r\n"
PART = (
    BOUNDARY + b'Content-Disposition: form-data; name="images"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
)


def pictures() -> list[bytes]:
    found = [picture(7, kind=kind) for kind in ("PNG", "JPEG", "WEBP")]
    generator = np.random.default_rng(1)
    for mode, kind, options in [
        ("RGB", "PNG", {"optimize": True}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {}),
        ("L", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {}),
        ("RGB", "WEBP", {"lossless": True}),
    ]:
        image = Image.fromarray(generator.integers(0, 255, (9, 7, 3), np.uint8)).convert(mode)
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        found.append(stream.getvalue())
    return found


PICTURES = pictures()
FORMS = [
    PART + PICTURES[0] + b"\r\n--b--\r\n",
    PART + PICTURES[0] + b"\r\n" + PART + PICTURES[1] + b"\r\n--b--\r\n",
    BOUNDARY + b'Content-Disposition: form-data; name="x"\r\n\r\ny\r\n' + PART + PICTURES[2] + b"\r\n--b--\r\n",
    BOUNDARY + b"Content-Disposition: form-data; name=\"images\"; filename*=utf-8''a%00.png\r\n\r\n\r\n--b--",
]


@sizes()
def test_arrays(examples: int) -> None:
    def consume(body: bytes) -> None:
        try:
            images_nhwc = require_images(decode_npy(body), height=8, width=8, channels=1)
        except InvalidImages:
            return
        assert images_nhwc.dtype == np.uint8
        assert images_nhwc.shape[1:] == (8, 8, 1)
        assert 0 < images_nhwc.nbytes <= len(body)

    feed(examples, damaged(ARRAYS), consume)


@sizes()
def test_image_files(examples: int) -> None:
    def consume(content: bytes) -> None:
        for resize in ("exact", "crop", "stretch"):
            spec = SPEC.model_copy(update={"resize": resize})
            try:
                image_hwc = decode_image_file(content, spec, pixels_max=10_000)
            except InvalidImages:
                continue
            assert image_hwc.shape == (8, 8, 1)
            assert image_hwc.dtype == np.uint8

    feed(examples, damaged(PICTURES), consume)


@sizes()
def test_secrets(examples: int, database: Database) -> None:
    known = ("tk-0123456789ab-" + "A" * 43).encode()

    def consume(secret: bytes) -> None:
        for text in (secret.decode("latin-1"), secret.decode("utf-8", "surrogateescape")):
            with pytest.raises(Refusal) as refusal:
                authenticate(database, text)
            assert refusal.value.code == "unauthenticated"

    feed(examples, damaged([known, known.upper(), b"tk-'; DROP TABLE keys; --"]), consume)


@sizes()
def test_ledger_addresses(examples: int, tmp_path: Path) -> None:
    def consume(url: bytes) -> None:
        text = url.decode("utf-8", "surrogateescape")
        for address in (text, text.replace("///", f"///{tmp_path}/", 1)):
            try:
                said = parse_ledger_url(address).shown
            except OperatorError as error:
                said = str(error)
            # where it is still in the place of a password
            assert "hunter2" not in said or address.count("hunter2") > 1 or not address.startswith(PLACE)

    good = [b"sqlite:///l.db", b"postgresql://u:hunter2@h:5432/db?connect_timeout=1", b"postgresql+psycopg://[::1]/d"]
    feed(examples, damaged(good), consume)


PLACE = "postgresql://u:hunter2@"


def headers_of(secret: str, draw: st.DrawFn) -> dict[str, str]:
    """Of a label request that may be a good one; each of them is damaged now and then."""
    text = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)
    found = {"Authorization": f"Bearer {secret}", "Content-Type": "application/x-npy"}
    if draw(st.booleans()):
        found["Content-Type"] = draw(
            st.sampled_from(["multipart/form-data; boundary=b", "multipart/form-data"]) | text
        )
    if draw(st.integers(0, 3)) == 0:
        found["Accept"] = draw(st.sampled_from(["application/x-npy", "application/json", "*/*"]) | text)
    if draw(st.integers(0, 3)) == 0:
        found["Idempotency-Key"] = draw(st.sampled_from(["a", "b" * 255, "c" * 256, "' OR 1=1 --"]) | text)
    if draw(st.integers(0, 9)) == 0:
        found["Authorization"] = draw(st.sampled_from(["", "Bearer", f"bearer {secret}", f"Bearer {secret} "]) | text)
    if draw(st.integers(0, 9)) == 0:
        found[draw(st.sampled_from(["Content-Encoding", "Content-Length", "X-Forwarded-For", "Expect"]))] = draw(text)
    return found


@st.composite
def label_requests(draw: st.DrawFn, secret: str) -> tuple[dict[str, str], list[bytes]]:
    """Headers and the pieces of a body; now and then a good one as it is, for luck alone may damage 150 of 150."""
    if draw(st.integers(0, 7)) == 0:
        return {"Authorization": f"Bearer {secret}", "Content-Type": "application/x-npy"}, [ARRAYS[0]]
    headers = headers_of(secret, draw)
    good = FORMS if headers["Content-Type"].startswith("multipart") else ARRAYS
    body = draw(damaged(good))
    size = draw(st.sampled_from([1, 7, 100, 10_000]))
    return headers, [body[start : start + size] for start in range(0, len(body), size)]


@sizes(short=150)
def test_label_requests(examples: int, make_world: MakeWorld) -> None:
    """Through the whole application: every request is answered or refused well, and charged as its answer says."""
    world = make_world(images_per_request_max=8)
    holder = world.holder(budget=10**9)
    charged_of: dict[str, int] = {}

    def consume(request: tuple[dict[str, str], list[bytes]]) -> None:
        headers, pieces = request
        answer = ask(world, headers, pieces)
        if answer.status_code == 200:
            charged_of[answer.headers["request-id"]] = int(answer.headers["images-charged"])
            return
        problem = answer.json()
        assert 400 <= answer.status_code < 500, problem
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["status"] == answer.status_code
        for value in answer.headers.values():
            assert "\r" not in value
            assert "\n" not in value

    feed(examples, label_requests(holder.secret), consume)
    assert holder.spent() == sum(charged_of.values())
    assert charged_of, "some were good"
    require_sound(world.database)


def ask(world: World, headers: dict[str, str], pieces: Sequence[bytes]) -> RawAnswer:
    messages = [chunk(piece) for piece in pieces]
    return raw_call(world, headers, each([*messages, chunk(b"", more=False)]), path=LABELS)


PRIVATE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = PRIVATE_KEY.public_key()


def an_event() -> Event:
    fields: dict[str, Any] = {
        "sequence": 1,
        "previous_hash": GENESIS_HASH,
        "kind": "answer",
        "at": "2026-01-01T00:00:00.000000+00:00",
        "key_name": "ada",
        "teacher": "numbers",
        "version": "1",
        "images": 2,
        "hash": GENESIS_HASH,
        "format": 2,
    }
    for name, field in Event.model_fields.items():
        if name not in fields:
            fields[name] = 0 if field.annotation is int else ""
    draft = Event.model_construct(**fields)
    return draft.model_copy(update={"hash": event_hash(draft)})


EVENT = an_event()
RECEIPT = Receipt.model_construct(
    event=EVENT, signing_key=fingerprint(PUBLIC), signature=sign_event(PRIVATE_KEY, EVENT)
)
GOOD_HEADERS = {
    contracts.HEADER_DISCLOSURE: "probabilities",
    contracts.HEADER_VERSION: "1",
    contracts.HEADER_CHARGED: "2",
    contracts.HEADER_SPENT: "2",
    contracts.HEADER_REMAINING: "8",
    contracts.HEADER_EVENT_SEQUENCE: "2",
    contracts.HEADER_EVENT_HASH: "0" * 64,
}


def test_the_receipt_of_these_tests_is_a_good_one() -> None:
    key = fingerprint(PUBLIC)
    assert receipt_faults(RECEIPT, {key: PUBLIC.public_bytes_raw().hex()}) == []
    assert read_receipt(as_header(RECEIPT.model_dump_json().encode())) == RECEIPT


def as_header(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@sizes()
def test_receipts(examples: int) -> None:
    """A damaged receipt is no receipt, or is found out; unless what it says is what it said."""
    trusted = {fingerprint(PUBLIC): PUBLIC.public_bytes_raw().hex()}
    found_out = 0

    def consume(raw: bytes) -> None:
        nonlocal found_out
        try:
            receipt = read_receipt(as_header(raw))
        except ValueError:
            return
        if receipt_faults(receipt, trusted):
            found_out += 1
        else:
            assert receipt == RECEIPT
        chain_faults([receipt.event])

    feed(examples, damaged([RECEIPT.model_dump_json().encode()]), consume)
    assert found_out

    def consume_header(raw: bytes) -> None:
        try:
            read_receipt(raw.decode("latin-1"))
        except ValueError:
            return

    feed(examples, damaged([as_header(RECEIPT.model_dump_json().encode()).encode()]), consume_header)


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, str], bytes]:
    headers = dict(GOOD_HEADERS)
    for name in draw(st.lists(st.sampled_from(sorted(headers)), max_size=2)):
        headers[name] = draw(
            st.sampled_from(["label", "top-k:1", "top-k:99999", "", "-1", "1e3", "9" * 5000, "٣", "nan"])
            | st.text(max_size=9)
        )
    return headers, draw(damaged([encode_npy(np.full((2, 4), 0.25, np.float32)), *ARRAYS]))


@sizes()
def test_answers_at_the_client(examples: int) -> None:
    def consume(answer: tuple[dict[str, str], bytes]) -> None:
        try:
            read = read_answer(*answer, images=2)
        except TeacherProtocolError:
            return
        assert len(read.values) == 2
        assert read.charged == 2

    feed(examples, answers(), consume)


PROBLEM = {
    "type": "/docs#budget_exhausted",
    "title": "x",
    "status": 403,
    "detail": "y",
    "code": "budget_exhausted",
    "retryable": False,
    "granted": 5,
    "spent": 5,
}


@sizes()
def test_refusals_at_the_client(examples: int) -> None:
    dates = ["Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 99999 07:28:00 GMT", "1", "-1", "9" * 400, "1e9", "٣"]
    good = [json.dumps(PROBLEM).encode(), json.dumps(PROBLEM | {"retryable": True, "code": "rate_limited"}).encode()]

    def consume(refusal: tuple[int, str, bytes]) -> None:
        status, after, content = refusal
        failure = failure_of(status, {"Retry-After": after}, content, "there")
        assert isinstance(failure, Retryable | TeacherError)
        assert not isinstance(failure, Retryable) or failure.after_s is None or failure.after_s >= 0

    headers = st.sampled_from(dates) | st.text(max_size=30)
    feed(examples, st.tuples(st.integers(300, 599), headers, damaged(good)), consume)


@sizes()
def test_other_documents_at_the_client(examples: int, tmp_path: Path) -> None:
    key = SigningKey.model_construct(
        fingerprint=fingerprint(PUBLIC),
        created_at=EVENT.at,
        public_key=PUBLIC.public_bytes_raw().hex(),
        endorsed_by="",
        endorsement="",
    )
    page = {"key_name": "ada", "events": [EVENT.model_dump()], "signatures": [], "next_after": None}
    good = [
        json.dumps(page).encode(),
        key.model_dump_json(warnings=False).encode(),
        b'{"granted":1,"spent":0,"remaining":1}',
    ]
    export = tmp_path / "export.jsonl"

    def consume(content: bytes) -> None:
        for model in (EventsPage, SigningKey, Usage, TeacherList):
            try:
                read = model.model_validate_json(content)
            except ValidationError:
                continue
            if isinstance(read, EventsPage):
                chain_faults(read.events)
            if isinstance(read, SigningKey):
                trusted_keys([read, key], key.fingerprint)
        export.write_bytes(content)
        with suppress(RunStoreError):
            read_export(export)

    feed(examples, damaged(good), consume)
