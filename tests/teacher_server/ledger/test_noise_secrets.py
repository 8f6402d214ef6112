"""What noise is drawn from: made once for a version, found by every server of the ledger, shown to nobody."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from shared.wire.disclosure import Disclosure
from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal
from teacher_server.ledger.audit.audit_lines import write_export
from teacher_server.ledger.audit.auditing import audit_ledger
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import create_key, find_key
from teacher_server.ledger.keys.policies import change_policy
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.backup import back_up
from teacher_server.ledger.lifecycle.opening import migrate
from teacher_server.ledger.noise_secrets import find_noise_secret, noise_secret
from teacher_server.ledger.tables import noise_secrets
from tests.ledger_places import LedgerPlace, sqlite_place
from tests.teacher_server.ledger.golden_history import GOLDEN
from tests.teacher_server.ledger.support import SQLITE_ONLY, charge, open_ledger
from tests.teacher_server.ledger.tampering import execute
from tests.teacher_server.support import new_key

LONGEST = Disclosure("top-k", 99_999, temperature=99.99, noise=0.05, decimals=6)


def test_each_version_of_each_teacher_has_a_secret_of_its_own(database: Database, ledger_url: str) -> None:
    assert find_noise_secret(database, "numbers", "1") is None
    made = {(name, version): noise_secret(database, name, version) for name in ("a", "b") for version in ("1", "2")}
    assert {len(secret) for secret in made.values()} == {32}
    assert len(set(made.values())) == 4
    with closing(open_ledger(ledger_url)) as another:
        for place, secret in made.items():
            assert noise_secret(another, *place) == find_noise_secret(another, *place) == secret
    assert find_noise_secret(database, "a", "3") is None, "looking makes none"


def test_all_who_need_it_first_get_the_same_one(place: LedgerPlace) -> None:
    with place.open(create=True):
        pass
    with ThreadPoolExecutor(6) as pool:
        for turn in range(5):
            barrier = threading.Barrier(6)

            def ask(number: int, turn: int = turn, barrier: threading.Barrier = barrier) -> bytes:
                with place.open() as database:
                    if number % 2:
                        database.share_commits()
                    barrier.wait(timeout=30)
                    return noise_secret(database, "numbers", str(turn))

            assert len(set(pool.map(ask, range(6)))) == 1


def test_two_ledgers_share_none(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with sqlite_place(tmp_path / name).open(create=True) as database:
            found.append(noise_secret(database, "numbers", "1"))
    assert found[0] != found[1]


@SQLITE_ONLY
def test_a_backup_has_it_and_an_export_has_not(database: Database, tmp_path: Path) -> None:
    key = new_key(database)
    charge(Ledger(database), key, "a", 3)
    secret = noise_secret(database, "numbers", "1")
    back_up(database, tmp_path / "copy.db")
    with closing(open_ledger(f"sqlite:///{tmp_path / 'copy.db'}")) as copy:
        assert find_noise_secret(copy, "numbers", "1") == secret
    exported = io.StringIO()
    write_export(database, "ada", exported)
    report = audit_ledger(database)
    assert report.faults == []
    for shown in (exported.getvalue(), repr(report)):
        assert secret.hex() not in shown
        assert repr(secret) not in shown


@pytest.mark.parametrize("cell", ["'text'", "x'00'", "7"])
def test_what_is_no_secret_is_not_drawn_from(tmp_path: Path, cell: str) -> None:
    place = sqlite_place(tmp_path)
    with place.open(create=True) as database:
        noise_secret(database, "numbers", "1")
        execute(place, f"UPDATE noise_secrets SET secret = {cell}")  # noqa: S608 - one of the three above
        for ask in (noise_secret, find_noise_secret):
            with pytest.raises(Refusal) as refusal:
                ask(database, "numbers", "1")
            assert refusal.value.code is ErrorCode.LEDGER_INCONSISTENT
            assert "version '1'" in refusal.value.detail
        assert len(noise_secret(database, "numbers", "2")) == 32, "other versions go on"


def test_an_older_ledger_gets_the_table_and_keeps_its_events(tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    execute(place, *[line for line in (GOLDEN / "ledger-0001.sql").read_text().split(";\n") if line.strip()])
    before = execute(place, "SELECT hash, disclosure FROM events ORDER BY id")
    assert migrate(place.url) == "0003"
    with place.open() as database:
        assert audit_ledger(database).faults == []
        noise_secret(database, "numbers", "1")
        with database.reading() as connection:
            assert len(connection.execute(select(noise_secrets)).all()) == 1
    assert execute(place, "SELECT hash, disclosure FROM events ORDER BY id") == before


def test_a_ledger_of_before_is_migrated_with_its_keys(place: LedgerPlace) -> None:
    """The second storey's schema, made here as that version left it, on both databases."""
    with place.open(create=True) as database:
        key = new_key(database)
        charge(Ledger(database), key, "a", 3)
        before = audit_ledger(database)
    shrink = [f"ALTER TABLE {table} ALTER COLUMN disclosure TYPE VARCHAR(32)" for table in ("keys", "events")]
    back = ["DROP TABLE noise_secrets", "UPDATE alembic_version SET version_num = '0002' RETURNING 1"]
    execute(place, *(shrink if place.postgresql else []), *back)
    assert migrate(place.url, signing_key=place.signing_key) == "0003"
    with place.open() as database:
        assert (audit_ledger(database).faults, before.faults) == ([], [])
        change_policy(database, name="ada", changes={"disclosure": str(LONGEST)})
        assert charge(Ledger(database), find_key(database, "ada"), "b", 2).event.disclosure == str(LONGEST)
        assert len(noise_secret(database, "numbers", "1")) == 32


def test_the_longest_policy_fits_a_key_and_its_events(database: Database) -> None:
    key, _ = create_key(database, name="eve", budget=5, disclosure=LONGEST, expires_at=None)
    assert key.disclosure == LONGEST
    assert charge(Ledger(database), key, "a", 2).event.disclosure == str(LONGEST)
    assert audit_ledger(database).faults == []
