"""From an address or a teacher's file, and the key in the environment, to a teacher."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from distill_client.cli.options import say
from distill_client.config import RunConfig
from distill_client.errors import ConfigError
from distill_client.run_folder import RunFolder
from distill_client.teachers.adapters.http_teacher import HttpTeacher
from distill_client.teachers.adapters.kinds import connect_described, load_teacher_file
from distill_client.teachers.manners.asking import Manners, announce_retries
from distill_client.teachers.native.teacher import NativeTeacher, connect
from distill_client.teachers.paid.allowance import Allowance
from distill_client.teachers.permission import require_permission
from distill_client.teachers.protocol import Teacher
from distill_client.teachers.teacher_file import is_teacher_file

KEY_VARIABLE = "DISTILL_API_KEY"


@contextlib.contextmanager
def connected(
    target: str,
    config: RunConfig,
    version: str | None = None,
    *,
    deadline_s: float | None = None,
    buys: bool = True,
) -> Iterator[NativeTeacher | HttpTeacher]:
    """The experiment's teacher at an address of ours, or the one that a teacher's file describes.

    Retries are announced, up to the experiment's deadline unless given. Raises ConfigError when there is no key, the
    address cannot be used, or the file does not say that there is permission, and the caller ``buys``.
    """
    announce_retries(say)
    limit_s = config.teacher.deadline_s if deadline_s is None else min(deadline_s, config.teacher.deadline_s)
    manners = Manners(limit_s, requests_in_flight=config.teacher.requests_in_flight)
    with asked(target, config.teacher.name, manners, version=version, buys=buys) as server:
        yield server


@contextlib.contextmanager
def asked(
    target: str, name: str | None, manners: Manners, *, version: str | None = None, buys: bool = True
) -> Iterator[NativeTeacher | HttpTeacher]:
    """The teacher ``name`` of one of our servers at an address, or the one that a teacher's file describes.

    Raises ConfigError when there is no name for an address, no key, the address cannot be used, or the file does not
    say that there is permission, and the caller ``buys``.
    """
    server: NativeTeacher | HttpTeacher
    if is_teacher_file(target):
        file = load_teacher_file(Path(target))
        if buys:
            require_permission(file)
        server = connect_described(file, manners)
    else:
        require_address(target)
        if name is None:
            raise ConfigError("--name is missing: which teacher of the server at that address is meant")
        server = connect(target, api_key(), name, manners=manners, version=version)
    try:
        yield server
    finally:
        server.close()


def on_account_of(folder: RunFolder, server: NativeTeacher | HttpTeacher, target: str) -> Teacher:
    """The teacher as a run asks it: one that keeps no count is counted by the run's own ledger.

    What its file ``target`` allows by now, more or less than before, is what the ledger allows from now on, and the
    run keeps that file. Raises ConfigError when it is one of ours, and the run began with another's, or the other way
    round, and RunStoreError when it is another teacher.
    """
    from distill_client.audit import require_same_teacher

    if isinstance(server, NativeTeacher) is folder.counts_for_itself:
        began = "a teacher's file" if folder.counts_for_itself else "the address of one of our servers"
        raise ConfigError(f"{folder.path}: the run began with {began}, so --teacher must be one too")
    if isinstance(server, NativeTeacher):
        return server
    require_same_teacher(folder, server.capabilities)
    folder.keep_teacher_file(Path(target))
    folder.labels.own_ledger.allow(server.allowance)
    return server.counted_by(folder.labels.own_ledger)


def allowance_of(server: NativeTeacher | HttpTeacher) -> Allowance | None:
    """What the file of a teacher that keeps no count allows; None for a teacher that counts."""
    return server.allowance if isinstance(server, HttpTeacher) else None


def require_address(target: str) -> None:
    """Raise ConfigError for what is meant to be a teacher and is neither an address nor a teacher's file."""
    if "://" not in target:
        raise ConfigError(
            f"{target!r} is neither an address, such as http://127.0.0.1:8000, nor a teacher's file (*.toml)"
        )


def api_key() -> str:
    """The key of our servers, from the environment. Raises ConfigError."""
    secret = os.environ.get(KEY_VARIABLE, "")
    if not secret:
        raise ConfigError(f"{KEY_VARIABLE} is not set: put the key that the teacher's owner gave you into it")
    return secret
