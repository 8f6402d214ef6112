"""Questions and answers for the ledger, without a teacher."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from teacher_server.ledger.charging.answers import Answered, Question
from teacher_server.ledger.charging.charge import Computed
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import Key
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.opening import LOCK_TIMEOUT_S, open_database

# For what is SQLite's alone: its files, their locks.
SQLITE_ONLY = pytest.mark.parametrize("ledger_kind", ["sqlite"], indirect=True)


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


def open_ledger(url: str, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> Database:
    """Open it, made where there is none; a PostgreSQL ledger's signing key is where TEACHER_SIGNING_KEY says."""
    file = os.environ.get("TEACHER_SIGNING_KEY")
    return open_database(url, create=True, signing_key=Path(file) if file else None, lock_timeout_s=lock_timeout_s)
