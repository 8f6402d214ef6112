"""Owners are told at 50, 80, 95 and 100 % of a budget: once each, in time, and whatever dies in between."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count

import pytest

from teacher_server.alerting import BudgetAlerts
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.budget_shares import passed_percent, passed_percents
from teacher_server.ledger.keys.issuing import Key, grant_images, revoke_key
from teacher_server.ledger.ledger import Ledger
from teacher_server.webhooks import Webhook
from tests.ledger_places import LedgerPlace
from tests.teacher_server.ledger.support import charge
from tests.teacher_server.receiver import Receiver, receiving, wait_until
from tests.teacher_server.support import new_key

_numbers = count()


@pytest.fixture
def database(place: LedgerPlace) -> Iterator[Database]:
    with place.open(create=True) as opened:
        opened.share_commits()
        yield opened


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teacher_server.alerting.RETRY_AFTER_S", 0.05)


def webhook(receiver: Receiver, *, deadline_s: float = 10.0) -> Webhook:
    return Webhook(receiver.url, None, deadline_s=deadline_s)


def spend(database: Database, key: Key, images: int, alerts: BudgetAlerts | None = None) -> None:
    ledger = Ledger(database, charged=alerts.charged) if alerts else Ledger(database)
    charge(ledger, key, f"request-{next(_numbers)}", images)


def percents(receiver: Receiver) -> list[int]:
    return [message.data["percent"] for message in receiver.taken]


@pytest.mark.parametrize(
    ("spent", "granted", "percent"),
    [(0, 0, 0), (0, 10, 0), (4, 10, 0), (5, 10, 50), (7, 10, 50), (8, 10, 80), (949, 1000, 80), (95, 100, 95),
     (10, 10, 100), (1, 1, 100), (2**53 - 2, 2**53 - 1, 95), (2**52 - 1, 2**53 - 1, 0), (2**52, 2**53 - 1, 50)],
)  # fmt: skip
def test_steps_are_exact(spent: int, granted: int, percent: int) -> None:
    assert passed_percent(spent=spent, granted=granted) == percent
    assert all(step <= percent for step in passed_percents(spent=spent, granted=granted))


def test_each_step_is_told_once(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    key = new_key(database, budget=100)
    with receiving() as receiver, BudgetAlerts(database, webhook(receiver)) as alerts:
        for number, images in enumerate((49, 1, 29, 1, 14, 1, 4, 1)):
            spend(database, key, images, alerts)
            receiver.wait_for((number + 1) // 2)
        assert percents(receiver) == [50, 80, 95, 100]
        wait_until(lambda: alerted(database) == 100)  # until it is marked, a restart tells it again
        first = receiver.taken[0].data
        assert len(first.pop("ledger")) == 32
        assert first == {"key": "ada", "percent": 50, "passed": [50], "spent": 50, "granted": 100, "remaining": 50}
        assert len({message.headers["Webhook-Id"] for message in receiver.taken}) == 4
    lines = [record.getMessage() for record in caplog.records if "budget: key ada" in record.getMessage()]
    assert len(lines) == 4
    assert "spent 50 of 100 images" in lines[0]
    with receiving() as receiver, BudgetAlerts(database, webhook(receiver)):
        time.sleep(0.3)
        assert receiver.messages == []


def test_several_steps_at_once_are_one_message(database: Database) -> None:
    key = new_key(database, budget=100)
    with receiving() as receiver, BudgetAlerts(database, webhook(receiver)) as alerts:
        spend(database, key, 97, alerts)
        assert receiver.wait_for(1)[0].data["passed"] == [50, 80, 95]
        spend(database, key, 3, alerts)
        assert receiver.wait_for(2)[1].data["passed"] == [100]


def test_a_grant_that_brings_the_share_down_makes_the_steps_count_again(database: Database) -> None:
    key = new_key(database, budget=10)
    with receiving() as receiver, BudgetAlerts(database, webhook(receiver)) as alerts:
        spend(database, key, 8, alerts)
        receiver.wait_for(1)
        wait_until(lambda: alerted(database) == 80)
        grant_images(database, name="ada", images=4)
        assert alerted(database) == 50
        grant_images(database, name="ada", images=8)
        assert alerted(database) == 0
        spend(database, key, 3, alerts)
        receiver.wait_for(2)
        spend(database, key, 11, alerts)
        receiver.wait_for(3)
    assert percents(receiver) == [80, 50, 100]
    assert len({message.headers["Webhook-Id"] for message in receiver.taken}) == 3


def test_a_receiver_that_fails_first_gets_it_later(database: Database) -> None:
    key = new_key(database, budget=2)
    with receiving(*[503] * 6) as receiver, BudgetAlerts(database, webhook(receiver, deadline_s=0.5)) as alerts:
        spend(database, key, 1, alerts)
        receiver.wait_for(1)
        assert len(receiver.messages) == 7
        wait_until(lambda: alerted(database) == 50)


def test_a_receiver_that_hangs_keeps_no_charge_waiting(database: Database) -> None:
    key = new_key(database, budget=1000)
    with receiving(pause_s=1.5) as receiver, BudgetAlerts(database, webhook(receiver)) as alerts:
        spend(database, key, 500, alerts)
        wait_until(lambda: len(receiver.messages) == 1)
        started = time.monotonic()
        for _ in range(20):
            spend(database, key, 1, alerts)
        assert time.monotonic() - started < 1
        assert receiver.taken == []
        receiver.wait_for(1)


def test_without_a_webhook_there_is_the_log(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    key = new_key(database, budget=4)
    with BudgetAlerts(database, None) as alerts:
        spend(database, key, 2, alerts)
        wait_until(lambda: alerted(database) == 50)
    assert any("key ada has spent 2 of 4 images" in record.getMessage() for record in caplog.records)
    assert all(record.levelno >= logging.WARNING for record in caplog.records if "budget" in record.getMessage())


def test_what_nobody_was_told_of_is_told_at_the_start(database: Database) -> None:
    for name, images in (("ada", 5), ("bob", 9), ("eve", 4)):
        spend(database, new_key(database, name, budget=10), images)
    spend(database, new_key(database, "zoe", budget=10), 10)
    revoke_key(database, name="zoe")
    with receiving() as receiver, BudgetAlerts(database, webhook(receiver)):
        told = [(message.data["key"], message.data["percent"]) for message in receiver.wait_for(2)]
        wait_until(lambda: alerted(database, "bob") == 80)
    assert told == [("ada", 50), ("bob", 80)]
    assert len(receiver.messages) == 2


def test_an_alert_told_before_a_crash_is_told_under_the_same_id(database: Database) -> None:
    """The ledger did not hear that it was told: what a kill between the two leaves."""
    key = new_key(database, budget=10)
    spend(database, key, 5)
    ids = []
    for _ in range(2):
        with receiving() as receiver, BudgetAlerts(database, webhook(receiver)):
            ids.append(receiver.wait_for(1)[0].headers["Webhook-Id"])
            wait_until(lambda: alerted(database) == 50)
        with database.writing() as connection:
            connection.exec_driver_sql("UPDATE keys SET alerted_percent = 0")
    assert ids[0] == ids[1]


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_of_several_servers_on_one_ledger_one_tells(place: LedgerPlace) -> None:
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving(pause_s=0.2))
        databases = [stack.enter_context(place.open(create=True)) for _ in range(4)]
        keys = [new_key(databases[0], f"key-{number}", budget=4) for number in range(4)]
        alerts = [stack.enter_context(BudgetAlerts(database, webhook(receiver))) for database in databases]
        barrier = threading.Barrier(4)

        def work(number: int) -> None:
            barrier.wait(timeout=30)
            for images in (2, 2):
                spend(databases[number], keys[number], images, alerts[number])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: all(alerted(databases[0], key.name) == 100 for key in keys))
        ids = [message.headers["Webhook-Id"] for message in receiver.messages]
        assert len(ids) == len(set(ids)), "nothing was told twice"
        told = {(message.data["key"], message.data["percent"]) for message in receiver.messages}
        assert {(key.name, 100) for key in keys} <= told


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_server_that_was_killed_while_it_told_lets_another_one(place: LedgerPlace) -> None:
    with place.open(create=True) as database, closing_alone(place):
        spend(database, new_key(database, budget=2), 2)
        with receiving() as receiver, BudgetAlerts(database, webhook(receiver)):
            time.sleep(0.3)
            assert receiver.messages == []
            assert place.postgresql is not None
            place.postgresql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            )
            receiver.wait_for(1)


class closing_alone:  # noqa: N801 - read like a context manager of the library
    """Another server that is alone with the ledger until its connection is cut."""

    def __init__(self, place: LedgerPlace) -> None:
        self._stack = ExitStack()
        self._place = place

    def __enter__(self) -> None:
        database = self._stack.enter_context(self._place.open())
        alone = database.alone()
        assert alone.__enter__()
        self._alone = alone

    def __exit__(self, *_: object) -> None:
        with closing(self._stack), pytest.raises(Exception, match="ledger cannot be used"):
            self._alone.__exit__(None, None, None)


def alerted(database: Database, name: str = "ada") -> int:
    with database.reading() as connection:
        found = connection.exec_driver_sql(f"SELECT alerted_percent FROM keys WHERE name = '{name}'")  # noqa: S608
        percent: int = found.scalar_one()
        return percent
