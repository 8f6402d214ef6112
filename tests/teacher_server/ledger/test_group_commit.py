"""Charges that wait together share one commit, and one that fails leaves its neighbours alone."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, event, text

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.databases.group_commit import GroupCommit
from teacher_server.ledger.keys.issuing import list_keys
from teacher_server.ledger.ledger import Ledger
from tests.teacher_server.ledger.support import charge
from tests.teacher_server.support import history, new_key, require_sound

pytestmark = pytest.mark.parametrize("ledger_kind", ["sqlite"], indirect=True)


class HeldTransactions:
    """Transactions on a database whose first one waits inside, so that what comes meanwhile waits together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.begun = 0
        self.first_is_in = threading.Event()
        self.may_go_on = threading.Event()
        self.failing = 0  # the number of the transaction whose commit fails

    @contextmanager
    def __call__(self) -> Iterator[Connection]:
        self.begun += 1
        with self._database.writing() as connection:
            if self.begun == 1:
                self.first_is_in.set()
                assert self.may_go_on.wait(timeout=30)
            yield connection
            if self.begun == self.failing:
                raise Refusal(ErrorCode.LEDGER_UNAVAILABLE, "the disk is gone", charged="unknown")


@pytest.fixture
def held(database: Database) -> HeldTransactions:
    return HeldTransactions(database)


@pytest.fixture
def group(held: HeldTransactions) -> Iterator[GroupCommit]:
    made = GroupCommit(held)
    yield made
    held.may_go_on.set()
    made.close()


def insert_key(name: str, *, granted: int = 1) -> str:
    columns = "name, lookup, secret_sha256, disclosure, granted, spent, created_at"
    return f"INSERT INTO keys ({columns}) VALUES ('{name}', '{name}', '', 'label', {granted}, 0, '')"  # noqa: S608


def in_one_group(
    held: HeldTransactions, group: GroupCommit, works: list[object], pool: ThreadPoolExecutor
) -> list[Future[object]]:
    """Run the first, and while it is inside let the others queue up, in order."""
    first = pool.submit(group.run, lambda connection: None)
    assert held.first_is_in.wait(timeout=30)
    waiting: list[Future[object]] = []
    for number, work in enumerate(works, 1):
        waiting.append(pool.submit(group.run, work))  # type: ignore[arg-type]  # each takes the connection
        while group._jobs.qsize() < number:  # the order is the order in the queue
            pass
    held.may_go_on.set()
    first.result(timeout=30)
    return waiting


def test_what_waits_together_is_committed_together(
    database: Database, held: HeldTransactions, group: GroupCommit
) -> None:
    works: list[object] = [
        (lambda connection, n=n: connection.execute(text(insert_key(f"k{n}"))) and n) for n in range(20)
    ]
    with ThreadPoolExecutor(21) as pool:
        waiting = in_one_group(held, group, works, pool)
        assert [future.result(timeout=30) for future in waiting] == list(range(20))
    assert (held.begun, group.commits) == (2, 2)
    assert len(list_keys(database)) == 20


def test_one_that_fails_takes_back_only_what_it_wrote_itself(
    database: Database, held: HeldTransactions, group: GroupCommit
) -> None:
    def refused(connection: Connection) -> None:
        connection.execute(text(insert_key("bad")))
        raise Refusal(ErrorCode.BUDGET_EXHAUSTED, "no")

    def defect(connection: Connection) -> None:
        connection.execute(text(insert_key("worse")))
        raise ZeroDivisionError

    works: list[object] = [lambda c: c.execute(text(insert_key("a"))), refused, defect]
    works.append(lambda c: c.execute(text(insert_key("b"))))
    with ThreadPoolExecutor(5) as pool:
        a, bad, worse, b = in_one_group(held, group, works, pool)
        a.result(timeout=30)
        b.result(timeout=30)
        with pytest.raises(Refusal, match="no"):
            bad.result(timeout=30)
        with pytest.raises(ZeroDivisionError):
            worse.result(timeout=30)
    assert held.begun == 2
    assert [key.name for key in list_keys(database)] == ["a", "b"]


def test_one_that_the_database_refuses_is_found_and_the_others_are_kept(
    database: Database, held: HeldTransactions, group: GroupCommit
) -> None:
    works: list[object] = [
        lambda c: c.execute(text(insert_key("a"))),
        lambda c: c.execute(text(insert_key("over", granted=-1))),  # the table's own check
        lambda c: c.execute(text(insert_key("b"))),
    ]
    with ThreadPoolExecutor(4) as pool:
        a, over, b = in_one_group(held, group, works, pool)
        a.result(timeout=30)
        b.result(timeout=30)
        with pytest.raises(Refusal) as refusal:
            over.result(timeout=30)
    assert (refusal.value.code, refusal.value.members["charged"]) == (ErrorCode.LEDGER_UNAVAILABLE, "no")
    assert [key.name for key in list_keys(database)] == ["a", "b"]


def test_nothing_is_told_when_the_commit_fails_not_even_a_refusal(
    database: Database, held: HeldTransactions, group: GroupCommit
) -> None:
    """A refusal rests on what the neighbours spent, which is not durable then."""

    def refused(_: Connection) -> None:
        raise Refusal(ErrorCode.BUDGET_EXHAUSTED, "from sums that are not durable")

    held.failing = 2
    works: list[object] = [lambda c: c.execute(text(insert_key("a"))), refused]
    with ThreadPoolExecutor(3) as pool:
        for future in in_one_group(held, group, works, pool):
            with pytest.raises(Refusal) as refusal:
                future.result(timeout=30)
            assert (refusal.value.code, refusal.value.members) == (
                ErrorCode.LEDGER_UNAVAILABLE,
                {"charged": "unknown"},
            )
    assert list_keys(database) == []


def test_charges_share_commits_and_the_budget_ends_exactly(database: Database) -> None:
    key, ledger = new_key(database, budget=100), Ledger(database)
    database.share_commits()

    def buy(number: int) -> int:
        try:
            return charge(ledger, key, f"k{number}", 1 + number % 3).event.images
        except Refusal as refusal:
            if refusal.code is not ErrorCode.BUDGET_EXHAUSTED:
                raise
            return 0

    with ThreadPoolExecutor(32) as pool:
        bought = list(pool.map(buy, range(96)))
        bought += pool.map(lambda number: buy(3 * number), range(40, 60))  # one image each
    assert sum(bought) == list_keys(database)[0].spent == 100
    kinds = [found.kind for found in history(database, key)]
    assert kinds.count("answer") == sum(1 for images in bought if images)
    assert 1 <= kinds.count("refuse") <= kinds.count("answer"), "one per change of state"
    assert 0 < database.shared_commits < len(bought)
    require_sound(database)


def test_after_closing_nothing_is_taken_and_what_waited_is_done(database: Database) -> None:
    group = GroupCommit(database.writing)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(group.run, lambda c, n=n: c.execute(text(insert_key(f"k{n}")))) for n in range(8)]
        for future in futures:
            future.result(timeout=30)
    group.close()
    with pytest.raises(Refusal) as refusal:
        group.run(lambda connection: None)
    assert refusal.value.code is ErrorCode.LEDGER_UNAVAILABLE
    assert len(list_keys(database)) == 8


def test_one_fsync_for_many(database: Database) -> None:
    """Counted at the driver: as many COMMITs as groups, whatever the number of charges."""
    key, ledger, commits = new_key(database, budget=1000), Ledger(database), []
    database.share_commits()
    engine = database._backend.writing
    event.listen(engine, "commit", lambda connection: commits.append(1))
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda number: charge(ledger, key, f"k{number}", 1), range(320)))
    assert len(commits) == database.shared_commits < 320
    require_sound(database)
