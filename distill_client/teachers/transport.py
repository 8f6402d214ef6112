"""Sending one HTTP request and getting its reply; the client's only import of an HTTP library."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import httpx2

from distill_client.errors import ConfigError, TeacherProtocolError
from distill_client.teachers.manners.patience import Retryable
from distill_client.teachers.trust import trusted_authorities

_TIMEOUT_S, _CONNECT_TIMEOUT_S = 60.0, 5.0
# What may pass: the server is down, restarting or slow. Not a malformed request of ours, which never will.
_TRANSIENT = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError, httpx2.ProxyError)
# Of these, what comes before a byte of the request has left.
_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)


@dataclass(frozen=True)
class HttpRequest:
    """What is sent; ``url`` is relative to the transport's address, or absolute."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""


@dataclass(frozen=True)
class HttpReply:
    """What came back; ``headers`` are found in any case. ``url`` is where it came from, for messages."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    url: str

    @property
    def is_success(self) -> bool:
        """Whether the status is one of 200 to 299."""
        return 200 <= self.status < 300


class Transport:
    """Connections to one teacher, used from several threads. Redirects are not followed: a key goes nowhere else."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    @classmethod
    def to(cls, url: str, *, headers: Mapping[str, str], deadline_s: float) -> Self:
        """Connections to ``url`` (http or https), each request with ``headers``.

        Raises ConfigError for an address that cannot be used.
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
                verify=trusted_authorities(),
            )
        )

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return self._client.base_url.netloc.decode("ascii")

    def send(self, request: HttpRequest) -> HttpReply:
        """Send once. Raises Retryable when no reply came, TeacherProtocolError for one that cannot be read."""
        built = self._client.build_request(
            request.method, request.url, headers=dict(request.headers), content=request.content or None
        )
        with _failures(str(built.url)):
            response = self._client.send(built)
        return HttpReply(response.status_code, response.headers, response.content, str(built.url))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


@contextmanager
def _failures(url: str) -> Iterator[None]:
    try:
        yield
    except httpx2.DecodingError as error:
        raise TeacherProtocolError(f"{url}: the answer cannot be decompressed: {error}") from error
    except _TRANSIENT as error:
        message = f"{type(error).__name__}: {error}"
        raise Retryable(message, charged="no" if isinstance(error, _UNSENT) else "unknown") from error
