"""What was spent, proved: the run's own rows and receipts against the teacher's log for its key."""

from distill_client.audit.books import Audit, Difference
from distill_client.audit.comparing import audit_run
from distill_client.audit.exports import read_export, receipt_lines
from distill_client.audit.logs import TeacherLog, read_log
from distill_client.audit.reconciling import audit_folder, audit_offline, require_same_key
from distill_client.audit.trust import trusting

__all__ = [
    "Audit",
    "Difference",
    "TeacherLog",
    "audit_folder",
    "audit_offline",
    "audit_run",
    "read_export",
    "read_log",
    "receipt_lines",
    "require_same_key",
    "trusting",
]
