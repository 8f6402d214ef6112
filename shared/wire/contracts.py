"""What each endpoint takes and gives, as pydantic models that both sides import."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Handed on: whoever reads a card or an event reads its disclosure too.
from shared.wire.disclosure import PROBABILITY_DECIMALS as PROBABILITY_DECIMALS  # noqa: PLC0414
from shared.wire.disclosure import Disclosure as Disclosure  # noqa: PLC0414

IDEMPOTENCY_KEY_PATTERN = r"^[\x21-\x7e]{1,255}$"

# The headers that carry what JSON would, when the answer is asked for as application/x-npy.
HEADER_TEACHER = "Teacher-Name"
HEADER_VERSION = "Teacher-Version"
HEADER_DISCLOSURE = "Teacher-Disclosure"
HEADER_CHARGED = "Images-Charged"
HEADER_SPENT = "Images-Spent"
HEADER_REMAINING = "Images-Remaining"
HEADER_EVENT_SEQUENCE = "Event-Sequence"
HEADER_EVENT_HASH = "Event-Hash"
HEADER_REQUEST_ID = "Request-Id"
HEADER_IDEMPOTENCY_KEY = "Idempotency-Key"
HEADER_REPLAYED = "Idempotency-Replayed"
HEADER_RECOMPUTED = "Idempotency-Recomputed"
HEADER_RECEIPT = "Teacher-Receipt"

SIGNING_KEYS_PATH = "/.well-known/teacher-signing-keys"

# How a picture of another size comes to a teacher's input; ``shared.wire.resizing`` does it.
Resize = Literal["exact", "crop", "stretch"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$", description="Ed25519, in hex")]

# Only a client's own ledger, for a teacher that keeps none, has the last three: images are asked for before they are
# answered, and count as spent until they are known to be released, that is, not charged; or they fail, charged.
EventKind = Literal[
    "create", "grant", "revoke", "answer", "refuse", "policy", "rotate", "expire", "restore", "ask", "release", "fail"
]
EVENT_FORMAT = 2


class WireModel(BaseModel):
    """Immutable; unknown fields are ignored so that a newer server can add some."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class InputSpec(WireModel):
    """A teacher's input: uint8 images of exactly this shape, and how a picture of another size is brought to it."""

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    channels: Literal[1, 3]
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    resize: Resize = Field("stretch", description="the default is what servers did that did not say it yet")


class Usage(WireModel):
    """A key's budget in images."""

    granted: int = Field(ge=0)
    spent: int = Field(ge=0)
    remaining: int = Field(ge=0)


class KeyUsage(Usage):
    """A key's budget and its other limits; those that it does not have are left out."""

    images_per_day: int | None = Field(None, description="images it may buy in a day (UTC)")
    spent_today: int | None = None
    day_ends_after_s: int | None = Field(None, description="seconds until the day's images are there again")
    images_per_second: int | None = Field(None, description="times window_s, what it may buy in any such time")
    window_s: int | None = None
    spent_in_window: int | None = None
    expires_at: str | None = None


class TeacherCard(WireModel):
    """What a key's holder may know of a teacher; never its network or weights."""

    name: str
    version: str
    answers_by_default: bool = Field(True, description="whether this version answers at /v1/teachers/{name}/labels")
    classes: list[str]
    input: InputSpec
    preprocessing: str
    images_per_request_max: int
    body_bytes_max: int
    test_accuracy: float | None = Field(None, description="fraction, as measured by the owner")
    test_dataset: str | None = None
    disclosure: str = Field(description="the key's whole policy, in the text form of ``Disclosure``")
    budget: Usage


class TeacherList(WireModel):
    """Every teacher of a server."""

    teachers: list[TeacherCard]


class Event(WireModel):
    """One link of a key's chain: integers and strings only, empty strings where a field does not apply.

    Format 1 is what servers wrote that did not sign yet; it has none of the four fields at the end.
    """

    sequence: int
    previous_hash: Digest
    kind: EventKind
    at: str = Field(description="UTC, RFC 3339 with microseconds; never before that of the event before")
    key_name: str
    teacher: str
    version: str
    images: int = Field(description="answered, granted, or asked for when refused")
    input_digest: str
    answer_digest: str
    disclosure: str
    idempotency_key: str
    spent: int = Field(description="images spent after this event")
    granted: int = Field(description="images granted after this event")
    hash: Digest
    format: Literal[1, 2] = 1
    teacher_digest: str = Field("", description="SHA-256 of the bundle that answered")
    disclosure_digest: str = Field("", description="SHA-256 of everything the disclosure does to an answer")
    detail: str = Field("", description="why it was refused; what changed; canonical JSON, or a code")

    @model_validator(mode="after")
    def _require_fields_of_its_format(self) -> Self:
        # They are not hashed in format 1: whatever stood there, nobody would notice.
        if self.format == 1 and (self.teacher_digest or self.disclosure_digest or self.detail):
            raise ValueError("an event of format 1 has no teacher_digest, disclosure_digest or detail")
        return self


class Receipt(WireModel):
    """What an answer's buyer keeps: the event it was charged by, signed by the ledger."""

    event: Event
    signing_key: Digest = Field(description="fingerprint: SHA-256 of the 32 bytes of the public key")
    signature: Signature


class SigningKey(WireModel):
    """A public key of a ledger; every one but the first is endorsed by the one before."""

    fingerprint: Digest
    public_key: Digest = Field(description="the 32 bytes of an Ed25519 public key, in hex")
    created_at: str
    retired_at: str | None = None
    endorsed_by: str = Field("", description="fingerprint of the key that signed this one; empty for the first")
    endorsement: str = Field("", description="its signature over this public key; empty for the first")


class SigningKeys(WireModel):
    """The answer of the well-known address: every key that this ledger ever signed with, oldest first."""

    ledger: str = Field(description="the ledger's random name")
    keys: list[SigningKey]


class EventReference(WireModel):
    """Which event an answer was charged by."""

    sequence: int
    hash: Digest


class TopClass(WireModel):
    """One entry of a top-k answer."""

    label: int
    probability: float


class LabelsAnswer(WireModel):
    """The answer to one batch: exactly one of ``probabilities``, ``top_k`` and ``labels`` is given."""

    request_id: str
    teacher: str
    version: str
    probabilities: list[list[float]] | None = None
    top_k: list[list[TopClass]] | None = None
    labels: list[int] | None = None
    charged: int
    spent: int
    remaining: int
    event: EventReference
    receipt: Receipt | None = Field(None, description="absent from servers that do not sign yet")


class EventSignature(WireModel):
    """Who signed an event; both are empty for an event of format 1."""

    signing_key: str = ""
    signature: str = ""


class EventsPage(WireModel):
    """Part of a key's own history, oldest first; ask again with ``after=next_after`` until it is null."""

    key_name: str
    events: list[Event]
    signatures: list[EventSignature] = Field([], description="one per event, in the same order")
    next_after: int | None


class Health(WireModel):
    """The answer of ``/healthz`` and ``/readyz``."""

    status: Literal["ok"]


class Problem(WireModel):
    """An error, RFC 9457; further members depend on ``code`` (``granted``, ``spent``, ``asked``, ``index``...)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
