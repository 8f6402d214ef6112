"""Audits of a log without signatures: honest books agree, every manipulation is named."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from distill_client.audit import Audit, Difference, audit_run, read_log
from shared.wire.contracts import Usage
from tests.distill_client.audit.books import Books
from tests.distill_client.fakes import FakeTeacher, relinked


def test_honest_books_agree_and_other_runs_are_not_ours(books: Books) -> None:
    audit = books.audit()
    assert audit == Audit(18, 18, 18, 21, answers=5)
    assert audit.is_equal
    assert "counts not proved by receipts" in audit.sentence
    assert audit.describe() == "bought 18, charged 18, in the audit log 18"


def edit_images(books: Books) -> None:
    books.edit(books.ours()[1], images=3)


def edit_and_relink(books: Books) -> None:
    books.edit(books.ours()[1], input_digest="f" * 64)
    books.events = relinked(books.events)


def edit_answer_and_relink(books: Books) -> None:
    books.edit(books.ours()[2], answer_digest="e" * 64)
    books.events = relinked(books.events)


def remove(books: Books) -> None:
    del books.events[books.ours()[2]]


def remove_and_relink(books: Books) -> None:
    remove(books)
    books.events = relinked(books.events)


def remove_last(books: Books) -> None:
    books.events.pop()


def remove_first(books: Books) -> None:
    books.events.pop(0)


def remove_all(books: Books) -> None:
    books.events.clear()


def duplicate(books: Books) -> None:
    books.events.insert(books.ours()[1], books.events[books.ours()[1]])


def duplicate_and_relink(books: Books) -> None:
    duplicate(books)
    books.events = relinked(books.events)


def move(books: Books) -> None:
    first, second = books.ours()[1:3]
    books.events[first], books.events[second] = books.events[second], books.events[first]


def move_and_relink(books: Books) -> None:
    move(books)
    books.events = relinked(books.events)


def disown(books: Books) -> None:
    """The teacher calls one of our charges another run's."""
    books.edit(books.ours()[0], idempotency_key="somebody-else")
    books.events = relinked(books.events)


def other_runs_event_edited(books: Books) -> None:
    books.edit(1, images=10)


def last_event_of_other_run_inflated(books: Books) -> None:
    """After our last event the chain is not pinned by our receipts; the sums still are."""
    index = len(books.events) - 2
    books.edit(index, spent=books.events[index].spent + 100)
    books.events = relinked(books.events)


def spent_more(books: Books) -> None:
    books.usage = Usage(granted=507, spent=40, remaining=467)


def granted_less(books: Books) -> None:
    books.usage = Usage(granted=506, spent=39, remaining=467)


def remaining_less(books: Books) -> None:
    books.usage = Usage(granted=507, spent=39, remaining=400)


def answer_lost_here(books: Books) -> None:
    books.purchases.pop()


def version_here(books: Books) -> None:
    books.purchases[0] = replace(books.purchases[0], version="2")


def hash_here(books: Books) -> None:
    books.purchases[0] = replace(books.purchases[0], event_hash="0" * 64)


def bought_and_never_charged(books: Books) -> None:
    books.purchases.append(replace(books.purchases[0], idempotency_key="free"))
    books.keys |= {"free"}


@pytest.mark.parametrize(
    ("manipulate", "named"),
    [
        (edit_images, ["event 4 was edited", "images is 4 here and 3 there", "39 spent, its log adds up to 38"]),
        (edit_and_relink, ["input digest is .* here and f{64} there", "event hash is"]),
        (edit_answer_and_relink, ["answer digest is .* here and e{64} there", "event hash is"]),
        (remove, ["one is missing, repeated or moved", "stands 0 times in the teacher's log"]),
        (remove_and_relink, ["stands 0 times in the teacher's log", "spent, its log adds up to 35"]),
        (remove_last, ["507 granted, its log adds up to 500"]),
        (remove_first, ["event 2 follows event 0", "granted, its log adds up to 7"]),
        (remove_all, ["stands 0 times", "39 spent, its log adds up to 0"]),
        (duplicate, ["event 4 follows event 4", "stands 2 times in the teacher's log", "adds up to 43"]),
        (duplicate_and_relink, ["stands 2 times in the teacher's log", "adds up to 43"]),
        (move, ["one is missing, repeated or moved", "does not continue the hash"]),
        (move_and_relink, ["event sequence is 4 here and 6 there", "event hash is"]),
        (disown, ["stands 0 times in the teacher's log"]),
        (other_runs_event_edited, ["event 2 was edited", "39 spent, its log adds up to 38"]),
        (last_event_of_other_run_inflated, ["event 9 says 139 spent"]),
        (spent_more, ["says 40 spent, its log adds up to 39"]),
        (granted_less, ["says 506 granted, its log adds up to 507"]),
        (remaining_less, ["says 400 remaining of 507, 39 spent"]),
        (answer_lost_here, [r"\(2 images\) is charged, event 8, but .* is free, `distill resume` does it"]),
        (version_here, ["version is 2 here and 1 there"]),
        (hash_here, ["event hash is 0{64} here"]),
        (bought_and_never_charged, [r"batch free \(4 images\) stands 0 times"]),
    ],
)
def test_every_manipulation_is_named(books: Books, manipulate: Callable[[Books], None], named: list[str]) -> None:
    manipulate(books)
    audit = books.audit()
    assert not audit.is_equal
    everything = "\n".join(audit.faults)
    for message in named:
        assert re.search(message, everything), everything


def test_a_long_list_of_faults_is_cut_for_people() -> None:
    many = tuple(Difference("log", f"fault {number}") for number in range(25))
    audit = Audit(1, 2, 3, 0, many)
    assert audit.describe() == (
        "bought 1, charged 2, in the audit log 3; " + "; ".join(f"fault {n}" for n in range(10)) + "; ... and 15 more"
    )
    assert audit.sentence.endswith("in the log of the teacher's server; 25 differences): fault 0.")


def test_equal_rows_with_unequal_counts_are_not_equal() -> None:
    assert not Audit(5, 5, 6, 0).is_equal
    assert not Audit(5, 4, 5, 0).is_equal
    assert not Audit(5, 5, 5, 0, (Difference("log", "a fault"),)).is_equal


def test_nothing_bought_is_equal_to_nothing_charged() -> None:
    teacher = FakeTeacher()
    teacher.charge_other_run(9)
    audit = audit_run([], frozenset(), read_log(teacher))
    assert audit == Audit(0, 0, 0, 9)
    assert audit.is_equal
