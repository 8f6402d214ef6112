"""`teacher ledger`: make a ledger and look after it."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from shared.counting import counted
from teacher_server.cli.options import AsJson, Ledger, SigningKeyFile
from teacher_server.cli.reporting import print_report
from teacher_server.ledger.chain.signing import current_fingerprint, retired_key_file
from teacher_server.ledger.databases.address import parse_ledger_url
from teacher_server.ledger.lifecycle.backup import back_up
from teacher_server.ledger.lifecycle.opening import migrate, open_database
from teacher_server.ledger.lifecycle.rotation import rotate_signing_key

app = typer.Typer(help="Make a ledger and look after it.", no_args_is_help=True)


@app.command("init")
def init_ledger(ledger: Ledger, signing_key: SigningKeyFile = None, as_json: AsJson = False) -> None:
    """Make a ledger and its signing key, a file that only you can read; harmless on one that is there.

    Keep a copy of the signing key apart from the ledger: without it nothing can be charged, and whoever has both can
    rewrite what no client holds a receipt for.
    """
    opening = open_database(ledger, create=True, signing_key=signing_key)
    with closing(opening) as database, database.reading() as connection:
        fingerprint = current_fingerprint(connection)
    shown = database.address.shown
    report = {"ledger": shown, "signing_key": fingerprint, "signing_key_file": str(database.signer.file)}
    text = f"{shown}: signs with {fingerprint}, whose private key is in {database.signer.file}"
    print_report(report, text, as_json=as_json)


@app.command("migrate")
def migrate_ledger(ledger: Ledger, signing_key: SigningKeyFile = None, as_json: AsJson = False) -> None:
    """Bring a ledger's schema to this program's version, and give it a signing key if it has none."""
    revision = migrate(ledger, signing_key=signing_key)
    shown = parse_ledger_url(ledger).shown
    print_report({"ledger": shown, "schema": revision}, f"{shown}: schema {revision}", as_json=as_json)


@app.command("backup")
def backup(
    ledger: Ledger,
    file: Annotated[Path, typer.Argument(help="the file to write; it must not be there")],
    as_json: AsJson = False,
) -> None:
    """Copy a SQLite ledger while it is in use: as it was at one moment, verified, whole or not at all.

    The signing key is not in the copy; keep one of it elsewhere. Who puts the copy to use leaves a restore event in
    every key's chain. PostgreSQL ledgers are copied by pg_dump.
    """
    with closing(open_database(ledger, create=False)) as database:
        written = back_up(database, file)
    events = sum(walk.events for walk in written.report.walks)
    report = {
        "file": str(written.file),
        "at": written.at,
        "keys": len(written.report.walks),
        "events": events,
        "signing_key_file": str(database.signer.file),
    }
    held = f"{counted(len(written.report.walks), 'key')}, {counted(events, 'event')}"
    text = f"{file}: {held}, as of {written.at}; sound. Not in it: the signing key, {database.signer.file}"
    print_report(report, text, as_json=as_json)


@app.command("rotate-signing-key")
def rotate(ledger: Ledger, signing_key: SigningKeyFile = None, as_json: AsJson = False) -> None:
    """Sign with a new key from now on, which the old one endorses; works while the server runs.

    A backup from before signs with the old private key, which therefore stays in a file beside the new one.
    With PostgreSQL, copy the new file to every machine that serves the ledger: until then those answer 503.
    """
    with closing(open_database(ledger, create=False, signing_key=signing_key)) as database:
        new = rotate_signing_key(database)
    kept = retired_key_file(database.signer.file, new.endorsed_by)
    report = {
        "signing_key": new.fingerprint,
        "endorsed_by": new.endorsed_by,
        "file": str(database.signer.file),
        "old_file": str(kept),
    }
    text = (
        f"signs with {new.fingerprint}, endorsed by {new.endorsed_by}. Backups from before need the old private key, "
        f"which is in {kept}: keep it with them, and remove it once none of them is left"
    )
    print_report(report, text, as_json=as_json)
