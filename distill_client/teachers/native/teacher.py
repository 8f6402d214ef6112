"""Our own server's protocol over HTTP."""

import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from distill_client.errors import ConfigError, TeacherChanged, TeacherProtocolError, TeacherRefused
from distill_client.teachers.manners.asking import Manners, Uncounted
from distill_client.teachers.native.answers import read_answer
from distill_client.teachers.native.refusals import failure_of
from distill_client.teachers.protocol import Answer, Capabilities, SignedEvent
from distill_client.teachers.transport import HttpReply, HttpRequest, Transport
from shared.wire import contracts
from shared.wire.contracts import Event, EventSignature, EventsPage, SigningKeys, Usage
from shared.wire.error_codes import ErrorCode
from shared.wire.images import NPY_MEDIA_TYPE, encode_npy

_SECRET_PATTERN = re.compile(r"[\x21-\x7e]+")
Model = TypeVar("Model", bound=BaseModel)


def connect(url: str, secret: str, name: str, *, manners: Manners, version: str | None = None) -> "NativeTeacher":
    """A teacher at ``url`` (http or https), asked with ``secret``; only that version of it, where one is given.

    Raises ConfigError for an address or a key that cannot be used.
    """
    if not _SECRET_PATTERN.fullmatch(secret):
        raise ConfigError("the key holds spaces, line breaks or other characters that no key has; copy it again")
    headers = {"Authorization": f"Bearer {secret}"}
    transport = Transport.to(url, headers=headers, deadline_s=manners.deadline_s)
    return NativeTeacher(transport, name, manners=manners, version=version)


class NativeTeacher:
    """One teacher of one of our servers; may be used from several threads.

    With a ``version`` it is asked at that version's own address, so that no other can answer, nor be paid; and under
    the disclosure that its first card has, so that no other policy's answers are paid for either.
    """

    def __init__(
        self,
        transport: Transport,
        name: str,
        *,
        manners: Manners,
        events_per_page: int = 1000,
        version: str | None = None,
    ) -> None:
        self._transport = transport
        self._events_per_page = events_per_page
        self._version = version
        self._disclosure = ""
        self._path = f"/v1/teachers/{urllib.parse.quote(name, safe='')}"
        if version is not None:
            self._path += f"/versions/{urllib.parse.quote(version, safe='')}"
        self._manners = manners

    def card(self) -> Capabilities:
        """See Teacher.card."""
        with self._still_served():
            card = self._get(self._path, Capabilities)
        self._disclosure = self._disclosure or card.disclosure
        return card

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
        headers = {
            "Content-Type": NPY_MEDIA_TYPE,
            "Accept": NPY_MEDIA_TYPE,
            contracts.HEADER_IDEMPOTENCY_KEY: idempotency_key,
        }
        if self._disclosure:
            headers[contracts.HEADER_DISCLOSURE] = self._disclosure
        request = HttpRequest("POST", f"{self._path}/labels", headers, encode_npy(images_nhwc))
        with self._still_served():
            reply = self._send(request, is_purchase=True)
        return read_answer(reply.headers, reply.content, images=len(images_nhwc))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    @contextmanager
    def _still_served(self) -> Iterator[None]:
        """Say what to do when the version asked for, or the policy, is not there any more."""
        try:
            yield
        except TeacherRefused as error:
            if error.code == ErrorCode.DISCLOSURE_CHANGED:
                raise TeacherChanged(
                    f"the run is bought under disclosure {self._disclosure!r} and no other, but: {error}. Nothing "
                    "was charged for this request, and what was paid for before is kept. Ask the teacher's owner for "
                    "that policy (`teacher keys set`), then go on with `distill resume`; or begin a new run",
                    code=error.code,
                ) from error
            if self._version is None or error.code != ErrorCode.TEACHER_NOT_FOUND:
                raise
            raise TeacherChanged(
                f"the run is bought from version {self._version} and from no other, but: {error}. Nothing was "
                "charged for this request, and what was paid for before is kept. Ask the teacher's owner to serve "
                "that version beside the new one, then go on with `distill resume`; or begin a new run",
                code=error.code,
            ) from error

    def _get(self, path: str, model: type[Model]) -> Model:
        reply = self._send(HttpRequest("GET", path))
        try:
            return model.model_validate_json(reply.content)
        except ValidationError as error:
            raise TeacherProtocolError(f"GET {path}: the answer does not fit the contract: {error}") from error

    def _send(self, request: HttpRequest, *, is_purchase: bool = False) -> HttpReply:
        """Safe for a paid request too: the idempotency key makes every repetition the same purchase."""

        def attempt() -> HttpReply:
            reply = self._transport.send(request)
            if not reply.is_success:
                raise failure_of(reply.status, reply.headers, reply.content, reply.url)
            if is_purchase:
                self._manners.heed(reply.headers)
            return reply

        purchase = Uncounted() if is_purchase else None
        return self._manners.ask(attempt, where=self._transport.where, purchase=purchase)
