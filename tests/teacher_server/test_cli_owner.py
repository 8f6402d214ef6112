"""The owner's commands on both databases, while a server has the ledger: limits, rotation, policies, usage."""

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from shared.wire.error_codes import ErrorCode
from teacher_server.cli import app
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.authentication import authenticate
from teacher_server.ledger.keys.issuing import find_key, list_keys
from teacher_server.ledger.ledger import Ledger
from tests.ledger_places import LedgerPlace
from tests.teacher_server.clocks import Clock
from tests.teacher_server.ledger.soundness import require_sound
from tests.teacher_server.ledger.support import charge, computed, question
from tests.teacher_server.support import history, new_key

runner = CliRunner()


@pytest.fixture
def database(place: LedgerPlace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """As a server has it open; commands find it in the environment."""
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    with place.open(create=True) as opened:
        opened.share_commits()
        yield opened


def run(*arguments: str) -> str:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def mistake(*arguments: str) -> str:
    result = runner.invoke(app, arguments)
    assert isinstance(result.exception, OperatorError), (result.output, result.exception)
    return str(result.exception)


# --- limits and policies ------------------------------------------------------------------------------------------


def test_a_key_is_made_with_limits_and_shown_with_what_they_leave(database: Database) -> None:
    made = run_json(
        "keys", "create", "--name", "ada", "--budget", "100", "--images-per-day", "50", "--images-per-second", "3"
    )
    assert (made["images_per_day"], made["images_per_second"]) == (50, 3)
    charge(Ledger(database), find_key(database, "ada"), "a", 20)
    shown = run_json("keys", "show", "--name", "ada")
    assert (shown["spent"], shown["remaining_today"], shown["remaining_in_10_seconds"]) == (20, 30, 10)
    assert shown["old_secret_valid_until"] is None
    text = run("keys", "show", "--name", "ada")
    assert re.search(r"^images_per_day +50$", text, re.MULTILINE)
    assert re.search(r"^remaining_today +30$", text, re.MULTILINE)
    table = run("keys", "list")
    assert re.search(r"ada.*100.*20.*80.*50.*3.*active", table)
    assert run_json("keys", "list")["keys"][0]["images_per_day"] == 50
    assert made["key"] not in text + table


def test_policies_are_set_one_by_one(database: Database) -> None:
    run("keys", "create", "--name", "ada", "--budget", "100", "--images-per-day", "50")
    assert "images_per_second 3" in run("keys", "set", "--name", "ada", "--images-per-second", "3")
    report = run_json("keys", "set", "--name", "ada", "--images-per-day", "none", "--disclosure", "top-k:2")
    assert (report["images_per_day"], report["images_per_second"], report["disclosure"]) == (None, 3, "top-k:2")
    assert run_json("keys", "set", "--name", "ada", "--expires", "2999-12-31")["expires"].startswith("3000-01-01")
    assert run_json("keys", "set", "--name", "ada", "--expires", "never")["expires"] is None
    events = history(database, find_key(database, "ada"))
    assert [event.kind for event in events] == ["create", *["policy"] * 4]
    assert [json.loads(event.detail) for event in events[1:3]] == [
        {"images_per_second": {"new": 3, "old": "none"}},
        {"disclosure": {"new": "top-k:2", "old": "probabilities"}, "images_per_day": {"new": "none", "old": 50}},
    ]
    require_sound(database)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("set", "--name", "ada"), "nothing to set"),
        (("set", "--name", "bob", "--images-per-day", "1"), "name is 'bob'"),
        (("set", "--name", "ada", "--images-per-day", "0"), "images_per_day is 0"),
        (("set", "--name", "ada", "--images-per-day", "-1"), "images_per_day is '-1'"),
        (("set", "--name", "ada", "--images-per-day", "1.5"), "images_per_day is '1.5'"),
        (("set", "--name", "ada", "--images-per-second", "many"), "images_per_second is 'many'"),
        (("set", "--name", "ada", "--images-per-second", "٣"), "images_per_second is '٣'"),
        (("set", "--name", "ada", "--images-per-second", "9" * 18), "images_per_second is 9999"),
        (("set", "--name", "ada", "--disclosure", "all"), "disclosure is 'all'"),
        (("set", "--name", "ada", "--expires", "2020-01-01"), "expires is '2020-01-01'"),
        (("show", "--name", "bob"), "name is 'bob'"),
        (("rotate", "--name", "bob"), "name is 'bob'"),
        (("rotate", "--name", "ada", "--overlap", "tomorrow"), "overlap is 'tomorrow'"),
        (("rotate", "--name", "ada", "--overlap", "400d"), "overlap is 400 days"),
        (("rotate", "--name", "ada", "--overlap", "999999999d"), "up to 366d"),
        (("set", "--name", "ada", "--images-per-day", "9" * 20), "allowed are 1 to 9007199254740991 images"),
        (("rotate", "--name", "ada", "--overlap", "-1h"), "overlap is '-1h'"),
        (("create", "--name", "eve", "--budget", "1", "--images-per-day", "0"), "images_per_day is 0"),
    ],
)
def test_mistakes_name_the_field_and_change_nothing(
    database: Database, arguments: tuple[str, ...], named: str
) -> None:
    key = new_key(database)
    assert named in mistake("keys", *arguments)
    assert list_keys(database) == [key]
    assert len(history(database, key)) == 1


def test_a_key_that_went_through_everything_stands_an_audit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    secret = run(
        "keys", "create", "--name", "ada", "--budget", "9", "--images-per-day", "5", "--expires", "2026-11-25"
    ).strip()
    charge(Ledger(database), find_key(database, "ada"), "a", 5)
    with pytest.raises(Refusal):
        charge(Ledger(database), find_key(database, "ada"), "b", 1)
    run("keys", "set", "--name", "ada", "--images-per-second", "3", "--images-per-day", "none")
    run("keys", "rotate", "--name", "ada", "--overlap", "7d")
    clock.forward(days=2)
    with pytest.raises(Refusal):
        authenticate(database, secret)
    run("keys", "set", "--name", "ada", "--expires", "never", "--disclosure", "label")
    run("keys", "grant", "--name", "ada", "3")
    run("keys", "revoke", "--name", "ada")
    kinds = [event.kind for event in history(database, find_key(database, "ada"))]
    assert kinds == [
        "create", "answer", "refuse", "policy", "rotate", "expire", "refuse", "policy", "grant", "revoke",
    ]  # fmt: skip
    result = runner.invoke(app, ["audit", "verify"])
    assert result.exit_code == 0, result.output
    require_sound(database)


# --- rotation -----------------------------------------------------------------------------------------------------


def test_a_rotation_prints_the_new_secret_and_how_long_the_old_one_lasts(database: Database) -> None:
    old = run("keys", "create", "--name", "ada", "--budget", "1").strip()
    result = runner.invoke(app, ["keys", "rotate", "--name", "ada", "--overlap", "30m"])
    new = result.stdout.strip()
    assert re.fullmatch(r"tk-[0-9a-f]{12}-[A-Za-z0-9_-]{43}", new)
    assert authenticate(database, old) == authenticate(database, new)
    until = run_json("keys", "show", "--name", "ada")["old_secret_valid_until"]
    assert until is not None
    assert until in " ".join(result.stderr.split())
    report = run_json("keys", "rotate", "--name", "ada", "--overlap", "0")
    assert report["old_secret_valid_until"] is None
    for secret in (old, new):
        with pytest.raises(Refusal) as refusal:
            authenticate(database, secret)
        assert refusal.value.code is ErrorCode.UNAUTHENTICATED
    assert authenticate(database, report["key"]).name == "ada"


def test_a_day_is_the_overlap_where_none_is_given(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    old = run("keys", "create", "--name", "ada", "--budget", "1").strip()
    run("keys", "rotate", "--name", "ada")
    clock.forward(timedelta(hours=24).total_seconds() - 1)
    assert authenticate(database, old).name == "ada"
    clock.forward(1)
    with pytest.raises(Refusal):
        authenticate(database, old)


# --- usage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sold(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Three days from 2026-11-24, two keys, two teachers; and what is no sale."""
    clock = Clock(monkeypatch)
    ledger = Ledger(database)
    ada, bob = new_key(database, "ada", budget=100), new_key(database, "bob", budget=10)
    for day in range(3):
        for key, teacher, images in (
            (ada, "numbers", 2),
            (ada, "numbers", 3),
            (ada, "letters", 1),
            (bob, "numbers", day),
        ):
            if images:
                about = f"{day}-{key.name}-{teacher}-{images}"
                asked = question(key, about, teacher=teacher)
                ledger.charge(asked, computed(images), request_id="r")
                ledger.charge(asked, computed(images), request_id="again, which is a replay")
        clock.forward(days=1)
    with pytest.raises(Refusal):
        charge(ledger, bob, "too much", 1000)
    return database


def test_usage_is_summed_by_key_and_is_what_the_budget_is_checked_against(sold: Database) -> None:
    report = run_json("usage")
    assert report == {
        "by": ["key"],
        "rows": [{"key": "ada", "requests": 9, "images": 18}, {"key": "bob", "requests": 2, "images": 3}],
        "requests": 11,
        "images": 21,
    }
    assert {key.name: key.spent for key in list_keys(sold)} == {row["key"]: row["images"] for row in report["rows"]}


def test_usage_by_key_teacher_and_day(sold: Database) -> None:
    rows = run_json("usage", "--by", "key,teacher,day")["rows"]
    assert rows[0] == {"key": "ada", "teacher": "letters", "day": "2026-11-24", "requests": 1, "images": 1}
    assert rows[-1] == {"key": "bob", "teacher": "numbers", "day": "2026-11-26", "requests": 1, "images": 2}
    assert len(rows) == 8
    assert run_json("usage", "--by", "day, teacher", "--key", "bob")["rows"] == [
        {"day": "2026-11-25", "teacher": "numbers", "requests": 1, "images": 1},
        {"day": "2026-11-26", "teacher": "numbers", "requests": 1, "images": 2},
    ]


@pytest.mark.parametrize(
    ("period", "images"),
    [
        (("--since", "2026-11-25"), 15),
        (("--until", "2026-11-25"), 13),
        (("--since", "2026-11-25", "--until", "2026-11-25"), 7),
        (("--since", "2026-11-25T12:00:00Z"), 15),
        (("--since", "2026-11-25T12:00:00.000001Z"), 8),
        (("--until", "2026-11-25T13:00:00+01:00"), 6),
        (("--since", "2027-01-01"), 0),
    ],
)
def test_usage_of_a_time(sold: Database, period: tuple[str, ...], images: int) -> None:
    assert run_json("usage", *period)["images"] == images


def test_usage_as_csv_and_as_a_table(sold: Database) -> None:
    rows = list(csv.DictReader(io.StringIO(run("usage", "--by", "teacher", "--csv"))))
    assert rows == [
        {"teacher": "letters", "requests": "3", "images": "3"},
        {"teacher": "numbers", "requests": "8", "images": "18"},
    ]
    table = run("usage", "--by", "teacher")
    assert re.search(r"letters.*3.*3", table)
    assert re.search(r"all.*11.*21", table)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--by", "version"), "by is 'version'"),
        (("--by", ""), "by is ''"),
        (("--by", "key,key"), "by is 'key,key'"),
        (("--key", "nobody"), "name is 'nobody'"),
        (("--since", "yesterday"), "since is 'yesterday'"),
        (("--until", "2026-11-24T00:00:00"), "until is '2026-11-24T00:00:00'"),
        (("--since", "2026-11-25", "--until", "2026-11-24"), "not after since"),
        (("--json", "--csv"), "allowed is one of them"),
    ],
)
def test_mistakes_in_asking_for_usage(database: Database, arguments: tuple[str, ...], named: str) -> None:
    assert named in mistake("usage", *arguments)


def test_usage_of_a_ledger_that_sold_nothing(database: Database) -> None:
    new_key(database)
    assert run_json("usage") == {"by": ["key"], "rows": [], "requests": 0, "images": 0}
    assert run("usage", "--csv") == "key,requests,images\n"
