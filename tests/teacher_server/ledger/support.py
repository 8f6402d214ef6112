"""Questions and answers for the ledger, without a teacher."""

import hashlib

import numpy as np

from teacher_server.ledger.answers import Answered, Question
from teacher_server.ledger.charging import Computed
from teacher_server.ledger.keys import Key
from teacher_server.ledger.ledger import Ledger


def question(key: Key, idempotency_key: str, *, about: str = "", teacher: str = "numbers") -> Question:
    """``about`` stands for the images; the idempotency key itself when it is not given."""
    return Question(key, idempotency_key, teacher, hashlib.sha256((about or idempotency_key).encode()).hexdigest())


def computed(images: int, *, value: float = 0.25) -> Computed:
    disclosed = np.full((images, 2), np.float32(value))
    return Computed(version="1", images=images, disclosed=disclosed, fingerprints=b"packed" * images)


def charge(ledger: Ledger, key: Key, idempotency_key: str, images: int, *, value: float = 0.25) -> Answered:
    asked = question(key, idempotency_key)
    answered = ledger.charge(asked, computed(images, value=value), request_id=f"request-{idempotency_key}")
    assert isinstance(answered, Answered)
    return answered
