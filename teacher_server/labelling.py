"""The spine: one request from bytes to a charged answer, read from top to bottom."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.wire.contracts import InputSpec
from shared.wire.error_codes import ErrorCode
from shared.wire.images import Images, batch_digest, image_digests
from shared.wire.receipts import disclosure_digest
from teacher_server.admission import Admission
from teacher_server.decoding import Body, DecodingLimits, NpyBody, TensorBody, decode_body, own_input
from teacher_server.disclosure import Disclosed, disclose, draw_noise
from teacher_server.errors import Refusal
from teacher_server.fingerprints import pack_fingerprints
from teacher_server.ledger.charging.answers import Answered, Expired, Question
from teacher_server.ledger.charging.charge import Computed
from teacher_server.ledger.keys.issuing import Key
from teacher_server.ledger.ledger import Ledger
from teacher_server.teachers.catalogue import Catalogue
from teacher_server.teachers.teacher import Teacher

# What a request may be refused for that was answered when another version was the default.
_OTHER_THAN_IT_WAS = (ErrorCode.TEACHER_NOT_FOUND, ErrorCode.INVALID_IMAGES, ErrorCode.IDEMPOTENCY_KEY_REUSED)


@dataclass(frozen=True)
class LabelRequest:
    """One request, parsed but not yet decoded; by whom and under which names.

    ``disclosure`` is the policy that it is to be answered under or not at all, None where any will do.
    """

    key: Key
    teacher_name: str
    body: Body
    idempotency_key: str
    request_id: str
    version: str | None = None
    disclosure: str | None = None


class Labelling:
    """Answers label requests. Every method may be called from any thread."""

    def __init__(
        self,
        catalogue: Catalogue,
        ledger: Ledger,
        admission: Admission,
        limits: DecodingLimits,
        *,
        classifying_threads: int,
    ) -> None:
        self._catalogue = catalogue
        self._ledger = ledger
        self._admission = admission
        self._limits = limits
        # Requests that wait for their charge to reach the disk hold no processor.
        self._classifying = threading.BoundedSemaphore(classifying_threads)

    def teacher(self, name: str, version: str | None = None) -> Teacher:
        """The teacher of that name and version (default: its default version). Raises Refusal(teacher_not_found)."""
        if teacher := self._catalogue.find(name, version):
            return teacher
        if versions := self._catalogue.versions(name):
            raise Refusal(
                ErrorCode.TEACHER_NOT_FOUND,
                f"version is {version!r}; of teacher {name!r} this server has {', '.join(map(repr, versions))}",
            )
        raise Refusal(ErrorCode.TEACHER_NOT_FOUND, f"teacher is {name!r}; GET /v1/teachers lists those here")

    def require_answerable(self, key: Key, name: str, version: str | None, idempotency_key: str) -> None:
        """Raise Refusal(teacher_not_found) when there is nothing to answer from: no teacher and no earlier answer."""
        if self._catalogue.find(name, version) is None and not self._ledger.is_answered(key, idempotency_key):
            self.teacher(name, version)

    def answer(self, request: LabelRequest) -> Answered:
        """Decode, look for an earlier answer, classify, disclose, charge; only then is there an answer.

        A request that was answered by a version no longer served gets that answer again. Raises Refusal; nothing is
        charged then, except that a charge whose commit failed may have happened, which a replay under the same
        idempotency key finds out.
        """
        # Looked up once: what is exchanged from here on does not concern this request.
        try:
            return self._answer_by(self.teacher(request.teacher_name, request.version), request)
        except Refusal as refusal:
            if refusal.code in _OTHER_THAN_IT_WAS and (earlier := self._former_answer(request)):
                return earlier
            raise

    def _answer_by(self, teacher: Teacher, request: LabelRequest) -> Answered:
        with self._classifying:
            images_nhwc = decode_body(request.body, teacher.input, self._limits)
            digests = image_digests(images_nhwc)
        question = _question(request, digests)
        if earlier := self._ledger.find_answer(question):
            return self._again(earlier, request, images_nhwc)
        _require_disclosure(request)
        with self._admission.first(request.key, request.idempotency_key):
            # Looked for again: the same request may have ended since, and spent the very images that this one needs.
            found = self._ledger.find_answer(question)
            if found is None:
                found = self._bought(teacher, request, question, images_nhwc, digests)
        return self._again(found, request, images_nhwc)

    def _bought(
        self, teacher: Teacher, request: LabelRequest, question: Question, images_nhwc: Images, digests: list[bytes]
    ) -> Answered | Expired:
        """Classify, disclose and charge what has no answer yet. Raises Refusal."""
        with self._room(request, len(images_nhwc)):
            with self._classifying:
                probabilities_nk = teacher.classifier.probabilities(images_nhwc)
                computed = Computed(
                    version=teacher.version,
                    images=len(images_nhwc),
                    disclosed=self._disclosed(request.key, teacher, digests, probabilities_nk),
                    fingerprints=pack_fingerprints(images_nhwc, digests, probabilities_nk),
                    teacher_digest=teacher.content_digest,
                )
            return self._ledger.charge(question, computed, request_id=request.request_id)

    def _disclosed(
        self, key: Key, teacher: Teacher, digests: list[bytes], probabilities_nk: NDArray[np.float32]
    ) -> Disclosed:
        """What this key may see. Noise is made of the images' bytes alone, whoever asks and beside whatever else."""
        noise_nk = None
        if noise := key.disclosure.noise:
            secret = self._ledger.noise_secret(teacher.name, teacher.version)
            noise_nk = draw_noise(secret, digests, noise=noise, classes=probabilities_nk.shape[1])
        return disclose(probabilities_nk, key.disclosure, noise_nk)

    @contextmanager
    def _room(self, request: LabelRequest, images: int) -> Iterator[None]:
        """Room in the key's limits while its images are worked on; a refusal is told in the key's chain."""
        with self._admission.images(request.key, images) as ahead:
            try:
                self._ledger.require_room(request.key, images, ahead=ahead)
            except Refusal as refusal:
                self._ledger.note_refusal(request.key, refusal, images=images, teacher=request.teacher_name)
                raise
            yield

    def _again(self, found: Answered | Expired, request: LabelRequest, images_nhwc: Images) -> Answered:
        """The stored answer; or, where its values have expired, the same computed again, uncharged.

        Raises Refusal(answer_expired) when what would be computed now is not what was charged.
        """
        if isinstance(found, Answered):
            return found
        event = found.event
        teacher = self._catalogue.find(event.teacher, event.version)
        if (
            teacher is None
            or teacher.content_digest != event.teacher_digest
            or disclosure_digest(str(request.key.disclosure)) != event.disclosure_digest
            or (request.key.disclosure.noise and not self._ledger.find_noise_secret(event.teacher, event.version))
        ):
            raise Refusal(
                ErrorCode.ANSWER_EXPIRED,
                f"Idempotency-Key {request.idempotency_key!r} was answered at {event.at} and its values are not "
                f"stored any more; version {event.version!r} as it was, under the disclosure of then, is not served",
            )
        with self._classifying:
            probabilities_nk = teacher.classifier.probabilities(images_nhwc)
            digests = image_digests(images_nhwc)
            return found.recomputed(self._disclosed(request.key, teacher, digests, probabilities_nk))

    def _former_answer(self, request: LabelRequest) -> Answered | None:
        """What was answered under this idempotency key by a version that had another input, or is gone."""
        if not self._ledger.is_answered(request.key, request.idempotency_key):
            return None
        for spec in self._former_inputs(request):
            try:
                images_nhwc = decode_body(request.body, spec, self._limits)
                found = self._ledger.find_answer(_question(request, image_digests(images_nhwc)))
            except Refusal as refusal:
                if refusal.code is ErrorCode.LEDGER_UNAVAILABLE:
                    raise
                continue
            if found:
                return self._again(found, request, images_nhwc)
        return None

    def _former_inputs(self, request: LabelRequest) -> list[InputSpec]:
        """An array says itself what it is; image files are what the teacher's input makes of them."""
        if isinstance(request.body, NpyBody | TensorBody) and (spec := own_input(request.body)):
            return [spec]
        return self._catalogue.inputs_ever(request.teacher_name)


def _require_disclosure(request: LabelRequest) -> None:
    """What the owner changed after this was read, the charge finds out. Raises Refusal(disclosure_changed)."""
    present = str(request.key.disclosure)
    if request.disclosure not in (None, present):
        raise Refusal(
            ErrorCode.DISCLOSURE_CHANGED,
            f"Teacher-Disclosure is {request.disclosure[:80]!r}, but this key's is {present!r} now",
        )


def _question(request: LabelRequest, digests: list[bytes]) -> Question:
    digest = batch_digest(digests)
    return Question(request.key, request.idempotency_key, request.teacher_name, digest, request.version)
