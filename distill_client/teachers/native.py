"""Our own server's protocol over HTTP; the client's only import of an HTTP library."""

import email.utils
import re
import time
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

from distill_client.errors import (
    BudgetExhausted,
    ConfigError,
    TeacherChanged,
    TeacherProtocolError,
    TeacherRefused,
    TeacherUnavailable,
)
from distill_client.teachers.protocol import Answer, Values
from distill_client.teachers.trust import trusted_authorities
from shared.wire import contracts
from shared.wire.contracts import Disclosure, Event, EventsPage, Problem, TeacherCard, Usage
from shared.wire.error_codes import ErrorCode
from shared.wire.images import NPY_MEDIA_TYPE, InvalidImages, decode_npy, encode_npy

_TIMEOUT_S, _CONNECT_TIMEOUT_S = 60.0, 5.0
# What may pass: the server is down, restarting or slow. Not a malformed request of ours, which never will.
_TRANSIENT = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError, httpx2.ProxyError)
_SECRET_PATTERN = re.compile(r"[\x21-\x7e]+")
Model = TypeVar("Model", bound=BaseModel)


class _Retryable(Exception):
    """An answer that says: ask again; ``after_s`` is how long the teacher wants to be left alone."""

    def __init__(self, message: str, after_s: float | None) -> None:
        super().__init__(message)
        self.after_s = after_s


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
        reason = f"{type(details.caused_by).__name__.lstrip('_')}: {details.caused_by}"
        say(f"the teacher does not answer ({reason}); asking again in {details.wait_for:.1f} s")

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
        after: int | None = 0
        while after is not None:
            page = self._get(f"/v1/events?after={after}&limit={self._events_per_page}", EventsPage)
            yield from page.events
            if page.next_after is not None and page.next_after <= after:
                raise TeacherProtocolError(f"GET /v1/events: page {after} is followed by page {page.next_after}")
            after = page.next_after

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
            response = self._send(request)
        return _read_answer(response, images=len(images_nhwc))

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

    def _send(self, request: httpx2.Request) -> httpx2.Response:
        """Send until there is an answer that asking again would not change, or the deadline passes.

        Safe for a paid request too: the idempotency key makes every repetition the same purchase.
        """
        deadline = time.monotonic() + self._deadline_s

        def backoff(error: Exception) -> bool | float:
            """Whether to ask again: seconds to wait, or True for the usual growing pause."""
            if isinstance(error, _Retryable) and error.after_s is not None:
                return min(error.after_s, max(0.0, deadline - time.monotonic()))
            return isinstance(error, (*_TRANSIENT, _Retryable))

        try:
            for attempt in stamina.retry_context(
                on=backoff, attempts=None, timeout=self._deadline_s, wait_initial=0.2, wait_max=5.0, wait_jitter=0.5
            ):
                with attempt:
                    return _checked(self._client.send(request))
        except httpx2.DecodingError as error:
            raise TeacherProtocolError(f"{request.url}: the answer cannot be decompressed: {error}") from error
        except (*_TRANSIENT, _Retryable) as error:
            raise TeacherUnavailable(
                f"no answer from {request.url.host}:{request.url.port or ''} within {self._deadline_s:g} s "
                f"({type(error).__name__.lstrip('_')}: {error})"
            ) from error
        raise AssertionError("unreachable: the retry loop returns or raises")


def _checked(response: httpx2.Response) -> httpx2.Response:
    """The response if it is a success; else the error that it means."""
    if response.is_success:
        return response
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError as error:
        what = f"HTTP {response.status_code} without a problem document"
        if response.status_code in (408, 429) or response.status_code >= 500:  # a proxy in between
            raise _Retryable(what, _retry_after(response)) from error
        raise TeacherProtocolError(f"{response.request.url}: {what}; is this a teacher's address?") from error
    if problem.retryable:
        raise _Retryable(f"{problem.code}: {problem.detail}", _retry_after(response))
    extra = problem.model_extra or {}
    if problem.code == ErrorCode.BUDGET_EXHAUSTED:
        granted, spent = (extra.get(name) for name in ("granted", "spent"))
        if isinstance(granted, int) and isinstance(spent, int):
            raise BudgetExhausted(problem.detail, granted=granted, spent=spent)
    hint = " (the key is read from DISTILL_API_KEY)" if problem.code == ErrorCode.UNAUTHENTICATED else ""
    raise TeacherRefused(f"{problem.code}: {problem.detail}{hint}", code=problem.code)


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, from either form of the Retry-After header."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _read_answer(response: httpx2.Response, *, images: int) -> Answer:
    headers = response.headers
    try:
        disclosure = Disclosure.parse(headers[contracts.HEADER_DISCLOSURE])
        answer = Answer(
            values=_require_values(decode_npy(response.content), images, disclosure),
            version=headers[contracts.HEADER_VERSION],
            disclosure=str(disclosure),
            charged=int(headers[contracts.HEADER_CHARGED]),
            spent=int(headers[contracts.HEADER_SPENT]),
            remaining=int(headers[contracts.HEADER_REMAINING]),
            event_sequence=int(headers[contracts.HEADER_EVENT_SEQUENCE]),
            event_hash=headers[contracts.HEADER_EVENT_HASH],
        )
    except (InvalidImages, KeyError, ValueError) as error:
        raise TeacherProtocolError(f"the answer to {images} images does not fit the contract: {error}") from error
    if answer.charged != images:
        raise TeacherProtocolError(f"{images} images were sent, {answer.charged} charged")
    return answer


def _require_values(array: NDArray[np.generic], images: int, disclosure: Disclosure) -> Values:
    if disclosure.kind == "label":
        if array.dtype == np.int64 and array.shape == (images,):
            return array.astype(np.int64)
    elif array.dtype == np.float32 and array.ndim == 2 and len(array) == images:
        probabilities_nk = array.astype(np.float32)
        disclosed_nk = ~np.isnan(probabilities_nk)
        if ((probabilities_nk < 0) | (probabilities_nk > 1)).any():
            raise ValueError("a probability lies outside 0 to 1")
        most = probabilities_nk.shape[1] if disclosure.kind == "probabilities" else disclosure.k
        if (disclosed_nk.sum(axis=1) != min(most, probabilities_nk.shape[1])).any():
            raise ValueError(f"an answer does not name as many classes as disclosure {disclosure} says")
        return probabilities_nk
    raise ValueError(f"{array.dtype} of shape {array.shape} is no answer to {images} images under {disclosure}")
