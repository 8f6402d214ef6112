"""OpenAI's chat completions, and the many servers that speak them: one image a call, one class's name as the answer.

Only the label is to be relied on. Of log-probabilities, where the model gives them, ``token_scores`` makes scores.
"""

import base64
import builtins
import json
import re
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.adapters.json_reply import read_json, shown
from distill_client.teachers.adapters.scores import arrange_by_name, distributions_of
from distill_client.teachers.adapters.token_scores import Token, class_scores, probability_of
from distill_client.teachers.encoding import (
    MEDIA_TYPES,
    FileForm,
    base64_bytes,
    encode_image,
    file_bytes_max,
    images_that_fit,
)
from distill_client.teachers.manners.signals import Signal, failure_of, signal_of
from distill_client.teachers.protocol import Answer, Capabilities, Values
from distill_client.teachers.teacher_file import TeacherFile
from distill_client.teachers.transport import HttpReply, HttpRequest
from shared.wire.contracts import Disclosure

_TOP_LOGPROBS_MAX = 20
_PROMPT = "Which of these classes does the picture show? Answer with exactly one of them: {classes}"
_JSON_BEGINS = re.compile(r'\s*\{\s*"class"\s*:\s*"')
# A picture that a filter does not let through is answered with 400 and was looked at: nothing is learnt, and who
# asks again is refused again.
_FILTERED = Signal(
    meaning="bad_request",
    status=(400,),
    path="error.[code, type][] | join(' ', @)",
    body=r"\b(content_filter|content_policy_violation)\b",
    charged="yes",
)


class OpenAIChatFile(TeacherFile):
    """``url`` is what comes before /chat/completions, such as https://api.openai.com/v1."""

    kind: Literal["openai-chat"]
    model: str = Field(min_length=1, description="its name at the server")
    served_model: str | None = Field(
        None, description="what replies must name as their model, where it is to be held"
    )
    prompt: str = Field(_PROMPT, min_length=1, description="{classes} is where the classes' names are put")
    structure: Literal["json_schema", "choice", "none"] = Field(
        "json_schema", description="how the model is held to the classes; choice is vLLM's structured_outputs"
    )
    encoding: FileForm = "png"
    detail: Literal["low", "high", "auto"] = "auto"
    answers: str = Field("label", description="label; or top-k:K, K <= 20, from log-probabilities")
    max_tokens: int = Field(64, ge=1)
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = "max_completion_tokens"
    seed: int = 0
    leave_out: list[Literal["temperature", "seed", "detail"]] = Field([], description="what the server does not take")

    @model_validator(mode="after")
    def _answers_can_be_had(self) -> Self:
        disclosed = Disclosure.parse(self.answers)
        if disclosed.kind == "probabilities" or disclosed.k > _TOP_LOGPROBS_MAX:
            raise ValueError(
                f"answers is {self.answers!r}; allowed are label and top-k:1 to top-k:{_TOP_LOGPROBS_MAX}"
            )
        if self.images_per_call != 1:
            raise ValueError(f"images_per_call is {self.images_per_call}; allowed is 1")
        return self


class _Reading(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Alternative(_Reading):
    token: str
    logprob: float = Field(allow_inf_nan=False)
    bytes: list[Annotated[int, Field(ge=0, le=255)]] | None = None

    @property
    def raw(self) -> builtins.bytes:
        """The token's bytes; a token may end inside a character."""
        return self.token.encode() if self.bytes is None else builtins.bytes(self.bytes)


class _Token(_Alternative):
    top_logprobs: list[_Alternative] = []


class _LogProbabilities(_Reading):
    content: list[_Token] | None = None


class _Message(_Reading):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Reading):
    message: _Message
    finish_reason: str | None = None
    logprobs: _LogProbabilities | None = None


class _Completion(_Reading):
    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None


class OpenAIChatAdapter:
    """Satisfies ``Adapter``."""

    def __init__(self, file: OpenAIChatFile) -> None:
        self._file = file
        images_that_fit(file, base64_bytes(file_bytes_max(file.sent_hwc)))
        self.capabilities: Capabilities = file.capabilities(file.encoding, images_per_request_max=1)
        self._prompt = file.prompt.replace("{classes}", ", ".join(file.classes))

    def first_look(self) -> HttpRequest | None:
        """See Adapter: there is none that all of these servers have."""
        return None

    def read_first_look(self, reply: HttpReply) -> None:
        """See Adapter."""

    def request(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> HttpRequest:
        """See Adapter."""
        file = self._file
        encoded = base64.b64encode(encode_image(images_nhwc[0], file.encoding)).decode("ascii")
        image = {"url": f"data:{MEDIA_TYPES[file.encoding]};base64,{encoded}", "detail": file.detail}
        if "detail" in file.leave_out:
            del image["detail"]
        parts = [{"type": "text", "text": self._prompt}, {"type": "image_url", "image_url": image}]
        body: dict[str, Any] = {
            "model": file.model,
            "messages": [{"role": "user", "content": parts}],
            file.max_tokens_key: file.max_tokens,
            "temperature": 0,
            "seed": file.seed,
            **_structure(file),
        }
        if Disclosure.parse(file.answers).kind == "top-k":
            body |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS_MAX}
        body = {key: value for key, value in body.items() if key not in file.leave_out}
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        url = f"{file.url.rstrip('/')}/chat/completions"
        return HttpRequest("POST", url, headers, json.dumps(body, separators=(",", ":")).encode("ascii"))

    def read(self, reply: HttpReply, images: int) -> Answer:
        """See Adapter; a picture that the model refuses was paid for, and says nothing."""
        if not reply.is_success:
            found = signal_of(reply, (_FILTERED,))
            if found is not _FILTERED:
                raise failure_of(reply, found=found)
            scores: dict[str, float] = {}
        else:
            scores = self._scores(reply)
        return Answer(self._values(scores), self._file.version, self._file.answers, charged=images)

    def _values(self, scores: dict[str, float]) -> Values:
        return distributions_of(arrange_by_name([scores], self._file), self._file)

    def _scores(self, reply: HttpReply) -> dict[str, float]:
        try:
            completion = _Completion.model_validate(read_json(reply))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise TeacherProtocolError(f"{reply.url}: no chat completion: {where}: {fault['msg']}") from error
        file, choice = self._file, completion.choices[0]
        if file.served_model is not None and completion.model != file.served_model:
            raise TeacherProtocolError(
                f"{reply.url}: model {shown(completion.model)} answers; served_model is {file.served_model!r}"
            )
        if choice.message.refusal or choice.finish_reason == "content_filter":
            return {}
        text = choice.message.content or ""
        if choice.finish_reason == "length":
            raise TeacherProtocolError(f"{reply.url}: cut off after max_tokens ({file.max_tokens}): {shown(text)}")
        name = _class_of(text, file)
        disclosed = Disclosure.parse(file.answers)
        if disclosed.kind == "label":
            return {name: 1.0}
        scores = _from_tokens(choice, text, file)
        if name not in scores:
            raise TeacherProtocolError(
                f"{reply.url}: no log-probabilities for {shown(name)}; the file should say answers = 'label'"
            )
        kept = sorted(scores, key=lambda each: (each != name, -scores[each]))[: disclosed.k]
        return {each: scores[each] for each in kept}


def _structure(file: OpenAIChatFile) -> dict[str, Any]:
    """What holds the model to the classes."""
    if file.structure == "choice":
        return {"structured_outputs": {"choice": file.classes}}
    if file.structure == "none":
        return {}
    schema = {
        "type": "object",
        "properties": {"class": {"type": "string", "enum": file.classes}},
        "required": ["class"],
        "additionalProperties": False,
    }
    wanted = {"name": "classification", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


def _class_of(text: str, file: OpenAIChatFile) -> str:
    if file.structure != "json_schema":
        name = text.strip()
        return name if name in file.classes or file.structure == "choice" else name.strip("\"'`*. ")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TeacherProtocolError(f"the model answered {shown(text)}; expected is JSON of the schema") from error
    if not isinstance(found, dict) or not isinstance(found.get("class"), str):
        raise TeacherProtocolError(f"the model answered {shown(text)}; expected is {{'class': NAME}}")
    return str(found["class"])


def _from_tokens(choice: _Choice, text: str, file: OpenAIChatFile) -> dict[str, float]:
    tokens = [
        Token(
            each.raw,
            probability_of(each.logprob),
            {other.raw: probability_of(other.logprob) for other in each.top_logprobs},
        )
        for each in (choice.logprobs.content if choice.logprobs else None) or []
    ]
    if not b"".join(token.written for token in tokens).startswith(text.rstrip().encode()):
        return {}
    if file.structure == "json_schema":
        begins = _JSON_BEGINS.match(text)
        names = {name: json.dumps(name, ensure_ascii=False)[1:].encode() for name in file.classes}
        return class_scores(tokens, names, len(begins[0].encode())) if begins else {}
    start = len(text) - len(text.lstrip())
    return class_scores(tokens, {name: name.encode() for name in file.classes}, start)
