"""The spine: one request from bytes to a charged answer, read from top to bottom."""

from dataclasses import dataclass

from shared.wire.error_codes import ErrorCode
from shared.wire.images import batch_digest, image_digests
from teacher_server.admission import Admission
from teacher_server.decoding import Body, DecodingLimits, decode_body
from teacher_server.disclosure import disclose
from teacher_server.errors import Refusal
from teacher_server.fingerprints import pack_fingerprints
from teacher_server.ledger.charging import Answered, Computed, Question
from teacher_server.ledger.keys import Key
from teacher_server.ledger.ledger import Ledger
from teacher_server.teachers.teacher import Teacher


@dataclass(frozen=True)
class LabelRequest:
    """One request, parsed but not yet decoded; by whom and under which names."""

    key: Key
    teacher_name: str
    body: Body
    idempotency_key: str
    request_id: str


class Labelling:
    """Answers label requests. Every method may be called from any thread."""

    def __init__(
        self, teachers: dict[str, Teacher], ledger: Ledger, admission: Admission, limits: DecodingLimits
    ) -> None:
        self._teachers = teachers
        self._ledger = ledger
        self._admission = admission
        self._limits = limits

    def teacher(self, name: str) -> Teacher:
        """The teacher of that name. Raises Refusal(teacher_not_found)."""
        if name not in self._teachers:
            raise Refusal(ErrorCode.TEACHER_NOT_FOUND, f"teacher is {name!r}; GET /v1/teachers lists those here")
        return self._teachers[name]

    def answer(self, request: LabelRequest) -> Answered:
        """Decode, look for an earlier answer, classify, disclose, charge; only then is there an answer.

        Raises Refusal; nothing is charged then, except that a charge whose commit failed may have happened, which
        a replay under the same idempotency key finds out.
        """
        teacher = self.teacher(request.teacher_name)
        images_nhwc = decode_body(request.body, teacher.input, self._limits)
        digests = image_digests(images_nhwc)
        question = Question(request.key, request.idempotency_key, teacher.name, batch_digest(digests))
        if earlier := self._ledger.find_answer(question):
            return earlier
        with self._admission.images(request.key, len(images_nhwc)):
            probabilities_nk = teacher.classifier.probabilities(images_nhwc)
            computed = Computed(
                version=teacher.version,
                images=len(images_nhwc),
                disclosed=disclose(probabilities_nk, request.key.disclosure),
                fingerprints=pack_fingerprints(images_nhwc, digests, probabilities_nk),
            )
            return self._ledger.charge(question, computed, request_id=request.request_id)
