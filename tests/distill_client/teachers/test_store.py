import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distill_client.errors import RunStoreError
from distill_client.teachers.paid.store import PaidLabels
from distill_client.teachers.protocol import Answer, Values
from shared.wire.images import answer_digest, batch_digest, image_digests
from tests.distill_client.fakes import FakeTeacher, Signer, answer_to

HWC = (3, 4, 1)


def distinct_images(count: int, *, start: int = 0) -> NDArray[np.uint8]:
    """Image ``n`` carries its number in its first bytes."""
    images_nhwc = np.zeros((count, *HWC), np.uint8)
    images_nhwc[:, 0, 0, 0], images_nhwc[:, 0, 1, 0] = np.divmod(np.arange(start, start + count), 256)
    return images_nhwc


def images_of(numbers: list[int]) -> NDArray[np.uint8]:
    return distinct_images(256)[numbers]


def buy_all(store: PaidLabels, teacher: FakeTeacher, stage: str) -> None:
    for number in store.unanswered(stage):
        batch = store.read_batch(number)
        store.keep_answer(number, teacher.label(batch.images_nhwc, batch.idempotency_key))


def cut(store: PaidLabels, stage: str) -> list[tuple[str, int, str]]:
    """A stage's unanswered batches: key, size, digest."""
    batches = [store.read_batch(number) for number in store.unanswered(stage)]
    return [(b.idempotency_key, len(b.images_nhwc), batch_digest(image_digests(b.images_nhwc))) for b in batches]


@contextmanager
def opened(folder: Path, run_id: str = "run-1") -> Iterator[PaidLabels]:
    with closing(PaidLabels(folder / "answers.sqlite", run_id=run_id)) as store:
        yield store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PaidLabels]:
    with opened(tmp_path) as fresh:
        yield fresh


def test_a_stage_comes_back_in_its_order_with_its_answers(store: PaidLabels) -> None:
    images, teacher = distinct_images(23), FakeTeacher()
    store.record_stage("pool", images, images_per_request=5)
    assert store.stages() == ["pool"]
    assert store.has_stage("pool")
    assert not store.has_stage("mixup")
    assert store.stage_images("pool") == (23, 0)
    assert [size for _, size, _ in cut(store, "pool")] == [5, 5, 5, 5, 3]
    buy_all(store, teacher, "pool")
    assert store.unanswered("pool") == []
    assert store.stage_images("pool") == (23, 23)
    assert store.images_bought() == 23
    labelled = store.labelled("pool")
    assert np.array_equal(labelled.images_nhwc, images)
    assert np.array_equal(labelled.values, answer_to(images))
    assert teacher.spent == 23


@settings(max_examples=30, deadline=None)
@given(
    stages=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=40), min_size=1, max_size=4),
    images_per_request=st.integers(1, 12),
    disclosure=st.sampled_from(["probabilities", "top-k:3", "label"]),
    interleaved=st.booleans(),
)
def test_repeats_are_bought_once_and_answered_in_every_row(
    stages: list[list[int]], images_per_request: int, disclosure: str, interleaved: bool
) -> None:
    teacher = FakeTeacher(disclosure=disclosure)
    with TemporaryDirectory() as folder, opened(Path(folder)) as store:
        for number, rows in enumerate(stages):
            store.record_stage(f"stage-{number}", images_of(rows), images_per_request=images_per_request)
            if interleaved:
                buy_all(store, teacher, f"stage-{number}")
        for number, _ in enumerate(stages):
            buy_all(store, teacher, f"stage-{number}")
        for number, rows in enumerate(stages):
            labelled = store.labelled(f"stage-{number}")
            assert np.array_equal(labelled.images_nhwc, images_of(rows))
            expected = answer_to(images_of(rows), disclosure)
            assert labelled.values.dtype == expected.dtype
            assert np.array_equal(labelled.values, expected, equal_nan=expected.dtype.kind == "f")
        distinct = {row for rows in stages for row in rows}
        assert teacher.spent == store.images_bought() == len(distinct)
        assert len(set(teacher.images_seen)) == len(teacher.images_seen) == len(distinct)
        assert sum(store.stage_images(stage)[0] for stage in store.stages()) == len(distinct)
        assert store.different_images() == len(distinct)


def test_recorded_batches_outlive_a_reopening_and_are_never_cut_again(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.record_stage("pool", distinct_images(20), images_per_request=6)
        before = cut(store, "pool")
    with opened(tmp_path) as store:
        assert cut(store, "pool") == before
        store.record_stage("mixup", distinct_images(20, start=10), images_per_request=3)
        assert cut(store, "pool") == before
        assert [size for _, size, _ in cut(store, "mixup")] == [3, 3, 3, 1]
        with pytest.raises(RunStoreError):  # a stage is recorded once
            store.record_stage("pool", distinct_images(20), images_per_request=2)
    with opened(tmp_path) as store:
        assert cut(store, "pool") == before


def test_keys_depend_on_run_and_images_and_on_nothing_else(tmp_path: Path) -> None:
    keys: dict[str, list[str]] = {}
    for folder, run_id in (("a", "run-1"), ("b", "run-1"), ("c", "run-2")):
        (tmp_path / folder).mkdir()
        with opened(tmp_path / folder, run_id) as store:
            store.record_stage("pool", distinct_images(10), images_per_request=4)
            keys[folder] = [key for key, _, _ in cut(store, "pool")]
            assert store.recorded_keys() == frozenset(keys[folder])
    assert keys["a"] == keys["b"]
    assert len(set(keys["a"]) | set(keys["c"])) == 6
    digest = batch_digest(image_digests(distinct_images(4)))
    assert keys["a"][0] == hashlib.sha256(f"run-1:{digest}".encode()).hexdigest()


def test_a_stage_of_nothing_new_buys_nothing(store: PaidLabels) -> None:
    store.record_stage("pool", distinct_images(5), images_per_request=5)
    store.record_stage("again", distinct_images(5)[::-1], images_per_request=5)
    assert store.stage_images("again") == (0, 0)
    assert store.unanswered("again") == []
    buy_all(store, FakeTeacher(), "pool")
    assert np.array_equal(store.labelled("again").values, answer_to(distinct_images(5)[::-1]))


def some_answer(values: Values, **fields: int) -> Answer:
    content = {"charged": len(values), "spent": 1, "remaining": 2, "event_sequence": 3} | fields
    return replace(Answer(values, "1", "d", 0, 0, 0, 0, "h"), **content)  # type: ignore[arg-type]


def test_an_answer_kept_twice_is_the_first_one(store: PaidLabels) -> None:
    store.record_stage("pool", distinct_images(2), images_per_request=2)
    (number,) = store.unanswered("pool")
    first = some_answer(np.array([4, 5]))
    for answer in (first, first, some_answer(np.array([0, 0]), event_sequence=9)):
        store.keep_answer(number, answer)
    assert store.labelled("pool").values.tolist() == [4, 5]
    (purchase,) = store.purchases()
    assert (purchase.images, purchase.charged, purchase.event_sequence) == (2, 2, 3)
    assert purchase.answer_digest == answer_digest(np.array([4, 5]))
    assert purchase.input_digest == batch_digest(image_digests(distinct_images(2)))


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.25, 0.75], [1.0, 0.0]], np.float32),
        np.array([[0.7, np.nan, np.nan], [np.nan, 0.9, np.nan]], np.float32),
        np.array([7, 65_000]),
    ],
    ids=["probabilities", "top-k", "labels"],
)
def test_values_come_back_bit_for_bit_after_a_reopening(tmp_path: Path, values: Values) -> None:
    with opened(tmp_path) as store:
        store.record_stage("pool", distinct_images(2), images_per_request=2)
        store.keep_answer(store.unanswered("pool")[0], some_answer(values))
    with opened(tmp_path) as store:
        kept = store.labelled("pool").values
    assert kept.dtype == values.dtype
    assert kept.tobytes() == values.tobytes()


def test_a_missing_answer_is_said_so(store: PaidLabels) -> None:
    store.record_stage("pool", distinct_images(4), images_per_request=2)
    store.keep_answer(store.unanswered("pool")[0], some_answer(np.array([1, 2])))
    with pytest.raises(RunStoreError, match="no answer yet"):
        store.labelled("pool")
    with pytest.raises(RunStoreError, match="'nothing' holds no images"):
        store.labelled("nothing")


@pytest.mark.parametrize("damage", ["last byte", "header", "cut", "empty"])
def test_a_damaged_answer_is_never_used(tmp_path: Path, damage: str) -> None:
    with opened(tmp_path) as store:
        store.record_stage("pool", distinct_images(4), images_per_request=4)
        buy_all(store, FakeTeacher(), "pool")
    with closing(sqlite3.connect(tmp_path / "answers.sqlite", isolation_level=None)) as connection:
        content = bytes(connection.execute("SELECT answer_npy FROM answers").fetchone()[0])
        damaged = {
            "last byte": content[:-1] + bytes([content[-1] ^ 1]),
            "header": b"?" + content[1:],
            "cut": content[:-8],
            "empty": b"",
        }[damage]
        connection.execute("UPDATE answers SET answer_npy = ?", (damaged,))
    with opened(tmp_path) as store, pytest.raises(RunStoreError, match="damaged"):
        store.labelled("pool")


def test_a_file_of_another_schema_or_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with opened(tmp_path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 4")
    with pytest.raises(RunStoreError, match="schema 4"):
        PaidLabels(path, run_id="run-1")
    path.write_bytes(b"not a database at all, " * 100)
    with pytest.raises(RunStoreError, match="cannot be opened"):
        PaidLabels(path, run_id="run-1")
    with pytest.raises(RunStoreError, match="cannot be opened"):
        PaidLabels(tmp_path / "no such folder" / "answers.sqlite", run_id="run-1")


SCHEMA_1 = """
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
PRAGMA user_version = 1;
"""


SCHEMA_2 = """
ALTER TABLE answers ADD COLUMN receipt TEXT;
ALTER TABLE answers ADD COLUMN is_recomputed INTEGER NOT NULL DEFAULT 0;
PRAGMA user_version = 2;
"""


def write_in_schema(version: int, newer: Path, older: Path) -> None:
    """What a store would be that an earlier version of this program had written."""
    with closing(sqlite3.connect(older)) as connection, connection:
        connection.executescript(SCHEMA_1 + (SCHEMA_2 if version == 2 else ""))
        connection.execute("ATTACH ? AS newer", (str(newer),))
        for table in ("stages", "images", "stage_images", "batches", "answers"):
            names = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM newer.{table}")  # noqa: S608


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_earlier_version_is_brought_up_to_date_and_goes_on(tmp_path: Path, version: int) -> None:
    teacher = FakeTeacher(signer=Signer())
    (tmp_path / "new").mkdir()
    with opened(tmp_path / "new") as store:
        store.record_stage("pool", distinct_images(20), images_per_request=6)
        number = store.unanswered("pool")[0]
        batch = store.read_batch(number)
        store.keep_answer(number, teacher.label(batch.images_nhwc, batch.idempotency_key))
    write_in_schema(version, tmp_path / "new" / "answers.sqlite", tmp_path / "answers.sqlite")
    for _ in range(2):
        with opened(tmp_path) as store:
            (purchase,) = store.purchases()
            assert (purchase.images, bool(purchase.receipt_json)) == (6, version == 2)
            assert not purchase.is_recomputed
            assert not store.own_ledger.exists
    with opened(tmp_path) as store:
        buy_all(store, teacher, "pool")
        assert np.array_equal(store.labelled("pool").values, answer_to(distinct_images(20)))
        assert [purchase.receipt_json is not None for purchase in store.purchases()] == [
            version == 2,
            True,
            True,
            True,
        ]
        assert teacher.spent == 20


def test_a_receipt_that_cannot_be_read_is_not_kept_and_the_answer_is(store: PaidLabels) -> None:
    store.record_stage("pool", distinct_images(2), images_per_request=2)
    store.keep_answer(store.unanswered("pool")[0], replace(some_answer(np.array([4, 5])), receipt="nonsense"))
    (purchase,) = store.purchases()
    assert purchase.receipt_json is None


def test_a_stage_rendered_again_must_be_what_was_paid_for(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.record_stage("pool", distinct_images(10), images_per_request=4)
        keys = store.stage_keys("pool")
    assert len(keys) == 3
    other = distinct_images(10)
    other[9, 2, 2, 0] += 1
    (tmp_path / "again").mkdir()
    with opened(tmp_path / "again") as store:
        for images, size in ((other, 4), (distinct_images(10), 5), (distinct_images(9), 4)):
            with pytest.raises(RunStoreError, match="stage pool, rendered again, is not what was paid for"):
                store.record_stage("pool", images, images_per_request=size, expected_keys=keys)
            assert not store.has_stage("pool")
            assert store.recorded_keys() == frozenset()
        store.record_stage("pool", distinct_images(10), images_per_request=4, expected_keys=keys)
        assert store.stage_keys("pool") == keys


def damage_pages(path: Path) -> None:
    """Overwrite everything after the first page."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


def test_a_file_damaged_inside_is_a_run_store_error(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.record_stage("pool", distinct_images(200), images_per_request=50)
        buy_all(store, FakeTeacher(), "pool")
    damage_pages(tmp_path / "answers.sqlite")
    with opened(tmp_path) as store:
        for read in (store.stages, store.purchases, store.images_bought, store.recorded_keys):
            with pytest.raises(RunStoreError, match=r"answers\.sqlite"):
                read()
        for read_stage in (store.has_stage, store.unanswered, store.stage_images, store.labelled):
            with pytest.raises(RunStoreError, match=r"answers\.sqlite"):
                read_stage("pool")
        with pytest.raises(RunStoreError, match=r"answers\.sqlite"):
            store.read_batch(1)


def fill_disk(store: PaidLabels) -> None:
    """From now on the file cannot grow."""
    pages = store._file._connection.execute("PRAGMA page_count").fetchone()[0]
    store._file._connection.execute(f"PRAGMA max_page_count = {pages}")


def free_disk(store: PaidLabels) -> None:
    store._file._connection.execute("PRAGMA max_page_count = 1000000")


def test_a_full_disk_leaves_no_half_a_stage(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.record_stage("pool", distinct_images(10), images_per_request=5)
        before = cut(store, "pool")
        fill_disk(store)
        many = np.random.default_rng(0).integers(0, 256, (500, *HWC), np.uint8)
        with pytest.raises(RunStoreError, match="full"):
            store.record_stage("mixup", many, images_per_request=50)
        assert not store.has_stage("mixup")
        assert cut(store, "pool") == before
        free_disk(store)
        store.record_stage("mixup", many, images_per_request=50)
        assert store.stage_images("mixup") == (500, 0)


def test_a_full_disk_keeps_no_half_an_answer(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.record_stage("pool", distinct_images(200), images_per_request=200)
        (number,) = store.unanswered("pool")
        fill_disk(store)
        answer = FakeTeacher().label(distinct_images(200), "key")
        with pytest.raises(RunStoreError, match="full"):
            store.keep_answer(number, answer)
        assert store.unanswered("pool") == [number]
        free_disk(store)
        store.keep_answer(number, answer)
    with opened(tmp_path) as store:
        assert np.array_equal(store.labelled("pool").values, answer_to(distinct_images(200)))


def test_a_writer_elsewhere_is_a_run_store_error_and_harms_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store, closing(sqlite3.connect(tmp_path / "answers.sqlite")) as other:
        store._file._connection.execute("PRAGMA busy_timeout = 1")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RunStoreError, match="locked"):
            store.record_stage("pool", distinct_images(3), images_per_request=2)
        other.rollback()
        store.record_stage("pool", distinct_images(3), images_per_request=2)
        assert store.stage_images("pool") == (3, 0)
