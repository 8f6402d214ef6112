"""A lost or damaged answers.sqlite: everything in it was paid for, and is had again without a charge."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from distill_client.errors import RunStoreError, TeacherUnavailable
from distill_client.run_folder import open_run
from distill_client.teachers.paid.batch_notes import BatchNotes
from distill_client.teachers.paid.schema import damage
from tests.distill_client.fakes import FakeTeacher, Signer, begin, bring_to_its_end, tiny_config

STORE = "answers.sqlite"


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def keep_one_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4096])


def damage_pages(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


def drop_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE answers")


LOSSES = [remove, empty, overwrite, truncate, keep_one_page, damage_pages, drop_tables]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_finished_run_gets_all_its_answers_again_for_nothing(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    teacher, path = FakeTeacher(budget=100, signer=Signer()), tmp_path / "run"
    begin(path, tiny_config(), teacher)
    first = bring_to_its_end(path, teacher)
    lose(path / STORE)
    was_there = (path / STORE).exists()
    again = bring_to_its_end(path, teacher)
    assert teacher.spent == 100
    assert again["audit"]["equal"], again["audit"]["faults"]
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert (path / f"{STORE}.damaged-1").exists() is was_there
    keys = [key for key, _ in teacher.asked]
    assert len(set(keys)) * 2 == len(keys), "every batch was asked for twice, under its own key"


@pytest.mark.parametrize("damaged", ["x'00'", "answer_npy || x'00'", "substr(answer_npy, 1, 90) || zeroblob(600)"])
def test_single_damaged_answers_are_fetched_again_and_no_others(tmp_path: Path, damaged: str) -> None:
    teacher, path = FakeTeacher(budget=100, signer=Signer()), tmp_path / "run"
    begin(path, tiny_config(), teacher)
    first, calls = bring_to_its_end(path, teacher), teacher.calls
    with closing(sqlite3.connect(path / STORE)) as connection, connection:
        connection.execute(f"UPDATE answers SET answer_npy = CAST({damaged} AS BLOB) WHERE batch IN (2, 5)")  # noqa: S608
    with (
        open_run(path) as folder,
        pytest.raises(RunStoreError, match=r"batch 2 is damaged.*`distill resume` fetches"),
    ):
        folder.labels.labelled("pool")
    with open_run(path, mends=True) as folder:
        assert "2 answers in answers.sqlite were damaged" in folder.set_aside
    again = bring_to_its_end(path, teacher)
    assert (teacher.calls - calls, teacher.spent) == (2, 100)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


@pytest.mark.parametrize("lost_at", [2, 5, 8])
def test_a_store_lost_in_mid_run_costs_nothing_twice(tmp_path: Path, lost_at: int) -> None:
    """The budget is exact: what is fetched again must not count as still to be bought."""
    teacher, path = FakeTeacher(budget=100, signer=Signer(), fails_after={lost_at}), tmp_path / "run"
    begin(path, tiny_config(), teacher)
    with pytest.raises(TeacherUnavailable):
        bring_to_its_end(path, teacher)
    (path / STORE).unlink()
    summary = bring_to_its_end(path, teacher)
    assert teacher.spent == summary["images"]["bought"] == 100
    assert summary["audit"]["equal"]


def test_only_a_resumption_mends_and_others_say_what_does(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(signer=Signer()), tmp_path / "my run"
    begin(path, tiny_config(synthesis={"images": 0}), teacher)
    bring_to_its_end(path, teacher)
    (path / STORE).unlink()
    for _ in range(2):
        with pytest.raises(
            RunStoreError, match=r"is missing or empty; `distill resume '.*my run'` fetches them again"
        ):
            open_run(path).__enter__()
    with open_run(path, mends=True) as folder:
        assert "is missing or empty" in folder.set_aside
    for number in (1, 2):
        overwrite(path / STORE)
        with open_run(path, mends=True) as folder:
            assert f"{STORE} is kept as {STORE}.damaged-{number}" in folder.set_aside
    with open_run(path, mends=True) as folder:
        assert folder.set_aside == "", "what is whole stays"


def test_what_would_be_rendered_otherwise_now_is_not_bought_again(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(signer=Signer()), tmp_path / "run"
    begin(path, tiny_config(), teacher)
    bring_to_its_end(path, teacher)
    (path / STORE).unlink()
    notes = json.loads((path / "batches.json").read_text())
    (path / "batches.json").write_text(json.dumps({**notes, "mixup": notes["mixup"][::-1]}))
    with pytest.raises(RunStoreError, match="stage mixup, rendered again, is not what was paid for"):
        bring_to_its_end(path, teacher)
    assert teacher.spent == 100


def test_a_run_of_an_earlier_version_notes_its_batches_when_it_is_resumed(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(), tmp_path / "run"
    begin(path, tiny_config(), teacher)
    bring_to_its_end(path, teacher)
    notes = (path / "batches.json").read_text()
    (path / "batches.json").unlink()
    bring_to_its_end(path, teacher)
    assert (path / "batches.json").read_text() == notes
    (path / "batches.json").unlink()
    (path / STORE).unlink()
    with pytest.raises(RunStoreError, match=r"is missing or empty$"):
        bring_to_its_end(path, teacher)


def test_damaged_notes_are_named_and_not_believed(tmp_path: Path) -> None:
    notes = BatchNotes(tmp_path / "batches.json")
    assert notes.keys("pool") is None
    notes.note("pool", ("a", "b"))
    notes.note("mixup", ("c",))
    assert (notes.keys("pool"), notes.all_keys()) == (("a", "b"), frozenset("abc"))
    for damaged in ("{", "[]", '{"pool": "x"}', '{"pool": [1]}'):
        (tmp_path / "batches.json").write_text(damaged)
        with pytest.raises(RunStoreError, match=r"batches\.json: the notes of what was bought cannot be read"):
            notes.keys("pool")


def test_a_store_that_is_only_locked_is_not_damaged(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    path = tmp_path / "run" / STORE
    assert damage(path) == ""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert damage(path) == ""
        other.execute("ROLLBACK")
