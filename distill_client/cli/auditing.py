"""`distill audit`: the run's own rows and receipts against the teacher's log."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_client.cli.connecting import connected, on_account_of
from distill_client.cli.options import AsJson, RunDir, TeacherUrl, out, say
from distill_client.errors import AuditMismatch, ConfigError
from distill_client.run_folder import RunFolder, open_run, write_text
from shared.counting import counted

if TYPE_CHECKING:
    from distill_client.audit import Audit


def audit(
    directory: RunDir,
    teacher: TeacherUrl = None,
    log: Annotated[
        Path | None,
        typer.Option(help="compare with this file, which the owner wrote with `teacher audit export`; asks nobody"),
    ] = None,
    receipts: Annotated[
        Path | None,
        typer.Option(help="write all receipts to this file first, as JSON lines that others can verify"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the run's paid answers and receipts with the teacher's log, row by row; exit code 7 when they differ.

    At the teacher's server, with the key from DISTILL_API_KEY, or in a file (--log), without network and key. Every
    difference is explained; receipts that the log contradicts are written to the run's folder evidence/. The result
    goes into summary.json and the student's card. A batch that was in flight when a run was stopped counts as a
    difference until `distill resume` has fetched its answer, at no charge.
    """
    if log is not None and teacher is not None:
        raise ConfigError(f"--log is {log} and --teacher is {teacher}; give one of them")
    if receipts is not None and not _may_be_replaced(receipts):
        raise ConfigError(f"--receipts is {receipts}; allowed is a plain file in a folder that is there")
    with open_run(directory) as folder:
        if receipts is not None:
            _write_receipts(folder, receipts)
        report = _compare(folder, teacher, log)
        _keep(folder, report)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        out.print(
            f"counted by the client {report.bought:,}\ncharged by the server {report.charged_by_server:,}\n"
            f"in the audit log      {report.in_audit_log:,}\n"
            f"(other runs with this key: {report.spent_by_other_runs:,})",
            highlight=False,
        )
        typer.echo(report.sentence)
    if not report.is_equal:
        raise AuditMismatch(report.describe())


def _may_be_replaced(path: Path) -> bool:
    """A device, a pipe or a folder may not: a file is written beside it and takes its place."""
    return path.is_file() or (path.parent.is_dir() and not path.exists())


def _compare(folder: RunFolder, teacher: str | None, log: Path | None) -> "Audit":
    from distill_client.audit import audit_folder, audit_offline, read_export

    if log is not None:
        return audit_offline(folder, read_export(log))
    with connected(teacher or folder.teacher_target, folder.config) as server:
        return audit_folder(folder, on_account_of(folder, server))


def _keep(folder: RunFolder, report: "Audit") -> None:
    from distill_client.summary import keep_audit

    keep_audit(folder, report)


def _write_receipts(folder: RunFolder, path: Path) -> None:
    from distill_client.audit import receipt_lines

    purchases = folder.labels.purchases()
    found = [purchase.receipt_json for purchase in purchases if purchase.receipt_json is not None]
    write_text(path.resolve(), receipt_lines(found))  # what a link leads to, not the link
    say(f"{counted(len(found), 'receipt')} of {counted(len(purchases), 'answer')} written to {path}")
