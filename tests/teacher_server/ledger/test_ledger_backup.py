"""`teacher ledger backup`: under load, whole or not at all; and what a backup put to use says in every chain."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.audit.audit_lines import write_export
from teacher_server.ledger.audit.auditing import audit_ledger
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import Key, grant_images, list_keys
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.backup import back_up
from teacher_server.ledger.lifecycle.opening import open_database
from tests.ledger_places import LedgerPlace, postgresql_place, sqlite_place
from tests.postgresql import PostgreSQL
from tests.teacher_server.ledger.histories import write_history
from tests.teacher_server.ledger.support import charge
from tests.teacher_server.ledger.tampering import execute
from tests.teacher_server.support import history, new_key


@pytest.fixture
def here(tmp_path: Path) -> LedgerPlace:
    (tmp_path / "live").mkdir()
    return sqlite_place(tmp_path / "live")


@contextmanager
def load(database: Database, key: Key) -> Iterator[list[str]]:
    """Four threads that charge as fast as they can; gives what they have charged."""
    charged: list[str] = []
    end = threading.Event()

    def work(name: int) -> None:
        number = 0
        while not end.is_set():
            charge(Ledger(database), key, f"{name}-{number}", 1)
            charged.append(f"{name}-{number}")
            number += 1

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    yield charged
    end.set()
    for thread in threads:
        thread.join()


def receipts_of(database: Database, key_name: str, file: Path) -> Path:
    with file.open("w") as stream:
        write_export(database, key_name, stream)
    lines = file.read_text().splitlines()[1:]
    file.write_text("".join(f"{line}\n" for line in lines if '"kind": "answer"' in line))
    return file


def test_a_backup_under_load_is_sound_and_when_restored_says_so(here: LedgerPlace, tmp_path: Path) -> None:
    with here.open(create=True) as database:
        ada, bob = new_key(database, "ada", budget=10**6), new_key(database, "bob", budget=10)
        charge(Ledger(database), bob, "one", 1)
        database.share_commits()
        with load(database, ada) as charged:
            while len(charged) < 50:
                pass
            before = len(charged)
            written = back_up(database, tmp_path / "copy.db")
            while len(charged) < before + 50:
                pass
        assert audit_ledger(database).is_sound
        receipts = receipts_of(database, "ada", tmp_path / "receipts.jsonl")
    copy = tmp_path / "copy.db"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "live", "receipts.jsonl"]
    events = written.report.walks[0].events
    assert before <= events <= len(charged)

    # Nobody has the signing key where only the copy is: it can be read and verified, not sold from.
    with closing(open_database(f"sqlite:///{copy}", create=False)) as stranger:
        assert audit_ledger(stranger).is_sound
        assert len(history(stranger, ada)) == events
        with pytest.raises(Refusal) as refusal:
            charge(Ledger(stranger), ada, "new", 1)
        assert "Put it back" in str(refusal.value.__cause__)
        assert len(history(stranger, ada)) == events

    # The owner restores it: the first thing written is that it was.
    with closing(open_database(f"sqlite:///{copy}", create=False, signing_key=here.signing_key)) as restored:
        restored.share_commits()
        answered = charge(Ledger(restored), ada, "new", 1)
        said = history(restored, ada)[events:]
        assert [(event.kind, event.detail) for event in said] == [("restore", written.at), ("answer", "")]
        assert answered.event.sequence == events + 2
        assert [event.kind for event in history(restored, bob)] == ["create", "answer", "restore"]
        grant_images(restored, name="bob", images=1)
        assert [event.kind for event in history(restored, bob)][-2:] == ["restore", "grant"], "once"
        assert audit_ledger(restored).is_sound
        # What was charged after the backup is gone here. Whoever holds receipts of it finds the fork.
        faults = audit_ledger(restored, receipts=receipts).faults
        assert (faults[0].key_name, faults[0].sequence) == ("ada", events + 1)
        assert "is not the event that a client holds the receipt of" in faults[0].what
        assert any("its tail was cut off" in fault.what for fault in faults)


def test_a_backup_restored_into_the_file_in_use_says_so_too(here: LedgerPlace, tmp_path: Path) -> None:
    write_history(here)
    with here.open() as database:
        back_up(database, tmp_path / "copy.db")
        ada = list_keys(database)[0]
        charge(Ledger(database), ada, "after the backup", 1)
        with (
            closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
            closing(sqlite3.connect(database_file(here))) as live,
        ):
            copy.backup(live)
        database.note_restore()
        assert [event.kind for event in history(database, ada)][-2:] == ["answer", "restore"]
        database.note_restore()
        assert [event.kind for event in history(database, ada)].count("restore") == 1
        assert audit_ledger(database).is_sound


def database_file(place: LedgerPlace) -> str:
    return place.url.removeprefix("sqlite:///")


def test_what_is_there_is_never_replaced(here: LedgerPlace, tmp_path: Path) -> None:
    write_history(here)
    (tmp_path / "copy.db").write_text("precious")
    (tmp_path / "link.db").symlink_to(tmp_path / "nowhere")
    with here.open() as database:
        for name in ("copy.db", "link.db", "live/ledger.db"):
            with pytest.raises(OperatorError, match=r"is there already"):
                back_up(database, tmp_path / name)
        with pytest.raises(OperatorError, match=r"cannot be written: No such file"):
            back_up(database, tmp_path / "no" / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "precious"


def test_a_ledger_that_is_not_sound_is_not_backed_up(here: LedgerPlace, tmp_path: Path) -> None:
    write_history(here)
    execute(here, "UPDATE keys SET spent = 1 WHERE id = 1")
    with here.open() as database, pytest.raises(OperatorError, match=r"not sound: key ada: the counter says 1 spent"):
        back_up(database, tmp_path / "copy.db")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["live"]


def test_no_room_for_the_copy(here: LedgerPlace, tmp_path: Path) -> None:
    """The copy may not grow beyond 40 KiB: nothing is left of it, and the ledger is as it was."""
    write_history(here)
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40960, 40960)); "
        "from teacher_server.cli import main; sys.argv = ['teacher', *sys.argv[1:]]; main()"
    )
    command = [sys.executable, "-c", program, "ledger", "backup", str(tmp_path / "copy.db"), "--ledger", here.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "cannot be written" in done.stderr, "Traceback" in done.stderr) == (2, True, False), done
    assert sorted(file.name for file in tmp_path.iterdir()) == ["live"]


def test_postgresql_is_told_its_own_way(postgresql: PostgreSQL, tmp_path: Path) -> None:
    place = postgresql_place(tmp_path, postgresql)
    write_history(place)
    with place.open() as database, pytest.raises(OperatorError, match="pg_dump") as refused:
        back_up(database, tmp_path / "copy.db")
    assert str(refused.value).startswith(f"{place.url} is a PostgreSQL ledger"), "as its owner wrote it"


def test_a_ledger_and_what_is_beside_it_and_its_copy_are_their_owners_alone(tmp_path: Path) -> None:
    """It holds hashes of secrets, and what was answered to whom."""
    before = os.umask(0)
    try:
        place = sqlite_place(tmp_path)
        write_history(place)
        with place.open() as database:
            with database.writing() as connection:
                connection.execute(text("UPDATE ledger SET created_at = created_at"))
            back_up(database, tmp_path / "copy.db")
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    finally:
        os.umask(before)
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm", "copy.db"):
        assert modes[name] == 0o600, name


def test_the_command_line(here: LedgerPlace, tmp_path: Path) -> None:
    write_history(here)
    copy = tmp_path / "copy.db"
    command = [str(Path(sys.executable).with_name("teacher")), "ledger", "backup", str(copy)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"TEACHER_LEDGER": here.url},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 keys, 12 events" in done.stdout.replace("\n", "")
    assert str(here.signing_key) in done.stdout.replace("\n", ""), "where the signing key is, which is not copied"
    assert b"PRIVATE" not in copy.read_bytes()
    shutil.copy(copy, tmp_path / "moved.db")  # one file, with nothing beside it
    with closing(open_database(f"sqlite:///{tmp_path}/moved.db", create=False)) as moved:
        assert [key.name for key in list_keys(moved)] == ["ada", "bob"]
