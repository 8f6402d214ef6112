"""The spine: one request from bytes to a charged answer, read from top to bottom."""

from dataclasses import dataclass

from shared.wire.contracts import InputSpec
from shared.wire.error_codes import ErrorCode
from shared.wire.images import batch_digest, image_digests
from teacher_server.admission import Admission
from teacher_server.decoding import Body, DecodingLimits, NpyBody, decode_body, own_input
from teacher_server.disclosure import disclose
from teacher_server.errors import Refusal
from teacher_server.fingerprints import pack_fingerprints
from teacher_server.ledger.charging import Answered, Computed, Question
from teacher_server.ledger.keys import Key
from teacher_server.ledger.ledger import Ledger
from teacher_server.teachers.catalogue import Catalogue
from teacher_server.teachers.teacher import Teacher

# What a request may be refused for that was answered when another version was the default.
_OTHER_THAN_IT_WAS = (ErrorCode.TEACHER_NOT_FOUND, ErrorCode.INVALID_IMAGES, ErrorCode.IDEMPOTENCY_KEY_REUSED)


@dataclass(frozen=True)
class LabelRequest:
    """One request, parsed but not yet decoded; by whom and under which names."""

    key: Key
    teacher_name: str
    body: Body
    idempotency_key: str
    request_id: str
    version: str | None = None


class Labelling:
    """Answers label requests. Every method may be called from any thread."""

    def __init__(self, catalogue: Catalogue, ledger: Ledger, admission: Admission, limits: DecodingLimits) -> None:
        self._catalogue = catalogue
        self._ledger = ledger
        self._admission = admission
        self._limits = limits

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
        images_nhwc = decode_body(request.body, teacher.input, self._limits)
        digests = image_digests(images_nhwc)
        question = _question(request, digests)
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

    def _former_answer(self, request: LabelRequest) -> Answered | None:
        """What was answered under this idempotency key by a version that had another input, or is gone."""
        if not self._ledger.is_answered(request.key, request.idempotency_key):
            return None
        for spec in self._former_inputs(request):
            try:
                digests = image_digests(decode_body(request.body, spec, self._limits))
                return self._ledger.find_answer(_question(request, digests))
            except Refusal as refusal:
                if refusal.code is ErrorCode.LEDGER_UNAVAILABLE:
                    raise
        return None

    def _former_inputs(self, request: LabelRequest) -> list[InputSpec]:
        """An array says itself what it is; image files are what the teacher's input makes of them."""
        if isinstance(request.body, NpyBody) and (spec := own_input(request.body)):
            return [spec]
        return self._catalogue.inputs_ever(request.teacher_name)


def _question(request: LabelRequest, digests: list[bytes]) -> Question:
    digest = batch_digest(digests)
    return Question(request.key, request.idempotency_key, request.teacher_name, digest, request.version)
