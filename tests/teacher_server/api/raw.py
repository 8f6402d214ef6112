"""Calls below the HTTP client: what a server hears from callers that break off, dawdle or lie about their size."""

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.types import Message

from shared.wire.images import NPY_MEDIA_TYPE
from tests.teacher_server.support import LABELS, World

DISCONNECT: Message = {"type": "http.disconnect"}


@dataclass(frozen=True)
class RawAnswer:
    """Enough of a response for ``require_problem``."""

    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


def chunk(content: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": content, "more_body": more}


class never(AsyncIterator[Message]):  # noqa: N801 - used as the functions below are
    """The body of a caller whose body nobody may ask for."""

    async def __anext__(self) -> Message:
        raise AssertionError("the body was read")


async def each(messages: Iterable[Message]) -> AsyncIterator[Message]:
    for message in messages:
        yield message


def raw_call(
    world: World,
    headers: dict[str, str],
    incoming: AsyncIterator[Message],
    *,
    path: str = LABELS,
    method: str = "POST",
) -> RawAnswer:
    """One request in the server's own event loop; ``incoming`` is asked for a message at a time."""
    sent: list[Message] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("testclient", 1),
        "server": ("testserver", 80),
        "state": {},
    }

    async def receive() -> Message:
        return await anext(incoming)

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        await world.app(scope, receive, send)

    assert world.client.portal is not None
    world.client.portal.call(run)
    start, *bodies = sent
    return RawAnswer(
        start["status"],
        {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in bodies),
    )


def npy_headers(secret: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}", "Content-Type": NPY_MEDIA_TYPE} | {
        name.replace("_", "-"): value for name, value in more.items()
    }
