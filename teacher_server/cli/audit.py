"""`teacher audit`: export a key's history, and verify a ledger or an exported history."""

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from shared.counting import counted
from teacher_server.cli.options import LEDGER_HELP, AsJson, Ledger, keep_passwords_off_the_command_line
from teacher_server.cli.reporting import progress_out
from teacher_server.errors import OperatorError
from teacher_server.ledger.audit.audit_lines import write_export
from teacher_server.ledger.audit.auditing import AuditReport, audit_export, audit_ledger
from teacher_server.ledger.databases.whole_file import whole_file
from teacher_server.ledger.lifecycle.opening import open_database

FAULTS_SHOWN = 50
app = typer.Typer(help="Prove what was charged: export a history, verify it.", no_args_is_help=True)


@app.command("export")
def export(
    ledger: Ledger,
    key: Annotated[str, typer.Option(help="whose history")],
    out: Annotated[Path | None, typer.Option(help="the file to write (default: standard output)")] = None,
) -> None:
    """Write one key's history, and no other's, as JSON lines; works while the server runs.

    The first line says what the ledger says of the key, each other holds one signed event. `teacher audit verify`,
    `distill audit --log` and docs/verify_receipts.py read it.
    """
    with closing(open_database(ledger, create=False)) as database:
        if out is None:
            header = write_export(database, key, sys.stdout)
        else:
            with whole_file(out) as stream:
                header = write_export(database, key, stream)
    held = counted(header.events, "event")
    progress_out.print(f"key {header.key_name}: {held}, {header.spent} of {header.granted} spent")


@app.command("verify")
def verify(
    file: Annotated[Path | None, typer.Argument(help="an exported history, instead of a ledger")] = None,
    ledger: Annotated[
        str | None,
        typer.Option(envvar="TEACHER_LEDGER", help=LEDGER_HELP, callback=keep_passwords_off_the_command_line),
    ] = None,
    key: Annotated[str | None, typer.Option(help="only this key of the ledger")] = None,
    receipts: Annotated[
        Path | None, typer.Option(help="receipts that a client holds, as `distill audit --receipts` writes them")
    ] = None,
    pin: Annotated[
        str | None, typer.Option(help="the fingerprint of a signing key that you know to be right")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Walk every chain and compare it with counters, stored answers, signing keys and receipts.

    Changes nothing; works while the server runs. Exit code 0: sound. 1: not sound, each fault is named with its key
    and event. 2: cannot be read.
    """
    if pin is not None and (len(pin) != 64 or set(pin) - set("0123456789abcdef")):
        raise OperatorError(f"--pin is {pin!r}; allowed is a fingerprint, 64 digits 0-9 a-f")
    if file is not None:
        if key is not None:
            raise OperatorError("--key goes with a ledger; an exported history is of one key already")
        report = audit_export(file, pin=pin, receipts=receipts)
    elif ledger is not None:
        with closing(open_database(ledger, create=False)) as database:
            report = audit_ledger(database, key_name=key, pin=pin, receipts=receipts)
    else:
        raise OperatorError("nothing to verify: name an exported file, or a ledger with --ledger")
    typer.echo(json.dumps(_as_report(report)) if as_json else _as_text(report))
    if not report.is_sound:
        raise typer.Exit(1)


def _as_report(report: AuditReport) -> dict[str, object]:
    names = ("key_name", "events", "spent", "granted", "unsigned", "hash")
    return {
        "sound": report.is_sound,
        "keys": [{name: getattr(walk, name) for name in names} for walk in report.walks],
        "faults": [
            {"key": fault.key_name, "sequence": fault.sequence, "what": fault.what} for fault in report.faults
        ],
        "notes": report.notes,
        "first_signing_key": report.ring.first.fingerprint if report.ring.first else None,
    }


def _as_text(report: AuditReport) -> str:
    lines = [
        f"key {walk.key_name}: {counted(walk.events, 'event')}, {walk.spent} of {walk.granted} spent, ends with "
        f"{walk.hash}"
        for walk in report.walks
    ]
    if report.ring.first:
        lines.append(f"first signing key: {report.ring.first.fingerprint}")
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"FAULT {fault}" for fault in report.faults[:FAULTS_SHOWN]]
    if len(report.faults) > FAULTS_SHOWN:
        lines.append(f"... and {len(report.faults) - FAULTS_SHOWN} more; --json shows all")
    lines.append("sound" if report.is_sound else f"NOT SOUND: {counted(len(report.faults), 'fault')}")
    return "\n".join(lines)
