"""A teacher that is asked through an adapter, every attempt counted in the client's own ledger before it leaves."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import Charged, TeacherError
from distill_client.teachers.adapters.adapter import Adapter
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.manners.patience import Retryable
from distill_client.teachers.paid.own_ledger import OwnLedger
from distill_client.teachers.protocol import Answer, Capabilities, SignedEvent
from distill_client.teachers.transport import HttpReply, Transport
from shared.wire.contracts import Event, EventSignature, SigningKeys, Usage
from shared.wire.images import batch_digest, image_digests


class HttpTeacher:
    """Satisfies ``protocol.Teacher``; its log is the client's own ledger. May be used from several threads.

    Before a run exists it has no ledger, and can only be looked at.
    """

    def __init__(
        self, adapter: Adapter, transport: Transport, manners: Manners, ledger: OwnLedger | None = None
    ) -> None:
        self._adapter = adapter
        self._transport = transport
        self._manners = manners
        self._ledger = ledger

    def counted_by(self, ledger: OwnLedger) -> Self:
        """The same teacher, asked on the account of ``ledger``."""
        return type(self)(self._adapter, self._transport, self._manners, ledger)

    @property
    def granted(self) -> int:
        """Images that its file allows to buy."""
        return self._adapter.capabilities.budget.granted

    def card(self) -> Capabilities:
        """See Teacher.card; looks whether the teacher is there, where that is free."""
        if (request := self._adapter.first_look()) is not None:
            looked = request

            def look() -> HttpReply:
                reply = self._transport.send(looked)
                self._adapter.read_first_look(reply)
                return reply

            self._manners.ask(look, where=self._transport.where)
        capabilities = self._adapter.capabilities
        return capabilities if self._ledger is None else capabilities.model_copy(update={"budget": self.usage()})

    def label(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> Answer:
        """See Teacher.label; what is not known to be free stays counted, whatever becomes of the call."""
        attempts = _CountedAttempts(self._require_ledger(), images_nhwc, idempotency_key)
        request = self._adapter.request(images_nhwc, idempotency_key)

        def attempt() -> Answer:
            reply = self._transport.send(request)
            answer = self._adapter.read(reply, len(images_nhwc))
            self._manners.heed(reply.headers)
            return answer

        settles = self._adapter.capabilities.honours_idempotency
        answer = self._manners.ask(attempt, where=self._transport.where, purchase=attempts, settles=settles)
        return replace(answer, ask_sequence=attempts.ask_sequence)

    def usage(self) -> Usage:
        """See Teacher.usage: as the client counts it."""
        return self._require_ledger().usage()

    def events(self) -> Iterator[Event]:
        """See Teacher.events."""
        yield from self._require_ledger().events()

    def signed_events(self) -> Iterator[SignedEvent]:
        """See Teacher.signed_events; the client signs nothing to itself."""
        return (SignedEvent(event, EventSignature()) for event in self.events())

    def signing_keys(self) -> SigningKeys | None:
        """None: there are no receipts."""
        return None

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _require_ledger(self) -> OwnLedger:
        assert self._ledger is not None, "this teacher is asked on nobody's account yet"
        return self._ledger


class _CountedAttempts:
    """The attempts at one batch, in the client's own ledger; satisfies ``Attempts``."""

    def __init__(self, ledger: OwnLedger, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> None:
        self._ledger = ledger
        self._images = len(images_nhwc)
        self._input_digest = batch_digest(image_digests(images_nhwc))
        self._key = idempotency_key
        self.ask_sequence = 0

    def begins(self) -> None:
        """Count the images as spent. Raises BudgetExhausted."""
        self.ask_sequence = self._ledger.ask(self._key, self._images, input_digest=self._input_digest).sequence

    def failed(self, error: Exception) -> None:
        """Release them, or write down that they are lost, where that is known."""
        charged = _charged(error)
        if charged == "no":
            self._ledger.settle("release", self.ask_sequence, self._images, reason=str(error))
        elif charged == "yes":
            self._ledger.settle("fail", self.ask_sequence, self._images, reason=str(error))


def _charged(error: Exception) -> Charged:
    """A teacher that says no charges nothing; an answer that cannot be read was paid for, as far as anybody knows."""
    if isinstance(error, Retryable):
        return error.charged
    return error.charged if isinstance(error, TeacherError) else "unknown"
