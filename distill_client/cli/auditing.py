"""`distill audit` and `distill settle`: the run's own rows and receipts against the teacher's log."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from distill_client.cli.connecting import connected
from distill_client.cli.options import AsJson, RunDir, TeacherUrl, out, say
from distill_client.errors import AuditMismatch, ConfigError
from distill_client.run_folder import RunFolder, open_run, write_text
from distill_client.teachers.native.teacher import NativeTeacher
from shared.counting import counted

if TYPE_CHECKING:
    from distill_client.audit import Books
    from distill_client.teachers.paid.own_counts import OwnCounts, Unsettled

_BILL = "by the vendor's bill, as the run's owner has read it"


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

    Of a teacher that keeps no count, the answers are compared with the client's own ledger, which asks nobody; what
    is not known to be charged or not is listed, and is no difference (`distill settle`).
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
        _print(report)
    if not report.is_equal:
        raise AuditMismatch(report.describe())


def _may_be_replaced(path: Path) -> bool:
    """A device, a pipe or a folder may not: a file is written beside it and takes its place."""
    return path.is_file() or (path.parent.is_dir() and not path.exists())


def _print(report: "Books") -> None:
    from distill_client.report.table import described_counts

    counts = described_counts(report.counts)
    width = max(map(len, counts))
    for line in (*(f"{what:<{width}} {count:,}" for what, count in counts.items()), *report.listing()):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    typer.echo(report.sentence)


def _compare(folder: RunFolder, teacher: str | None, log: Path | None) -> "Books":
    from distill_client.audit import audit_folder, audit_offline, audit_own, read_export

    if folder.counts_for_itself:
        if log is not None:
            raise ConfigError(f"--log is {log}, and the run's teacher keeps no log; its own ledger is compared")
        return audit_own(folder)
    if log is not None:
        return audit_offline(folder, read_export(log))
    with connected(teacher or folder.teacher_target, folder.config) as server:
        if not isinstance(server, NativeTeacher):
            raise ConfigError(f"--teacher is {teacher}; the run began with the address of one of our servers")
        return audit_folder(folder, server)


def settle(
    directory: RunDir,
    askings: Annotated[
        list[str] | None,
        typer.Argument(help="numbers from the list, or `all`; without any the list is shown", show_default=False),
    ] = None,
    charged: Annotated[
        bool | None,
        typer.Option("--charged/--not-charged", help="what the vendor's bill says of them", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the images whose charge is not known, or write down what the vendor's bill says of them. Asks nobody.

    After a timeout or a kill it is not known whether a teacher that keeps no count has charged what it was asked, so
    it counts as spent. What was --not-charged may be bought again; what was --charged stays spent. Both are events of
    the client's own ledger; nothing is taken back.
    """
    from distill_client.audit import audit_own

    with open_run(directory) as folder:
        if not folder.counts_for_itself:
            raise ConfigError(f"{directory}: the run's teacher counts; `distill resume` settles what is not known")
        ledger = folder.labels.own_ledger
        for each in _chosen(askings or [], ledger.counts(), charged=charged):
            kind: Literal["fail", "release"] = "fail" if charged else "release"
            ledger.settle(kind, each.sequence, each.places, reason=_BILL)
        report = audit_own(folder)
        _keep(folder, report)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
        return
    for line in report.listing() or ["nothing is unsettled: of every image it is known whether it was charged"]:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _chosen(askings: list[str], counts: "OwnCounts", *, charged: bool | None) -> "list[Unsettled]":
    """The unsettled askings that were named. Raises ConfigError."""
    if (charged is None) != (not askings):
        raise ConfigError("give numbers from the list, or all, together with --charged or --not-charged")
    if askings == ["all"]:
        return list(counts.unsettled)
    known = {str(each.sequence): each for each in counts.unsettled}
    unknown = [asking for asking in askings if asking not in known]
    if unknown:
        allowed = ", ".join(known) or "nothing is unsettled"
        raise ConfigError(f"no unsettled asking is numbered {unknown[0]!r}; allowed: all, or of {allowed}")
    return [known[asking] for asking in dict.fromkeys(askings)]


def _keep(folder: RunFolder, report: "Books") -> None:
    from distill_client.summary import keep_audit

    keep_audit(folder, report)


def _write_receipts(folder: RunFolder, path: Path) -> None:
    from distill_client.audit import receipt_lines

    purchases = folder.labels.purchases()
    found = [purchase.receipt_json for purchase in purchases if purchase.receipt_json is not None]
    write_text(path.resolve(), receipt_lines(found))  # what a link leads to, not the link
    say(f"{counted(len(found), 'receipt')} of {counted(len(purchases), 'answer')} written to {path}")
