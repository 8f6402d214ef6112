"""A teacher that is asked through an adapter, every attempt counted in the client's own ledger before it leaves."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import Charged, TeacherError
from distill_client.teachers.adapters.adapter import Adapter
from distill_client.teachers.label_map import Usefulness
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.manners.patience import Retryable
from distill_client.teachers.paid.allowance import Allowance
from distill_client.teachers.paid.own_ledger import OwnLedger
from distill_client.teachers.protocol import Answer, Capabilities, SignedEvent
from distill_client.teachers.transport import HttpReply, Transport
from distill_client.teachers.upscaling import Upscaling
from shared.wire.contracts import Event, EventSignature, SigningKeys, Usage
from shared.wire.images import image_digests


class HttpTeacher:
    """Satisfies ``protocol.Teacher``; its log is the client's own ledger. May be used from several threads.

    Before a run exists it has no ledger, and can only be looked at.
    """

    def __init__(  # noqa: PLR0913 - all that it is asked through
        self,
        adapter: Adapter,
        transport: Transport,
        manners: Manners,
        ledger: OwnLedger | None = None,
        *,
        allowance: Allowance | None = None,
        upscaling: Upscaling | None = None,
        usefulness: Usefulness | None = None,
    ) -> None:
        """``upscaling`` is done to images first; ``usefulness`` stops asking where nothing is learnt."""
        self._adapter = adapter
        self._transport = transport
        self._manners = manners
        self._ledger = ledger
        self.allowance = allowance or Allowance(adapter.capabilities.budget.granted)
        self._upscaling = upscaling
        self._usefulness = usefulness

    def counted_by(self, ledger: OwnLedger) -> Self:
        """The same teacher, asked on the account of ``ledger``."""
        return type(self)(
            self._adapter,
            self._transport,
            self._manners,
            ledger,
            allowance=self.allowance,
            upscaling=self._upscaling,
            usefulness=self._usefulness,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What its file says of it, unasked."""
        return self._adapter.capabilities

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
        """See Teacher.label; what is not known to be free stays counted, whatever becomes of the call.

        Raises ConfigError, before anything is sent, when most answers so far were none of our classes.
        """
        if self._usefulness is not None:
            self._usefulness.require()
        settles = self._adapter.capabilities.honours_idempotency
        digests = image_digests(images_nhwc)
        attempts = _CountedAttempts(self._require_ledger(), digests, idempotency_key, is_charged_once=settles)
        sent_nhwc = images_nhwc if self._upscaling is None else self._upscaling.apply(images_nhwc)
        request = self._adapter.request(sent_nhwc, idempotency_key)

        def attempt() -> Answer:
            reply = self._transport.send(request)
            answer = self._adapter.read(reply, len(images_nhwc))
            self._manners.heed(reply.headers)
            return answer

        answer = self._manners.ask(attempt, where=self._transport.where, purchase=attempts, settles=settles)
        if self._usefulness is not None:
            self._usefulness.count(len(answer.answered_values), _says_nothing(answer))
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
    """The attempts at one batch, in the client's own ledger; satisfies ``Attempts``.

    Where the teacher charges a key once, an attempt whose outcome is not known is counted for those after it too.
    """

    def __init__(
        self, ledger: OwnLedger, digests: Sequence[bytes], idempotency_key: str, *, is_charged_once: bool
    ) -> None:
        self._ledger = ledger
        self._digests = digests
        self._key = idempotency_key
        self._is_charged_once = is_charged_once
        self._is_known = True
        self.ask_sequence = 0

    def begins(self) -> None:
        """Count the images as spent. Raises BudgetExhausted."""
        asked = self._ledger.ask(self._key, self._digests, is_charged_once=self._is_charged_once)
        self._is_known = asked.is_new
        self.ask_sequence = asked.sequence

    def failed(self, error: Exception) -> None:
        """Release them, or write down that they are lost, where that is known."""
        charged = _charged(error)
        if charged == "no" and self._is_known:  # else an attempt before this one may have been charged
            self._ledger.settle("release", self.ask_sequence, reason=str(error))
        elif charged == "yes":
            self._ledger.settle("fail", self.ask_sequence, reason=str(error))


def _says_nothing(answer: Answer) -> int:
    """How many of the answered images were answered with none of our classes."""
    values = answer.answered_values
    return int((values == -1).sum() if values.ndim == 1 else np.isnan(values).all(axis=1).sum())


def _charged(error: Exception) -> Charged:
    """A teacher that says no charges nothing; an answer that cannot be read was paid for, as far as anybody knows."""
    if isinstance(error, Retryable):
        return error.charged
    return error.charged if isinstance(error, TeacherError) else "unknown"
