"""The signing key: a file that only its owner reads, lost and found again, exchanged while everybody charges."""

import os
import signal
import sys
from pathlib import Path
from typing import IO, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shared.wire.error_codes import ErrorCode
from shared.wire.signatures import fingerprint
from teacher_server.cli import main
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.audit.auditing import audit_ledger
from teacher_server.ledger.chain.signing import (
    create_private_key,
    next_key_file,
    read_private_key,
    retired_key_file,
)
from teacher_server.ledger.keys.issuing import list_keys
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.backup import back_up
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.ledger.lifecycle.rotation import rotate_signing_key
from tests.ledger_places import LedgerPlace, postgresql_place, sqlite_place
from tests.postgresql import PostgreSQL
from tests.reliability.processes import ForkServer
from tests.teacher_server.ledger.support import charge
from tests.teacher_server.support import history, new_key

ROTATE = (
    "from teacher_server.cli import main; import sys; sys.argv = ['teacher', 'ledger', 'rotate-signing-key']; main()"
)
PYTHON = ForkServer("tests.reliability.python_program:main")


def test_only_its_owner_reads_it_from_the_first_byte_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = os.fdopen

    def watched(descriptor: int, *arguments: Any) -> IO[Any]:
        status = os.fstat(descriptor)
        seen.append((status.st_size, status.st_mode & 0o777))
        stream: IO[Any] = real(descriptor, *arguments)
        return stream

    monkeypatch.setattr(os, "fdopen", watched)
    before = os.umask(0)
    try:
        create_private_key(tmp_path / "key.pem")
        with sqlite_place(tmp_path).open(create=True):
            pass
    finally:
        os.umask(before)
    assert seen == [(0, 0o600), (0, 0o600)]
    for file in (tmp_path / "key.pem", tmp_path / "ledger.db.signing-key.pem"):
        assert file.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".*"))


def test_a_key_is_never_made_over_another(tmp_path: Path) -> None:
    first = create_private_key(tmp_path / "key.pem")
    with pytest.raises(FileExistsError):
        create_private_key(tmp_path / "key.pem")
    assert fingerprint(read_private_key(tmp_path / "key.pem").public_key()) == fingerprint(first.public_key())
    assert [file.name for file in tmp_path.iterdir()] == ["key.pem"]


def other_curve() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def foreign(folder: Path) -> bytes:
    create_private_key(folder / "foreign.pem")
    return (folder / "foreign.pem").read_bytes()


@pytest.mark.parametrize("fault", ["missing", "open to others", "of somebody else", "no key", "of another kind"])
def test_without_its_key_nothing_is_charged_and_with_it_all_goes_on(
    place: LedgerPlace, tmp_path: Path, fault: str
) -> None:
    with place.open(create=True) as database:
        key = new_key(database)
    good = place.signing_key.read_bytes()
    words = "Put it back from where you keep it"
    if fault == "missing":
        place.signing_key.unlink()
    elif fault == "open to others":
        place.signing_key.chmod(0o640)
        words = "chmod 600"
    elif fault == "of somebody else":
        place.signing_key.write_bytes(foreign(tmp_path))
    elif fault == "no key":
        place.signing_key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
        words = "cannot be read"
    else:
        place.signing_key.write_bytes(other_curve())
        words = "is no Ed25519 key"
    with place.open() as database:
        database.share_commits()
        with pytest.raises(Refusal) as refusal:
            charge(Ledger(database), key, "a", 1)
        assert refusal.value.code is ErrorCode.LEDGER_UNAVAILABLE
        assert refusal.value.members["charged"] == "no"
        assert words in str(refusal.value.__cause__)
        assert list_keys(database)[0].spent == 0
        assert audit_ledger(database).is_sound, "which needs no private key"
        with pytest.raises(OperatorError, match=words):
            rotate_signing_key(database)
        place.signing_key.write_bytes(good)
        place.signing_key.chmod(0o600)
        assert charge(Ledger(database), key, "a", 1).event.spent == 1
        assert audit_ledger(database).is_sound


def test_a_key_file_without_a_place_is_asked_for(postgresql: PostgreSQL, tmp_path: Path) -> None:
    place = postgresql_place(tmp_path, postgresql)
    with pytest.raises(OperatorError, match=r"--signing-key FILE or set TEACHER_SIGNING_KEY"):
        open_database(place.url, create=True)


def test_a_rotation_is_seen_by_whoever_has_the_ledger_open(place: LedgerPlace) -> None:
    with place.open(create=True) as server, place.open() as owner:
        key = new_key(server)
        server.share_commits()
        ledger = Ledger(server)
        signers = [charge(ledger, key, "0", 1).signed.signing_key]
        for number in (1, 2):
            new = rotate_signing_key(owner)
            assert new.endorsed_by == signers[-1]
            signers.append(charge(ledger, key, str(number), 1).signed.signing_key)
            assert signers[-1] == new.fingerprint
        assert len(set(signers)) == 3
        assert [known.fingerprint for known in ledger.signing_keys().keys] == signers
        assert fingerprint(read_private_key(place.signing_key).public_key()) == signers[-1]
        assert place.signing_key.stat().st_mode & 0o777 == 0o600
        assert not next_key_file(place.signing_key).exists()
        assert audit_ledger(owner, pin=signers[0]).is_sound


def test_a_backup_from_before_a_rotation_is_put_to_use_with_the_key_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, copy = sqlite_place(tmp_path), tmp_path / "copy.db"
    with place.open(create=True) as database:
        key = new_key(database)
        old = charge(Ledger(database), key, "0", 1).signed.signing_key
        back_up(database, copy)
    monkeypatch.setattr(sys, "argv", ["teacher", "ledger", "rotate-signing-key", "--ledger", place.url])
    with pytest.raises(SystemExit):
        main()
    kept = retired_key_file(place.signing_key, old)
    assert f"Backups from before need the old private key, which is in {kept}: " in capsys.readouterr().out
    assert kept.stat().st_mode & 0o777 == 0o600
    assert fingerprint(read_private_key(kept).public_key()) == old

    file = Path(place.url.removeprefix("sqlite:///"))
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    copy.replace(file)
    with place.open() as database:
        with pytest.raises(Refusal) as refusal:
            charge(Ledger(database), key, "1", 1)
        assert f"Put it back from {kept}" in str(refusal.value.__cause__)
        kept.replace(place.signing_key)
        assert charge(Ledger(database), key, "1", 1).signed.signing_key == old
        assert audit_ledger(database).faults == []


KILLED_AT = {
    "before the new key": "import teacher_server.ledger.lifecycle.rotation as r; r.create_private_key = die",
    "before the commit": "import teacher_server.ledger.lifecycle.rotation as r; r.replace_signing_key = die",
    "in the commit": "from teacher_server.ledger.databases.database import Database as d; d._commit = die",
    "after the commit": "import teacher_server.ledger.chain.signing as s; s.os.replace = die",
}


@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_rotation_killed_at_any_moment_leaves_the_old_key_or_the_new_one(place: LedgerPlace, moment: str) -> None:
    with place.open(create=True) as database:
        key = new_key(database)
        before = charge(Ledger(database), key, "before", 1).signed.signing_key
    program = f"import os, signal\ndef die(*_): os.kill(os.getpid(), signal.SIGKILL)\n{KILLED_AT[moment]}\n{ROTATE}"
    done = PYTHON.run("python", program, env=place.env)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with place.open() as database:
        used = charge(Ledger(database), key, "after", 1).signed.signing_key
        assert (used != before) is (moment == "after the commit")
        again = rotate_signing_key(database)
        assert again.endorsed_by == used
        assert charge(Ledger(database), key, "then", 1).signed.signing_key == again.fingerprint
        assert not next_key_file(place.signing_key).exists()
        assert audit_ledger(database).faults == []


def test_several_rotations_at_once_and_charges_meanwhile(place: LedgerPlace, tmp_path: Path) -> None:
    with place.open(create=True) as database:
        key = new_key(database, budget=10_000)
        database.share_commits()
        logs = [tmp_path / f"rotation-{number}" for number in range(3)]
        rotations = [PYTHON.start("python", ROTATE, log=log, env=place.env) for log in logs]
        count = 0
        while any(rotation.poll() is None for rotation in rotations):
            charge(Ledger(database), key, str(count), 1)
            count += 1
        told = [log.read_text() for log in logs]
        assert [rotation.wait() for rotation in rotations] == [0, 0, 0], told
        assert len(Ledger(database).signing_keys().keys) == 4
        charge(Ledger(database), key, "last", 1)
        assert audit_ledger(database).faults == []
        assert len(history(database, key)) == count + 2


def test_a_clock_set_back_does_not_retire_a_key_before_its_last_event(
    place: LedgerPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.open(create=True) as database:
        key = new_key(database)
        charge(Ledger(database), key, "0", 1)
        monkeypatch.setattr("teacher_server.ledger.chain.signing.now", lambda: "2020-01-01T00:00:00.000000+00:00")
        rotate_signing_key(database)
        charge(Ledger(database), key, "1", 1)
        assert audit_ledger(database).faults == []
        first, second = Ledger(database).signing_keys().keys
        assert first.retired_at == second.created_at == history(database, key)[1].at
