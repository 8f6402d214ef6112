"""From an address and the key in the environment to a teacher."""

import contextlib
import os
from collections.abc import Iterator

from distill_client.cli.options import say
from distill_client.config import RunConfig
from distill_client.errors import ConfigError
from distill_client.teachers.native.teacher import NativeTeacher, announce_retries, connect

KEY_VARIABLE = "DISTILL_API_KEY"


@contextlib.contextmanager
def connected(
    url: str, config: RunConfig, version: str | None = None, *, deadline_s: float | None = None
) -> Iterator[NativeTeacher]:
    """The experiment's teacher at ``url``; retries are announced, up to the experiment's deadline unless given.

    Raises ConfigError when there is no key, or the address cannot be used.
    """
    secret = os.environ.get(KEY_VARIABLE, "")
    if not secret:
        raise ConfigError(f"{KEY_VARIABLE} is not set: put the key that the teacher's owner gave you into it")
    announce_retries(say)
    limit_s = config.teacher.deadline_s if deadline_s is None else min(deadline_s, config.teacher.deadline_s)
    server = connect(url, secret, config.teacher.name, deadline_s=limit_s, version=version)
    try:
        yield server
    finally:
        server.close()
