"""What was spent, proved: the run's own rows and receipts against the teacher's log for its key."""

from distill_client.audit.books import Audit, Books, Difference
from distill_client.audit.comparing import audit_run
from distill_client.audit.exports import read_export, receipt_lines
from distill_client.audit.logs import TeacherLog, read_log
from distill_client.audit.own_books import OwnAudit, audit_own, describe_unsettled
from distill_client.audit.reconciling import audit_folder, audit_offline, require_same_key, require_same_teacher
from distill_client.audit.trust import trusting

__all__ = [
    "Audit",
    "Books",
    "Difference",
    "OwnAudit",
    "TeacherLog",
    "audit_folder",
    "audit_offline",
    "audit_own",
    "audit_run",
    "describe_unsettled",
    "read_export",
    "read_log",
    "receipt_lines",
    "require_same_key",
    "require_same_teacher",
    "trusting",
]
