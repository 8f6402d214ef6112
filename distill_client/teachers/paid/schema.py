"""The paid-label store's file: its tables, how an older one is brought up to date, and how a damaged one is known."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from distill_client.errors import RunStoreError
from shared.wire.images import InvalidImages, answer_digest, decode_npy

SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE stages (name TEXT PRIMARY KEY, height INTEGER NOT NULL, width INTEGER NOT NULL,
                     channels INTEGER NOT NULL);
CREATE TABLE images (digest BLOB PRIMARY KEY, pixels BLOB NOT NULL, batch INTEGER NOT NULL, place INTEGER NOT NULL,
                     UNIQUE (batch, place));
CREATE TABLE stage_images (stage TEXT NOT NULL REFERENCES stages, position INTEGER NOT NULL,
                           digest BLOB NOT NULL REFERENCES images, PRIMARY KEY (stage, position));
CREATE TABLE batches (number INTEGER PRIMARY KEY, stage TEXT NOT NULL REFERENCES stages,
                      idempotency_key TEXT NOT NULL UNIQUE, images INTEGER NOT NULL, input_digest TEXT NOT NULL);
CREATE TABLE answers (batch INTEGER PRIMARY KEY REFERENCES batches, answer_npy BLOB NOT NULL,
                      answer_digest TEXT NOT NULL, version TEXT NOT NULL, disclosure TEXT NOT NULL,
                      charged INTEGER NOT NULL, spent INTEGER NOT NULL, remaining INTEGER NOT NULL,
                      event_sequence INTEGER NOT NULL, event_hash TEXT NOT NULL);
"""
# From one version to the next. An answer of version 1 has no receipt.
_MIGRATIONS = {
    1: """
ALTER TABLE answers ADD COLUMN receipt TEXT;
ALTER TABLE answers ADD COLUMN is_recomputed INTEGER NOT NULL DEFAULT 0;
""",
    2: """
CREATE TABLE own_events (sequence INTEGER PRIMARY KEY, event TEXT NOT NULL);
CREATE TABLE own_asks (sequence INTEGER PRIMARY KEY REFERENCES own_events, idempotency_key TEXT NOT NULL,
                       digests BLOB NOT NULL, open INTEGER NOT NULL CHECK (open >= 0));
CREATE INDEX open_asks ON own_asks (idempotency_key) WHERE open > 0;
""",
}


def open_file(path: Path) -> sqlite3.Connection:
    """Open or make the file, brought to this program's version in one transaction. Raises RunStoreError."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise RunStoreError(f"{path}: the paid answers cannot be opened: {error}") from error
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if not 0 <= version <= SCHEMA_VERSION:
            raise RunStoreError(f"{path}: written by another version of this program (schema {version})")
        steps = _SCHEMA if version == 0 else ""
        for older in range(max(version, 1), SCHEMA_VERSION):
            steps += _MIGRATIONS[older]
        if steps:
            connection.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except sqlite3.Error as error:
        raise RunStoreError(f"{path}: the paid answers cannot be opened: {error}") from error


def damage(path: Path) -> str:
    """Why the file cannot be gone on with, in a few words; empty when it can. Reads all of it."""
    if not path.is_file() or not path.stat().st_size:
        return "missing or empty"
    try:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # locked, or no permission: nothing is wrong with it
            return ""
        return f"damaged ({error})"
    if found != "ok":
        return f"damaged ({str(found).splitlines()[0]})"
    return "" if {"stages", "images", "stage_images", "batches", "answers"} <= tables else "damaged (tables are gone)"


def damaged_answers(path: Path) -> list[int]:
    """The batches whose answers are not those that came. Raises RunStoreError."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT batch, CAST(answer_npy AS BLOB), answer_digest FROM answers")
            return [batch for batch, content, digest in rows if not _is_whole(content, digest)]
    except sqlite3.Error as error:
        raise RunStoreError(f"{path}: the paid answers cannot be read: {error}") from error


def forget_answers(path: Path, batches: list[int]) -> None:
    """Forget the answers to these batches, so that they are asked for again. Raises RunStoreError."""
    try:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executemany("DELETE FROM answers WHERE batch = ?", [(batch,) for batch in batches])
    except sqlite3.Error as error:
        raise RunStoreError(f"{path}: the paid answers cannot be mended: {error}") from error


def _is_whole(content: bytes, digest: str) -> bool:
    try:
        values = decode_npy(content)
    except InvalidImages:
        return False
    typed = values.astype(np.int64) if values.dtype == np.int64 else values.astype(np.float32)
    return answer_digest(typed) == digest
