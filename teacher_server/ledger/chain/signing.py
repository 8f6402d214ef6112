"""The ledger's signing key: a private key in a file of its own, its public half in the ledger.

A rotation writes the new key beside the old one, commits, and then puts it in the old one's place; a crash in between
leaves both, and whoever needs the current key finds it by its fingerprint.
"""

import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from sqlalchemy import Connection, func, insert, select, text, update

from shared.wire.contracts import Event, SigningKey
from shared.wire.signatures import endorse, fingerprint, sign_event
from teacher_server.ledger.clock import now
from teacher_server.ledger.tables import events, ledger, signing_keys


class SigningKeyUnusable(OSError):
    """The private key that the ledger signs with is not where it should be."""


class Signer:
    """Signs events with the ledger's current key, read from its file when first needed and after each rotation."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._keys: dict[str, Ed25519PrivateKey] = {}
        self._lock = threading.Lock()

    @property
    def file(self) -> Path:
        """Where the private key is. Raises SigningKeyUnusable when nobody said."""
        if self._file is None:
            raise SigningKeyUnusable(
                "a PostgreSQL ledger needs a file for its signing key; give --signing-key FILE or set "
                "TEACHER_SIGNING_KEY, the same key on every machine that serves this ledger"
            )
        return self._file

    def sign(self, event: Event, current: str) -> str:
        """The signature over ``event`` by the key with fingerprint ``current``. Raises SigningKeyUnusable."""
        return sign_event(self.private_key(current), event)

    def private_key(self, current: str) -> Ed25519PrivateKey:
        """The private key with that fingerprint. Raises SigningKeyUnusable."""
        if key := self._keys.get(current):
            return key
        with self._lock:
            found = self._find(current)
            self._keys = {current: found}
        return found

    def _find(self, current: str) -> Ed25519PrivateKey:
        waiting = next_key_file(self.file)
        for file in (self.file, waiting, self.file):  # again, as somebody may move it into place at this moment
            if file.exists():
                key = read_private_key(file)
                if fingerprint(key.public_key()) == current:
                    if file == waiting:  # the rotation that wrote it has not moved it yet, or was killed before
                        with suppress(FileNotFoundError):
                            os.replace(waiting, self.file)
                    return key
        kept = retired_key_file(self.file, current)
        raise SigningKeyUnusable(
            f"signing key {self.file} is {'another one' if self.file.exists() else 'not there'}; the ledger signs "
            f"with the key whose fingerprint is {current}. Put it back from "
            f"{kept if kept.exists() else 'where you keep it'}"
        )


def next_key_file(file: Path) -> Path:
    """Where a rotation writes the key that follows the one in ``file``."""
    return file.with_name(f"{file.name}.next")


def retired_key_file(file: Path, retired: str) -> Path:
    """Where a rotation leaves the key with the fingerprint ``retired`` that was in ``file``."""
    return file.with_name(f"{file.name}.retired-{retired[:16]}")


def keep_private_key(file: Path, current: str) -> None:
    """Copy the key in ``file`` to where it stays when the next one takes its place. Raises OSError.

    A backup from before the rotation is signed with it: without it nobody could put that backup to use again.
    """
    kept = retired_key_file(file, current)
    with suppress(FileExistsError):  # of a rotation that was killed before its commit
        _write_new(kept, file.read_bytes())
    if fingerprint(read_private_key(kept).public_key()) != current:
        raise SigningKeyUnusable(f"{kept} holds another key than its name says; move it away")


def create_private_key(file: Path) -> Ed25519PrivateKey:
    """Make a private key in ``file``, readable by its owner alone from the first byte on; durable when this returns.

    Raises FileExistsError when there is one already.
    """
    key = Ed25519PrivateKey.generate()
    _write_new(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def _write_new(file: Path, pem: bytes) -> None:
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(pem)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(draft, file)  # whole or not at all, and never over another key
    finally:
        draft.unlink()
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_private_key(file: Path) -> Ed25519PrivateKey:
    """Read a PEM file. Raises SigningKeyUnusable, also when others than its owner may read it."""
    try:
        if file.stat().st_mode & 0o077:
            raise SigningKeyUnusable(f"signing key {file} can be read by others; run: chmod 600 {file}")
        key = load_pem_private_key(file.read_bytes(), password=None)
    except SigningKeyUnusable:
        raise
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyUnusable(f"signing key {file} cannot be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyUnusable(f"signing key {file} is no Ed25519 key")
    return key


def current_fingerprint(connection: Connection) -> str | None:
    """The key that events are signed with now; None in a ledger that has none yet."""
    return connection.execute(select(signing_keys.c.fingerprint).where(signing_keys.c.retired_at.is_(None))).scalar()


def ensure_signing_key(connection: Connection, signer: Signer) -> str:
    """Register the key in the signer's file, made when it is not there, as the ledger's first key.

    Returns the current key's fingerprint, also when there was one already.
    Inside a writer's transaction. Raises SigningKeyUnusable.
    """
    if current := current_fingerprint(connection):
        return current
    file = signer.file
    try:
        key = create_private_key(file)
    except FileExistsError:
        key = read_private_key(file)
    except OSError as error:
        raise SigningKeyUnusable(f"signing key {file} cannot be written: {error.strerror}") from error
    found = fingerprint(key.public_key())
    row = _row(key, since=_after_all_events(connection)) | {"endorsed_by": "", "endorsement": ""}
    connection.execute(insert(signing_keys).values(row))
    return found


def replace_signing_key(connection: Connection, signer: Signer) -> SigningKey:
    """Retire the current key and register the one in ``next_key_file``, endorsed by it.

    Inside a writer's transaction, after which the caller moves the file into place. Raises SigningKeyUnusable.
    """
    current = current_fingerprint(connection)
    if current is None:
        raise SigningKeyUnusable("the ledger has no signing key yet; run `teacher ledger init`")
    old, new = signer.private_key(current), read_private_key(next_key_file(signer.file))
    if connection.dialect.name == "postgresql":
        # Waits for charges under way and keeps new ones waiting: none is signed by a key that is retired by then.
        connection.execute(text("LOCK TABLE keys IN EXCLUSIVE MODE"))
    moment = _after_all_events(connection)
    connection.execute(update(signing_keys).where(signing_keys.c.fingerprint == current).values(retired_at=moment))
    row = _row(new, since=moment) | {"endorsed_by": current, "endorsement": endorse(old, new.public_key())}
    connection.execute(insert(signing_keys).values(row))
    return SigningKey.model_validate(row)


def ledger_name(connection: Connection) -> str:
    """The ledger's random name."""
    return str(connection.execute(select(ledger.c.name)).scalar_one())


def list_signing_keys(connection: Connection) -> list[SigningKey]:
    """Every key that the ledger ever signed with, oldest first."""
    rows = connection.execute(select(signing_keys).order_by(signing_keys.c.created_at)).mappings()
    return [SigningKey.model_validate(dict(row)) for row in rows]


def _after_all_events(connection: Connection) -> str:
    """Now; or the last event's time where the clock was set back: no event is later than its key's retirement."""
    return max(now(), connection.execute(select(func.max(events.c.at))).scalar() or "")


def _row(key: Ed25519PrivateKey, *, since: str) -> dict[str, str | None]:
    public = key.public_key()
    return {
        "fingerprint": fingerprint(public),
        "public_key": public.public_bytes_raw().hex(),
        "created_at": since,
        "retired_at": None,
    }
