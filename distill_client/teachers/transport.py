"""Sending one HTTP request and getting its reply; the client's only import of an HTTP library."""

import json
import logging
import os
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Self

import httpx2

from distill_client.errors import ConfigError, TeacherProtocolError
from distill_client.teachers.manners.patience import Retryable
from distill_client.teachers.trust import trusted_authorities

_TIMEOUT_S, _CONNECT_TIMEOUT_S = 60.0, 5.0
REPLY_BYTES_MAX = 2**28  # far above any answer; what a broken or hostile server sends must not fill the memory
# What may pass: the server is down, restarting or slow. Not a malformed request of ours, which never will.
_TRANSIENT = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError, httpx2.ProxyError)
# Of these, what comes before a byte of the request has left.
_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_AUTHORITIES_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
# They tell of every address and header, keys among them, to whoever turns logging on.
for _talker in ("httpx2", "httpcore2"):
    logging.getLogger(_talker).setLevel(logging.WARNING)


@dataclass(frozen=True)
class HttpRequest:
    """What is sent; ``url`` is relative to the transport's address, or absolute. Keys in it are never shown."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    content: bytes = field(default=b"", repr=False)


Sign = Callable[[HttpRequest], HttpRequest]


@dataclass(frozen=True)
class HttpReply:
    """What came back; ``headers`` are found in any case. ``url`` is where it came from, for messages: no query."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    url: str

    @property
    def is_success(self) -> bool:
        """Whether the status is one of 200 to 299."""
        return 200 <= self.status < 300


@cache  # to read them takes longer than to connect; a context may serve any number of clients
def _system_authorities(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    """The system's authorities, or those that its variables name: the values of ``_AUTHORITIES_VARIABLES``."""
    return httpx2.create_ssl_context()


class Transport:
    """Connections to one teacher, used from several threads. Redirects are not followed: a key goes nowhere else."""

    def __init__(self, client: httpx2.Client, *, sign: Sign | None = None, secrets: Sequence[str] = ()) -> None:
        self._client = client
        self._sign = sign
        self._hidden = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)

    @classmethod
    def to(
        cls,
        url: str,
        *,
        headers: Mapping[str, str],
        deadline_s: float,
        sign: Sign | None = None,
        secrets: Sequence[str] = (),
    ) -> Self:
        """Connections to ``url`` (http or https), each request with ``headers``.

        ``sign`` is applied to every request right before it is sent. Where a reply repeats one of ``secrets``, it is
        struck out, so that no message can hold it. Raises ConfigError for an address that cannot be used.
        """
        try:
            address = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError) as error:
            raise ConfigError(f"teacher address is {url!r}, which cannot be used: {error}") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise ConfigError(f"teacher address is {url!r}; allowed is http://HOST:PORT or https://HOST")
        # A server that accepts a request and never answers must not hold it beyond the deadline either.
        timeout = httpx2.Timeout(min(_TIMEOUT_S, deadline_s), connect=min(_CONNECT_TIMEOUT_S, deadline_s))
        return cls(
            httpx2.Client(
                base_url=address,
                headers=dict(headers),
                timeout=timeout,
                follow_redirects=False,
                verify=trusted_authorities() or _system_authorities(*map(os.environ.get, _AUTHORITIES_VARIABLES)),
            ),
            sign=sign,
            secrets=secrets,
        )

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return self._client.base_url.netloc.decode("ascii")

    def send(self, request: HttpRequest) -> HttpReply:
        """Send once. Raises Retryable when no whole reply came in time, TeacherProtocolError for one that cannot be
        read, or has more than ``REPLY_BYTES_MAX`` bytes.
        """
        if self._sign is not None:
            request = self._sign(request)
        built = self._client.build_request(
            request.method, request.url, headers=dict(request.headers), content=request.content or None
        )
        where = str(built.url.copy_with(query=None, fragment=None))
        with _failures(where), closing(self._client.send(built, stream=True)) as response:
            content = _read(response, where)
        for secret in self._hidden:
            content = content.replace(secret, b"[secret]")
        return HttpReply(response.status_code, response.headers, content, where)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _read(response: httpx2.Response, where: str) -> bytes:
    """The whole content, decompressed: as much of it as may be, and no longer after its head than a read may take."""
    timeout = response.request.extensions.get("timeout", {}).get("read")
    until = None if timeout is None else time.monotonic() + timeout
    pieces, size = [], 0
    for piece in response.iter_bytes():
        size += len(piece)
        if size > REPLY_BYTES_MAX:
            raise TeacherProtocolError(f"{where}: the reply has more than {REPLY_BYTES_MAX >> 20} MiB")
        # The library's timeout begins anew with every byte.
        if until is not None and time.monotonic() > until:
            raise httpx2.ReadTimeout(f"the reply was not complete {timeout:g} s after its head")
        pieces.append(piece)
    return b"".join(pieces)


def _forms(secret: str) -> set[bytes]:
    """A secret as a server may repeat it: as it is, quoted as in an address, escaped as in JSON."""
    return {
        form.encode("utf-8")
        for form in (
            secret,
            urllib.parse.quote(secret, safe=""),
            urllib.parse.quote_plus(secret),
            json.dumps(secret)[1:-1],
        )
    }


@contextmanager
def _failures(url: str) -> Iterator[None]:
    try:
        yield
    except httpx2.DecodingError as error:
        raise TeacherProtocolError(f"{url}: the answer cannot be decompressed: {error}") from error
    except _TRANSIENT as error:
        message = f"{type(error).__name__}: {error}"
        raise Retryable(message, charged="no" if isinstance(error, _UNSENT) else "unknown") from error
