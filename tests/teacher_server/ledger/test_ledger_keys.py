"""Keys: their secrets, names, budgets and ends."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from shared.wire.contracts import Disclosure
from shared.wire.error_codes import ErrorCode
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.authentication import authenticate
from teacher_server.ledger.keys.issuing import (
    BUDGET_MAX,
    create_key,
    grant_images,
    list_keys,
    parse_expiry,
    revoke_key,
)
from teacher_server.ledger.tables import keys
from tests.teacher_server.ledger.soundness import require_sound
from tests.teacher_server.ledger.support import SQLITE_ONLY, open_ledger
from tests.teacher_server.support import PROBABILITIES, file_of, history, new_key


def refused(database: Database, secret: str) -> str:
    with pytest.raises(Refusal) as refusal:
        authenticate(database, secret)
    assert refusal.value.code is ErrorCode.UNAUTHENTICATED
    return refusal.value.detail


@SQLITE_ONLY
def test_the_secret_opens_the_key_and_is_in_no_file(database: Database, ledger_url: str) -> None:
    key, secret = create_key(database, name="ada", budget=7, disclosure=Disclosure("top-k", 2), expires_at=None)
    assert authenticate(database, secret) == key
    assert (key.granted, key.spent, key.usage.remaining, key.status) == (7, 0, 7, "active")
    assert str(key.disclosure) == "top-k:2"
    _, lookup, rest = secret.split("-", 2)
    assert len(rest) == 43
    files = [file for file in file_of(ledger_url).parent.iterdir() if file.is_file()]
    assert {file.name for file in files} >= {"ledger.db", "ledger.db-wal"}
    content = b"".join(file.read_bytes() for file in files)
    assert lookup.encode() in content
    assert rest.encode() not in content


def test_secrets_are_never_alike(database: Database) -> None:
    secrets = {
        create_key(database, name=f"k{i}", budget=1, disclosure=PROBABILITIES, expires_at=None)[1] for i in "abc"
    }
    assert len(secrets) == 3
    assert all(re.fullmatch(r"tk-[0-9a-f]{12}-[A-Za-z0-9_-]{43}", secret) for secret in secrets)


@pytest.mark.parametrize(
    "wrong",
    ["", " ", "tk", "tk--", "tk-000000000000-" + "A" * 43, "ключ", "\udcff\udcfe", "x" * 100_000, "tk-' OR 1=1 --"],
    ids=["empty", "space", "short", "dashes", "unknown", "cyrillic", "surrogates", "long", "sql"],
)
def test_other_secrets_are_refused_alike(database: Database, wrong: str) -> None:
    new_key(database)
    assert refused(database, wrong) == refused(database, "tk-0123456789ab-" + "B" * 43)


def test_every_character_of_a_secret_counts(database: Database) -> None:
    _, secret = create_key(database, name="ada", budget=7, disclosure=PROBABILITIES, expires_at=None)
    for index in range(len(secret)):
        for other in ("0", "Z"):
            if secret[index] != other:
                refused(database, secret[:index] + other + secret[index + 1 :])
    for near in (secret[:-1], secret + "A", secret + "\n", " " + secret, secret.upper()):
        refused(database, near)


def test_a_revoked_key_is_refused_and_says_so(database: Database) -> None:
    key, secret = create_key(database, name="ada", budget=7, disclosure=PROBABILITIES, expires_at=None)
    revoked = revoke_key(database, name="ada")
    assert revoked.status == "revoked"
    assert "revoked" in refused(database, secret)
    assert revoke_key(database, name="ada") == revoked, "revoking twice changes nothing"
    assert "revoked" in refused(database, secret)
    events = history(database, key)
    assert [event.kind for event in events] == ["create", "revoke", "refuse"], "told once, however often it is tried"
    assert (events[-1].detail, events[-1].images) == ("unauthenticated", 0)
    with pytest.raises(OperatorError, match="revoked"):
        grant_images(database, name="ada", images=1)
    with pytest.raises(OperatorError, match="never reused"):
        new_key(database, "ada")
    require_sound(database)


def test_an_expired_key_is_refused_and_says_so(database: Database) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="microseconds")
    _, secret = create_key(database, name="ada", budget=7, disclosure=PROBABILITIES, expires_at=soon)
    assert authenticate(database, secret).status == "active"
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="microseconds")
    with database.writing() as connection:
        connection.execute(update(keys).values(expires_at=past))
    assert "expired" in refused(database, secret)
    assert list_keys(database)[0].status == "expired"


@pytest.mark.parametrize("name", ["a", "9", "Ada.Lovelace_1@example-x", "a" * 64])
def test_names_that_are_allowed(database: Database, name: str) -> None:
    assert new_key(database, name).name == name


@pytest.mark.parametrize("name", ["", " ", "-a", ".a", "a b", "a\n", "é", "a" * 65, "a/b", "\udcff", "a\x00"])
def test_names_that_are_not(database: Database, name: str) -> None:
    with pytest.raises(OperatorError) as error:
        new_key(database, name)
    assert repr(name) in str(error.value)
    assert "letters" in str(error.value)
    assert list_keys(database) == []


@pytest.mark.parametrize("name", ["nobody", "", "\udcff", "a' OR '1'='1"])
def test_unknown_names_cannot_be_granted_or_revoked(database: Database, name: str) -> None:
    new_key(database)
    with pytest.raises(OperatorError, match="no such key"):
        grant_images(database, name=name, images=1)
    with pytest.raises(OperatorError, match="no such key"):
        revoke_key(database, name=name)


def test_budgets_have_bounds(database: Database) -> None:
    for budget in (-1, BUDGET_MAX + 1, 10**30):
        with pytest.raises(OperatorError, match=re.escape(str(budget))):
            new_key(database, budget=budget)
    assert new_key(database, "none", budget=0).granted == 0
    assert new_key(database, "most", budget=BUDGET_MAX).granted == BUDGET_MAX
    for images in (-1, 0, 1, 10**30):
        with pytest.raises(OperatorError, match="images is"):
            grant_images(database, name="most", images=images)
    assert grant_images(database, name="none", images=BUDGET_MAX).granted == BUDGET_MAX
    require_sound(database)


def test_keys_are_listed_oldest_first_with_their_own_numbers(database: Database) -> None:
    made = [new_key(database, name, budget=budget) for name, budget in (("zoe", 1), ("ada", 2), ("bob", 3))]
    assert list_keys(database) == made


def test_the_stored_hash_is_that_of_the_whole_secret(database: Database) -> None:
    first, secret = create_key(database, name="ada", budget=1, disclosure=PROBABILITIES, expires_at=None)
    second, other = create_key(database, name="bob", budget=1, disclosure=PROBABILITIES, expires_at=None)
    with database.reading() as connection:
        rows = connection.execute(select(keys.c.lookup, keys.c.secret_sha256)).all()
    assert [row.lookup for row in rows] == [secret.split("-")[1], other.split("-")[1]]
    # one key's public part with another's private part opens neither
    refused(database, f"{secret[:15]}-{other[16:]}")
    assert authenticate(database, secret) == first
    assert authenticate(database, other) == second


def test_a_day_lasts_to_its_end() -> None:
    assert parse_expiry("2999-12-31") == "3000-01-01T00:00:00.000000+00:00"


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("2999-12-31T12:00:00+00:00", "2999-12-31T12:00:00.000000+00:00"),
        ("2999-12-31T12:00:00Z", "2999-12-31T12:00:00.000000+00:00"),
        ("2999-12-31T23:30:00-01:00", "3000-01-01T00:30:00.000000+00:00"),
        ("2999-12-31T12:00:00.25+02:00", "2999-12-31T10:00:00.250000+00:00"),
    ],
)
def test_times_are_stored_in_utc(text: str, stored: str) -> None:
    assert parse_expiry(text) == stored


@pytest.mark.parametrize(
    "text",
    ["tomorrow", "2999-13-01", "2999-12-31T12:00:00", "2020-01-01", "2020-01-01T00:00:00Z", "", "9999-12-31",
     "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "2999-12-31\n", "३०००-०१-०१"],
)  # fmt: skip
def test_times_that_are_not_allowed(text: str) -> None:
    with pytest.raises(OperatorError, match="expires is"):
        parse_expiry(text)


def test_yesterday_is_over_and_today_is_not() -> None:
    today = datetime.now(UTC).date()
    assert parse_expiry((today + timedelta(days=1)).isoformat()) > datetime.now(UTC).isoformat()
    with pytest.raises(OperatorError, match="past"):
        parse_expiry((today - timedelta(days=1)).isoformat())


@SQLITE_ONLY
def test_a_key_outlives_the_process(database: Database, ledger_url: str, tmp_path: Path) -> None:
    key, secret = create_key(database, name="ada", budget=7, disclosure=PROBABILITIES, expires_at=None)
    database.close()
    copy = tmp_path / "copy.db"
    copy.write_bytes(file_of(ledger_url).read_bytes())  # closed: all of it is in the one file
    reopened = open_ledger(f"sqlite:///{copy}")
    assert authenticate(reopened, secret) == key
    reopened.close()
