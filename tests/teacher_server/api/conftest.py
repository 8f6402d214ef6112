"""`teacher serve` as a process of its own, for the clients that others wrote."""

from tests.teacher_server.security.conftest import serve as serve  # noqa: PLC0414
from tests.teacher_server.security.conftest import teacher_forks as teacher_forks  # noqa: PLC0414
