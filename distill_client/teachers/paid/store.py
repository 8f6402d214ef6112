"""The paid-label store: every batch before it is sent, every answer before it is used. The client's only SQL.

One SQLite file per run. A stage is recorded whole, in one transaction, cut into batches that are never cut
differently afterwards; each batch has its idempotency key from then on. An answer is kept in one transaction, fsynced
before anything sees it. So a kill at any moment leaves either a batch to be asked for again, at no second charge, or
its answer.
"""

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import RunStoreError
from distill_client.teachers.paid.file import StoreFile
from distill_client.teachers.paid.labelled import LabelledImages, read_labelled
from distill_client.teachers.paid.own_ledger import OwnLedger, count_answer
from distill_client.teachers.protocol import Answer, read_receipt
from shared.wire.images import answer_digest, batch_digest, encode_npy, image_digests


@dataclass(frozen=True)
class Batch:
    """The unit of purchase and retry: uint8 images_nhwc under one idempotency key."""

    number: int
    idempotency_key: str
    images_nhwc: NDArray[np.uint8]


@dataclass(frozen=True)
class Purchase:
    """One answered batch as the client recorded it: what an audit compares with the teacher's log."""

    idempotency_key: str
    images: int
    charged: int
    input_digest: str
    answer_digest: str
    version: str
    disclosure: str
    event_sequence: int
    event_hash: str
    spent: int
    receipt_json: str | None = None
    is_recomputed: bool = False


class PaidLabels:
    """The store of one run; used from one thread."""

    def __init__(self, path: Path, *, run_id: str) -> None:
        self._path = path
        self._run_id = run_id
        self._file = StoreFile(path)
        self._read, self._rows, self._transaction = self._file.read, self._file.rows, self._file.transaction
        self.own_ledger = OwnLedger(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def has_stage(self, stage: str) -> bool:
        """Whether a stage's images are recorded."""
        return bool(self._read("SELECT 1 FROM stages WHERE name = ?", stage))

    def stages(self) -> list[str]:
        """The recorded stages, in the order of recording."""
        return [row[0] for row in self._read("SELECT name FROM stages ORDER BY rowid")]

    def stage_images(self, stage: str) -> tuple[int, int]:
        """How many images a stage's own batches buy, and how many of those are answered."""
        (row,) = self._read(
            "SELECT coalesce(sum(images), 0), coalesce(sum(CASE WHEN batch IS NULL THEN 0 ELSE images END), 0) "
            "FROM batches LEFT JOIN answers ON batch = number WHERE stage = ?",
            stage,
        )
        return int(row[0]), int(row[1])

    def different_images(self) -> int:
        """How many different images the recorded stages have; one that equals another is bought once."""
        ((different,),) = self._read("SELECT count(DISTINCT digest) FROM stage_images")
        return int(different)

    def record_stage(
        self,
        stage: str,
        images: NDArray[np.uint8] | Iterable[NDArray[np.uint8]],
        *,
        images_per_request: int,
        expected_keys: tuple[str, ...] | None = None,
    ) -> None:
        """Record a stage's images_nhwc, whole or in blocks, and the batches that buy them, all or nothing.

        An image that the run has recorded before, in this stage or another, is not bought again: the stage refers to
        it. Raises RunStoreError when the disk refuses, or the batches are not those of ``expected_keys`` where they
        are given, and what the blocks raise; nothing is recorded then.
        """
        in_stage: list[bytes] = []
        waiting: dict[bytes, bytes] = {}  # of the next batch: digest and pixels
        with self._transaction() as connection:
            known = {row[0] for row in connection.execute("SELECT digest FROM images")}
            for images_nhwc in [images] if isinstance(images, np.ndarray) else images:
                if not in_stage:
                    connection.execute("INSERT INTO stages VALUES (?, ?, ?, ?)", (stage, *images_nhwc.shape[1:]))
                for digest, image in zip(image_digests(images_nhwc), images_nhwc, strict=True):
                    in_stage.append(digest)
                    if digest not in known:
                        known.add(digest)
                        waiting[digest] = image.tobytes()
                    if len(waiting) == images_per_request:
                        self._record_batch(connection, stage, waiting)
                        waiting = {}
            if waiting:
                self._record_batch(connection, stage, waiting)
            connection.executemany(
                "INSERT INTO stage_images VALUES (?, ?, ?)",
                ((stage, position, digest) for position, digest in enumerate(in_stage)),
            )
            if expected_keys is not None and self.stage_keys(stage) != expected_keys:
                raise RunStoreError(
                    f"{self._path}: stage {stage}, rendered again, is not what was paid for (another machine, or "
                    "other versions of the packages?); nothing was sent. Bring back the file as it was, or begin a "
                    "new run"
                )

    def _record_batch(self, connection: sqlite3.Connection, stage: str, pixels_by_digest: dict[bytes, bytes]) -> None:
        digests = list(pixels_by_digest)
        input_digest = batch_digest(digests)
        number = connection.execute(
            "INSERT INTO batches (stage, idempotency_key, images, input_digest) VALUES (?, ?, ?, ?)",
            (stage, self._key(input_digest), len(digests), input_digest),
        ).lastrowid
        connection.executemany(
            "INSERT INTO images VALUES (?, ?, ?, ?)",
            ((digest, pixels, number, place) for place, (digest, pixels) in enumerate(pixels_by_digest.items())),
        )

    def _key(self, input_digest: str) -> str:
        return hashlib.sha256(f"{self._run_id}:{input_digest}".encode()).hexdigest()

    def stage_keys(self, stage: str) -> tuple[str, ...]:
        """The idempotency keys of a stage's own batches, in order."""
        rows = self._read("SELECT idempotency_key FROM batches WHERE stage = ? ORDER BY number", stage)
        return tuple(row[0] for row in rows)

    def unanswered(self, stage: str) -> list[int]:
        """The numbers of a stage's batches that have no answer yet, in order."""
        rows = self._read(
            "SELECT number FROM batches WHERE stage = ? AND number NOT IN (SELECT batch FROM answers) "
            "ORDER BY number",
            stage,
        )
        return [row[0] for row in rows]

    def read_batch(self, number: int) -> Batch:
        """A recorded batch, its images as they were recorded."""
        ((stage, key),) = self._read("SELECT stage, idempotency_key FROM batches WHERE number = ?", number)
        pixels = self._read("SELECT pixels FROM images WHERE batch = ? ORDER BY place", number)
        return Batch(number, key, self._images([row[0] for row in pixels], stage))

    def keep_answer(self, number: int, answer: Answer) -> tuple[Answer, list[int]]:
        """Keep a paid answer with its receipt; it is on the disk when this returns. Twice changes nothing.

        One that the teacher did not count is counted here. Images that have no answer become a batch of their own;
        its number is returned, with the answer as it was kept.
        """
        with self._transaction() as connection:
            if self._read("SELECT 1 FROM answers WHERE batch = ?", number):
                return answer, []
            left = self._set_apart(connection, number, answer) if answer.failures else []
            values = answer.answered_values
            if not answer.is_counted:
                answer = count_answer(self.own_ledger, answer)
            if not len(values):
                return answer, left
            connection.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    encode_npy(values),
                    answer_digest(values),
                    answer.version,
                    answer.disclosure,
                    answer.charged,
                    answer.spent,
                    answer.remaining,
                    answer.event_sequence,
                    answer.event_hash,
                    _receipt_json(answer),
                    answer.is_recomputed,
                ),
            )
        return answer, left

    def _set_apart(self, connection: sqlite3.Connection, number: int, answer: Answer) -> list[int]:
        """Make the images without an answer a batch that is asked for next; all of them stay the batch they are."""
        rows = self._read("SELECT digest, place FROM images WHERE batch = ? ORDER BY place", number)
        if len(answer.failures) == len(rows):
            return [number]
        ((stage,),) = self._read("SELECT stage FROM batches WHERE number = ?", number)
        failed = [digest for digest, place in rows if place in answer.failures]
        answered = [digest for digest, place in rows if place not in answer.failures]
        input_digest = batch_digest(failed)
        later = connection.execute(
            "INSERT INTO batches (stage, idempotency_key, images, input_digest) VALUES (?, ?, ?, ?)",
            (stage, self._key(input_digest), len(failed), input_digest),
        ).lastrowid
        assert later is not None
        for batch, digests in ((later, failed), (number, answered)):
            for place, digest in enumerate(digests):
                connection.execute("UPDATE images SET batch = ?, place = ? WHERE digest = ?", (batch, place, digest))
        connection.execute(
            "UPDATE batches SET images = ?, input_digest = ? WHERE number = ?",
            (len(answered), batch_digest(answered), number),
        )
        return [later]

    def labelled(self, *stages: str, first: int = -1) -> LabelledImages:
        """The images of stages in their order, each with its answer, whichever stage bought it.

        With ``first`` only so many of each stage. Raises RunStoreError when an answer is missing or damaged.
        """
        return read_labelled(self._file, stages, first=first)

    def purchases(self) -> list[Purchase]:
        """Every answered batch, in the order of recording."""
        rows = self._read(
            "SELECT idempotency_key, images, charged, input_digest, answer_digest, version, disclosure, "
            "event_sequence, event_hash, spent, receipt, is_recomputed FROM batches JOIN answers ON batch = number "
            "ORDER BY number"
        )
        return [Purchase(*row) for row in rows]

    def recorded_keys(self) -> frozenset[str]:
        """The idempotency keys of all recorded batches, answered or not."""
        return frozenset(row[0] for row in self._read("SELECT idempotency_key FROM batches"))

    def images_bought(self) -> int:
        """Images whose answers are on the disk."""
        ((images,),) = self._read("SELECT coalesce(sum(images), 0) FROM batches JOIN answers ON batch = number")
        return int(images)

    def _images(self, pixels: list[bytes], stage: str) -> NDArray[np.uint8]:
        (shape,) = self._read("SELECT height, width, channels FROM stages WHERE name = ?", stage)
        return np.frombuffer(b"".join(pixels), np.uint8).reshape(len(pixels), *shape)


def _receipt_json(answer: Answer) -> str | None:
    """What is kept of a receipt. One that cannot be read only comes from a teacher that is not known to sign."""
    with suppress(ValueError):
        return read_receipt(answer.receipt).model_dump_json()
    return None
