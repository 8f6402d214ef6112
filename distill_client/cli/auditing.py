"""`distill audit`: the run's own rows against the teacher's log."""

import json
from dataclasses import asdict

import typer

from distill_client.cli.connecting import connected
from distill_client.cli.options import AsJson, RunDir, TeacherUrl, out
from distill_client.errors import AuditMismatch
from distill_client.run_folder import open_run


def audit(directory: RunDir, teacher: TeacherUrl = None, as_json: AsJson = False) -> None:
    """Compare the run's own rows with the teacher's log for this key; exit code 7 when they differ.

    The key is read from DISTILL_API_KEY. A batch that was in flight when a run was stopped counts as a difference
    until `distill resume` has fetched its answer.
    """
    from distill_client.audit import audit_folder

    with open_run(directory) as folder, connected(teacher or folder.record.teacher_url, folder.config) as server:
        report = audit_folder(folder, server)
    if as_json:
        typer.echo(json.dumps({**asdict(report), "equal": report.is_equal}))
    else:
        out.print(
            f"counted by the client {report.bought:,}\ncharged by the server {report.charged_by_server:,}\n"
            f"in the audit log      {report.in_audit_log:,}\n"
            f"(other runs with this key: {report.spent_by_other_runs:,})",
            highlight=False,
        )
    if not report.is_equal:
        raise AuditMismatch(report.describe())
