"""Charging: exactly once per idempotency key, never past the budget, all or nothing."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from sqlalchemy import func, select, text, update

from shared.wire.error_codes import ErrorCode
from shared.wire.images import answer_digest, encode_npy
from teacher_server.errors import Refusal
from teacher_server.ledger.charging.answers import Answered
from teacher_server.ledger.charging.charge import Computed
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import grant_images, list_keys, revoke_key
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.tables import answers, event_images, keys
from tests.teacher_server.ledger.soundness import require_sound
from tests.teacher_server.ledger.support import charge, computed, open_ledger, question
from tests.teacher_server.support import history, new_key


def test_a_charge_is_one_event_that_says_everything(database: Database) -> None:
    key, ledger = new_key(database, budget=10), Ledger(database)
    answered = charge(ledger, key, "first", 3)
    assert not answered.is_replay
    assert (answered.event.images, answered.event.spent, answered.event.granted, answered.remaining) == (3, 3, 10, 7)
    created, event = history(database, key)
    assert event == answered.event
    assert (created.kind, created.images, created.sequence, created.granted, created.spent) == (
        "create",
        10,
        1,
        10,
        0,
    )
    assert (event.kind, event.sequence, event.previous_hash) == ("answer", 2, created.hash)
    assert (event.key_name, event.teacher, event.version, event.disclosure) == (
        "ada",
        "numbers",
        "1",
        "probabilities",
    )
    assert event.input_digest == question(key, "first").input_digest
    assert event.answer_digest == answer_digest(computed(3).disclosed)
    assert event.idempotency_key == "first"
    with database.reading() as connection:
        kept = connection.execute(select(event_images)).mappings().one()
    assert (kept["sequence"], kept["fingerprints"]) == (2, b"packed" * 3)
    require_sound(database)


@pytest.mark.parametrize(
    "disclosed",
    [
        np.array([[0.1, 0.9], [1e-6, 0.999999]], np.float32),
        np.array([[np.nan, 0.9], [0.5, np.nan]], np.float32),
        np.array([1, 0], np.int64),
    ],
    ids=["probabilities", "top-k", "labels"],
)
def test_a_replay_is_the_stored_answer_also_after_reopening(
    database: Database, ledger_url: str, disclosed: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    key, ledger = new_key(database), Ledger(database)
    asked = question(key, "once")
    assert ledger.find_answer(asked) is None
    first = ledger.charge(asked, Computed("1", 2, disclosed, b"fingerprints"), request_id="the first")
    assert isinstance(first, Answered)
    with closing(open_ledger(ledger_url)) as other:
        for replay in (
            ledger.find_answer(asked),
            Ledger(other).find_answer(asked),
            Ledger(other).charge(asked, computed(2, value=0.75), request_id="another"),
        ):
            assert isinstance(replay, Answered)
            assert replay.is_replay
            assert (replay.event, replay.request_id, replay.remaining) == (first.event, "the first", first.remaining)
            assert encode_npy(replay.disclosed) == encode_npy(disclosed)
    assert len(history(database, key)) == 2
    require_sound(database)


def test_a_replay_tells_what_was_left_then_not_now(database: Database) -> None:
    key, ledger = new_key(database, budget=10), Ledger(database)
    charge(ledger, key, "a", 4)
    charge(ledger, key, "b", 6)
    grant_images(database, name="ada", images=100)
    replay = charge(ledger, key, "a", 4)
    assert (replay.is_replay, replay.event.spent, replay.remaining) == (True, 4, 6)


@pytest.mark.parametrize("change", [{"about": "other images"}, {"teacher": "another"}])
def test_an_idempotency_key_is_not_used_for_another_question(database: Database, change: dict[str, str]) -> None:
    key, ledger = new_key(database), Ledger(database)
    charge(ledger, key, "mine", 2)
    other = question(key, "mine", **change)
    with pytest.raises(Refusal) as found:
        ledger.find_answer(other)
    with pytest.raises(Refusal) as charged:
        ledger.charge(other, computed(2), request_id="x")
    assert found.value.code is charged.value.code is ErrorCode.IDEMPOTENCY_KEY_REUSED
    assert len(history(database, key)) == 2
    require_sound(database)


def test_an_idempotency_key_belongs_to_one_key(database: Database) -> None:
    ledger = Ledger(database)
    ada, bob = new_key(database, "ada"), new_key(database, "bob")
    charge(ledger, ada, "same", 2, value=0.25)
    assert ledger.find_answer(question(bob, "same")) is None
    answered = charge(ledger, bob, "same", 3, value=0.75)
    assert not answered.is_replay
    assert [(key.name, key.spent) for key in list_keys(database)] == [("ada", 2), ("bob", 3)]
    require_sound(database)


def test_the_budget_ends_exactly_at_its_last_image(database: Database) -> None:
    key, ledger = new_key(database, budget=5), Ledger(database)
    charge(ledger, key, "a", 4)
    for images, tried in ((2, "b"), (1000, "c")):
        with pytest.raises(Refusal) as refusal:
            charge(ledger, key, tried, images)
        assert refusal.value.code is ErrorCode.BUDGET_EXHAUSTED
        assert refusal.value.members == {"granted": 5, "spent": 4, "asked": images}
    assert charge(ledger, key, "d", 1).remaining == 0
    with pytest.raises(Refusal) as refusal:
        charge(ledger, key, "e", 1)
    assert refusal.value.members == {"granted": 5, "spent": 5, "asked": 1}
    # what was refused left nothing behind: the same idempotency keys work once there is room
    grant_images(database, name="ada", images=2)
    assert not charge(ledger, key, "b", 2).is_replay
    assert charge(ledger, key, "a", 4).is_replay, "a replay needs no budget"
    require_sound(database)


def test_an_empty_budget_buys_nothing(database: Database) -> None:
    key, ledger = new_key(database, budget=0), Ledger(database)
    with pytest.raises(Refusal) as refusal:
        charge(ledger, key, "a", 1)
    assert refusal.value.members == {"granted": 0, "spent": 0, "asked": 1}


def test_a_key_revoked_since_it_was_recognised_is_refused_inside_the_transaction(database: Database) -> None:
    key, ledger = new_key(database), Ledger(database)
    charge(ledger, key, "before", 1)
    revoke_key(database, name="ada")
    with pytest.raises(Refusal) as refusal:
        charge(ledger, key, "after", 1)
    assert refusal.value.code is ErrorCode.UNAUTHENTICATED
    with pytest.raises(Refusal):
        charge(ledger, key, "after", 1)
    kinds = [event.kind for event in history(database, key)]
    assert kinds == ["create", "answer", "revoke", "refuse"], "one refusal for one reason"
    with database.reading() as connection:
        assert connection.execute(select(func.count()).select_from(answers)).scalar_one() == 1
    require_sound(database)


def test_a_key_expired_since_it_was_recognised_is_refused_inside_the_transaction(database: Database) -> None:
    key, ledger = new_key(database), Ledger(database)
    with database.writing() as connection:
        connection.execute(update(keys).values(expires_at="2020-01-01T00:00:00.000000+00:00"))
    with pytest.raises(Refusal) as refusal:
        charge(ledger, key, "late", 1)
    assert refusal.value.code is ErrorCode.UNAUTHENTICATED
    assert list_keys(database)[0].spent == 0


def test_threads_of_random_batches_never_pass_the_budget(database: Database) -> None:
    key, ledger, granted = new_key(database, budget=60), Ledger(database), 60
    rng = random.Random(1)
    batches = [[rng.randint(1, 7) for _ in range(6)] for _ in range(8)]

    def buy(worker: int) -> tuple[int, list[ErrorCode]]:
        bought, refusals = 0, []
        for number, images in enumerate(batches[worker]):
            try:
                bought += charge(ledger, key, f"{worker}-{number}", images).event.images
            except Refusal as refusal:
                refusals.append(refusal.code)
        return bought, refusals

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(buy, range(8)))
    spent = list_keys(database)[0].spent
    assert sum(map(sum, batches)) > granted
    assert sum(bought for bought, _ in outcomes) == spent <= granted
    assert spent > granted - 7, "refused only what did not fit"
    assert {code for _, refusals in outcomes for code in refusals} == {ErrorCode.BUDGET_EXHAUSTED}
    require_sound(database)


def test_one_idempotency_key_from_many_threads_is_charged_once(database: Database) -> None:
    key, ledger = new_key(database, budget=100), Ledger(database)
    barrier = threading.Barrier(8)

    def buy(worker: int) -> tuple[bool, bytes, str, str]:
        barrier.wait(timeout=30)
        answered = charge(ledger, key, "one", 3, value=worker / 8)
        return answered.is_replay, encode_npy(answered.disclosed), answered.event.hash, answered.request_id

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(buy, range(8)))
    assert sorted(is_replay for is_replay, *_ in outcomes) == [False] + [True] * 7
    assert len({outcome[1:] for outcome in outcomes}) == 1
    assert list_keys(database)[0].spent == 3
    require_sound(database)


def test_a_writer_from_elsewhere_continues_the_same_chain(database: Database, ledger_url: str) -> None:
    """The command line grants while the server charges: nobody may remember the head."""
    key, ledger = new_key(database, budget=10), Ledger(database)
    with closing(open_ledger(ledger_url)) as other:
        for turn in range(3):
            charge(ledger, key, f"server {turn}", 1)
            grant_images(other, name="ada", images=5)
            charge(Ledger(other), key, f"other {turn}", 2)
    assert [event.sequence for event in history(database, key)] == list(range(1, 11))
    require_sound(database)


def test_the_history_is_read_in_pages(database: Database) -> None:
    key, ledger = new_key(database), Ledger(database)
    for number in range(5):
        charge(ledger, key, str(number), 1)
    whole = history(database, key)
    assert [event.sequence for event in whole] == [1, 2, 3, 4, 5, 6]
    pages = [ledger.history(key, after=after, limit=limit) for after, limit in ((0, 2), (2, 3), (6, 3))]
    assert [[signed.event for signed in page] for page in pages] == [whole[:2], whole[2:5], []]


def test_the_tables_themselves_refuse_to_pass_a_budget(database: Database) -> None:
    """The last line of defence, whatever a program does."""
    new_key(database, budget=5)
    for broken in ("spent = 6", "spent = -1", "granted = -1"):
        with pytest.raises(Refusal) as refusal, database.writing() as connection:
            connection.execute(text(f"UPDATE keys SET {broken}"))  # noqa: S608 - three constants above
        assert "spent_within_granted" in str(refusal.value.__cause__)


def test_a_commit_is_fsynced_and_readers_never_wait(database: Database, ledger_kind: str) -> None:
    new_key(database)
    with database.reading() as reader:
        if ledger_kind == "postgresql":
            asked = [reader.execute(text(f"SHOW {name}")).scalar_one() for name in ("fsync", "synchronous_commit")]
            assert asked == ["on", "on"]
        else:
            asked = [
                reader.execute(text(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
            assert asked == ["wal", 2, 1], "2 is FULL"
        assert reader.execute(select(keys.c.spent)).scalar_one() == 0
        with database.writing() as writer:
            writer.execute(update(keys).values(spent=1))
            assert reader.execute(select(keys.c.spent)).scalar_one() == 0, "a reader sees one moment"
    assert list_keys(database)[0].spent == 1
