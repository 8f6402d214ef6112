"""Changing the key that a ledger signs with."""

from filelock import FileLock, Timeout

from shared.wire.contracts import SigningKey
from teacher_server.errors import OperatorError
from teacher_server.ledger.chain.signing import (
    SigningKeyUnusable,
    create_private_key,
    current_fingerprint,
    keep_private_key,
    next_key_file,
    replace_signing_key,
)
from teacher_server.ledger.databases.database import Database

_PATIENCE_S = 30


def rotate_signing_key(database: Database) -> SigningKey:
    """Make a new key, have the old one endorse it, and sign with it from now on; returns the new public key.

    The old private key stays beside it, see ``retired_key_file``: a backup from before cannot be used without it.
    A running server reads the new file with its next charge. A crash at any moment leaves the old key in use, or the
    new one. Raises OperatorError, and Refusal(ledger_unavailable) when the ledger cannot be written.
    """
    signer = database.signer
    try:
        with FileLock(f"{signer.file}.lock", timeout=_PATIENCE_S):
            with database.reading() as connection:
                current = current_fingerprint(connection)
            if current is not None:
                signer.private_key(current)  # also ends a rotation that was killed after its commit
                keep_private_key(signer.file, current)
            waiting = next_key_file(signer.file)
            waiting.unlink(missing_ok=True)  # of one that was killed before its commit
            create_private_key(waiting)
            with database.migrating() as connection:
                new = replace_signing_key(connection, signer)
            signer.private_key(new.fingerprint)  # moves the file into place, unless a server has done that already
    except SigningKeyUnusable as error:
        raise OperatorError(str(error)) from error
    except Timeout as error:
        raise OperatorError("another rotation of this signing key is under way; see what it did") from error
    except OSError as error:
        raise OperatorError(f"signing key {signer.file} cannot be written: {error.strerror}") from error
    return new
