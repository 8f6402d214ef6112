"""Our own server's protocol over HTTP; the client's only import of an HTTP library."""

import re
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx2
import numpy as np
import stamina
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from distill_client.errors import ConfigError, TeacherChanged, TeacherProtocolError, TeacherRefused
from distill_client.teachers.native.answers import read_answer
from distill_client.teachers.native.refusals import Patience, Retryable, failure_of
from distill_client.teachers.protocol import Answer, SignedEvent
from distill_client.teachers.trust import trusted_authorities
from shared.wire import contracts
from shared.wire.contracts import Event, EventSignature, EventsPage, SigningKeys, TeacherCard, Usage
from shared.wire.error_codes import ErrorCode
from shared.wire.images import NPY_MEDIA_TYPE, encode_npy

_TIMEOUT_S, _CONNECT_TIMEOUT_S = 60.0, 5.0
# What may pass: the server is down, restarting or slow. Not a malformed request of ours, which never will.
_TRANSIENT = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError, httpx2.ProxyError)
# Of these, what comes before a byte of the request has left.
_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_SECRET_PATTERN = re.compile(r"[\x21-\x7e]+")
Model = TypeVar("Model", bound=BaseModel)


def connect(url: str, secret: str, name: str, *, deadline_s: float, version: str | None = None) -> "NativeTeacher":
    """A teacher at ``url`` (http or https), asked with ``secret``; only that version of it, where one is given.

    Raises ConfigError for an address or a key that cannot be used.
    """
    if not _SECRET_PATTERN.fullmatch(secret):
        raise ConfigError("the key holds spaces, line breaks or other characters that no key has; copy it again")
    try:
        address = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConfigError(f"teacher address is {url!r}, which cannot be used: {error}") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigError(f"teacher address is {url!r}; allowed is http://HOST:PORT or https://HOST")
    # A server that accepts a request and never answers must not hold it beyond the deadline either.
    timeout = httpx2.Timeout(min(_TIMEOUT_S, deadline_s), connect=min(_CONNECT_TIMEOUT_S, deadline_s))
    client = httpx2.Client(
        base_url=address,
        headers={"Authorization": f"Bearer {secret}"},
        timeout=timeout,
        follow_redirects=False,
        verify=trusted_authorities(),
    )
    return NativeTeacher(client, name, deadline_s=deadline_s, version=version)


def announce_retries(say: Callable[[str], None]) -> None:
    """Have ``say`` told, in a sentence, whenever a request is about to be repeated."""

    def tell(details: RetryDetails) -> None:
        say(f"the teacher does not answer ({details.caused_by}); asking again in {details.wait_for:.1f} s")

    set_on_retry_hooks([tell])


class NativeTeacher:
    """One teacher of one of our servers; may be used from several threads.

    With a ``version`` it is asked at that version's own address, so that no other can answer, nor be paid.
    """

    def __init__(
        self,
        client: httpx2.Client,
        name: str,
        *,
        deadline_s: float,
        events_per_page: int = 1000,
        version: str | None = None,
    ) -> None:
        self._client = client
        self._events_per_page = events_per_page
        self._version = version
        self._path = f"/v1/teachers/{urllib.parse.quote(name, safe='')}"
        if version is not None:
            self._path += f"/versions/{urllib.parse.quote(version, safe='')}"
        self._deadline_s = deadline_s

    def card(self) -> TeacherCard:
        """See Teacher.card."""
        with self._still_served():
            return self._get(self._path, TeacherCard)

    def usage(self) -> Usage:
        """See Teacher.usage."""
        return self._get("/v1/usage", Usage)

    def events(self) -> Iterator[Event]:
        """See Teacher.events."""
        return (signed.event for signed in self.signed_events())

    def signed_events(self) -> Iterator[SignedEvent]:
        """See Teacher.signed_events."""
        after: int | None = 0
        while after is not None:
            page = self._get(f"/v1/events?after={after}&limit={self._events_per_page}", EventsPage)
            signatures = page.signatures or [EventSignature()] * len(page.events)
            if len(signatures) != len(page.events):
                raise TeacherProtocolError(
                    f"GET /v1/events: {len(page.events)} events after {after} come with {len(signatures)} signatures"
                )
            yield from map(SignedEvent, page.events, signatures)
            if page.next_after is not None and page.next_after <= after:
                raise TeacherProtocolError(f"GET /v1/events: page {after} is followed by page {page.next_after}")
            after = page.next_after

    def signing_keys(self) -> SigningKeys | None:
        """See Teacher.signing_keys."""
        try:
            return self._get(contracts.SIGNING_KEYS_PATH, SigningKeys)
        except TeacherRefused as error:
            if error.code == ErrorCode.NOT_FOUND:
                return None
            raise

    def label(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> Answer:
        """See Teacher.label."""
        request = self._client.build_request(
            "POST",
            f"{self._path}/labels",
            content=encode_npy(images_nhwc),
            headers={
                "Content-Type": NPY_MEDIA_TYPE,
                "Accept": NPY_MEDIA_TYPE,
                contracts.HEADER_IDEMPOTENCY_KEY: idempotency_key,
            },
        )
        with self._still_served():
            response = self._send(request, is_purchase=True)
        return read_answer(response.headers, response.content, images=len(images_nhwc))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextmanager
    def _still_served(self) -> Iterator[None]:
        """Say what to do when the version asked for is not there any more."""
        try:
            yield
        except TeacherRefused as error:
            if self._version is None or error.code != ErrorCode.TEACHER_NOT_FOUND:
                raise
            raise TeacherChanged(
                f"the run is bought from version {self._version} and from no other, but: {error}. Nothing was "
                "charged for this request, and what was paid for before is kept. Ask the teacher's owner to serve "
                "that version beside the new one, then go on with `distill resume`; or begin a new run",
                code=error.code,
            ) from error

    def _get(self, path: str, model: type[Model]) -> Model:
        response = self._send(self._client.build_request("GET", path))
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise TeacherProtocolError(f"GET {path}: the answer does not fit the contract: {error}") from error

    def _send(self, request: httpx2.Request, *, is_purchase: bool = False) -> httpx2.Response:
        """Send until there is an answer that asking again would not change, or the deadline passes.

        Safe for a paid request too: the idempotency key makes every repetition the same purchase.
        """
        patience = Patience(self._deadline_s)

        def backoff(error: Exception) -> bool | float:
            return isinstance(error, Retryable) and patience.decide(error)

        try:
            for attempt in stamina.retry_context(
                on=backoff, attempts=None, timeout=None, wait_initial=0.2, wait_max=5.0, wait_jitter=0.5
            ):
                with attempt:
                    return self._attempt(request)
        except Retryable as error:
            where = request.url.netloc.decode("ascii")
            raise patience.exhausted(error, where, is_purchase=is_purchase) from error
        raise AssertionError("unreachable: the retry loop returns or raises")

    def _attempt(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = self._client.send(request)
        except httpx2.DecodingError as error:
            raise TeacherProtocolError(f"{request.url}: the answer cannot be decompressed: {error}") from error
        except _TRANSIENT as error:
            message = f"{type(error).__name__}: {error}"
            raise Retryable(message, charged="no" if isinstance(error, _UNSENT) else "unknown") from error
        if not response.is_success:
            raise failure_of(response.status_code, response.headers, response.content, str(request.url))
        return response
