"""The keys of a teacher's file of kind custom-http."""

import re
import urllib.parse
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, field_validator, model_validator

from distill_client.config import Section
from distill_client.errors import Charged
from distill_client.teachers.adapters.custom_http.credentials import HEADER_NAME, Aws, Secret, aws_signer
from distill_client.teachers.adapters.custom_http.templates import (
    fill_text,
    parse_template,
    placeholders,
    require_known,
)
from distill_client.teachers.encoding import FileForm
from distill_client.teachers.expressions import JmesPath, Pattern
from distill_client.teachers.manners.signals import Signal
from distill_client.teachers.teacher_file import TeacherFile
from distill_client.teachers.transport import Sign
from shared.wire.contracts import Disclosure

Constant = StrictStr | StrictInt | StrictFloat | StrictBool
HeaderName = Annotated[str, Field(pattern=HEADER_NAME)]
HeaderText = Annotated[str, Field(pattern=r"^[\x20-\x7e]*$")]
FieldName = Annotated[str, Field(pattern=r'^[^"\r\n\\]+$')]

OF_EVERY_REQUEST = frozenset({"class_count", "idempotency_key", "media_type"})
OF_AN_IMAGE = frozenset({"image_base64", "image_data_uri"})
# A run keeps a copy of the file: no key may stand in it.
_KEYS_HEADERS = {"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key"}
_KEYS_HEADERS |= {"prediction-key", "ocp-apim-subscription-key", "x-auth-token"}
_KEYS_FIELDS = {"api_key", "apikey", "key", "token", "access_token"}


class RequestShape(Section):
    """What is sent for the images of one call."""

    method: Literal["POST", "PUT"] = "POST"
    headers: dict[HeaderName, HeaderText] = Field(
        {}, description="besides Accept and Content-Type, which may be set too"
    )
    query: dict[str, str] = Field({}, description="parameters of the address")
    encoding: FileForm = Field("png", description="of the image files; jpeg changes what is asked")
    body: Literal["json", "file", "base64", "multipart"] = Field("json", description="what the body is")
    template: Any = Field(None, description="the JSON body, as TOML or as a text")
    each: Any = Field("{image_base64}", description="what {images} in the template is a list of, one per image")
    file_field: FieldName = Field("file", description="the multipart field of an image; repeated for several")
    fields: dict[FieldName, str] = Field({}, description="further multipart fields")

    @field_validator("template", "each")
    @classmethod
    def _parse(cls, template: Any, info: Any) -> Any:
        return parse_template(template, f"request.{info.field_name}")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.body == "json") != (self.template is not None):
            raise ValueError("template is the body where body is 'json', and only there")
        if self.fields and self.body != "multipart":
            raise ValueError("fields are of body = 'multipart'")
        return self

    @property
    def takes_several(self) -> bool:
        """Whether one call may carry several images."""
        return self.body == "multipart" or (self.body == "json" and "images" in placeholders(self.template))


class ItemSignal(Section):
    """What it means that one image of a call has an error whose text, or JSON, has this pattern in it."""

    pattern: Pattern = ""
    retryable: bool = False
    charged: Charged = "unknown"

    def fits(self, text: str) -> bool:
        """Whether the error's text is this."""
        return re.search(self.pattern, text) is not None


class ReplyShape(Section):
    """Where the answer stands in a reply's JSON; every expression but ``images`` begins at one image's part of it."""

    images: JmesPath | None = Field(
        None, description="the list with one part per image; without it, all is one image's"
    )
    rows: JmesPath | None = Field(None, description="a list of one entry per class")
    label: JmesPath | None = Field(None, description="a class's name, in each of rows; alone, the one label")
    score: JmesPath | None = Field(None, description="its score, in each of rows")
    labels: JmesPath | None = Field(None, description="a list of names, beside the list scores")
    scores: JmesPath | None = Field(None, description="their scores; alone, by name, or in the order of classes")
    scale: float = Field(1.0, gt=0, description="what a score of 1 is given as: 100 for per cent")
    logits: bool = Field(False, description="whether scores are logits; softmax is done here")
    independent: bool = Field(
        False, description="whether each score stands alone; those of an image may exceed 1 together, and are scaled"
    )
    minimum_score: float = Field(0.0, ge=0, lt=1, description="scores below it, after scaling, are not used")
    may_be_empty: bool = Field(False, description="whether an image without any label is an answer that says nothing")
    error: JmesPath | None = Field(None, description="one image's error; null, false and empty are none")
    item_signals: list[ItemSignal] = Field([], description="what such errors mean; the first that fits")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        names = ("rows", "label", "score", "labels", "scores")
        given = {name for name in names if getattr(self, name) is not None}
        if given not in ({"rows", "label", "score"}, {"labels", "scores"}, {"scores"}, {"label"}):
            raise ValueError(
                f"given are {', '.join(sorted(given)) or 'none'} of {', '.join(names)}; allowed are rows with label "
                "and score, labels with scores, scores alone, or label alone"
            )
        if self.item_signals and self.error is None:
            raise ValueError("item_signals need error, the expression that finds one image's error")
        return self


class CustomHttpFile(TeacherFile):
    """``url`` may hold constants as {name}; ``[request]`` and ``[reply]`` say the rest."""

    kind: Literal["custom-http"]
    constants: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Constant] = Field(
        {}, description="values for {name} in url, headers, query and templates"
    )
    secrets: list[Secret] = Field([], description="keys, by the variables that hold them")
    auth: Literal["none", "aws-sigv4"] = Field("none", description="what signs requests")
    aws: Aws | None = None
    request: RequestShape
    reply: ReplyShape
    signals: list[Signal] = Field([], description="this teacher's own, looked at before everybody's")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._check_placeholders()
        self._check_keys()
        if self.images_per_call > 1 and not (self.request.takes_several and self.reply.images is not None):
            raise ValueError(
                f"images_per_call is {self.images_per_call}; more than 1 needs {{images}} in request.template (or "
                "body = 'multipart') and reply.images"
            )
        disclosed = Disclosure.parse(self.answers).kind
        if disclosed != "label" and self.reply.label is not None and self.reply.rows is None:
            raise ValueError(f"answers is {self.answers!r}, and reply.label alone gives no more than 'label'")
        if disclosed == "top-k" and self.reply.logits:
            raise ValueError(f"answers is {self.answers!r}; the softmax of logits needs those of all classes")
        if (self.auth == "aws-sigv4") != (self.aws is not None):
            raise ValueError("auth = 'aws-sigv4' and the section aws belong together")
        return self

    def _check_placeholders(self) -> None:
        clash = self.constants.keys() & (OF_EVERY_REQUEST | OF_AN_IMAGE | {"images", "region" if self.aws else ""})
        if clash:
            raise ValueError(f"constants.{min(clash)} has the name of a placeholder that is filled anyway")
        known = self._fixed.keys() | OF_EVERY_REQUEST
        request = self.request
        require_known(self.url, self._fixed.keys(), "url")
        for key, texts in (("headers", request.headers), ("query", request.query), ("fields", request.fields)):
            require_known(texts, known, f"request.{key}")
        if request.template is None:
            return
        several = "images" in placeholders(request.template)
        require_known(request.template, known | ({"images"} if several else OF_AN_IMAGE), "request.template")
        require_known(request.each, known | OF_AN_IMAGE, "request.each")
        if not placeholders(request.each if several else request.template) & OF_AN_IMAGE:
            raise ValueError("request.template never says where the image goes: {image_base64}, {image_data_uri}")

    def _check_keys(self) -> None:
        address = urllib.parse.urlsplit(fill_text(self.url, dict.fromkeys(placeholders(self.url), "x")))
        if address.username is not None or address.password is not None:
            raise ValueError("url holds a user's name or password; put it into a variable and use secrets")
        named = {name for name, _ in urllib.parse.parse_qsl(address.query, keep_blank_values=True)}
        for where, names, forbidden in (
            ("request.headers", self.request.headers, _KEYS_HEADERS),
            ("request.query", self.request.query, _KEYS_FIELDS),
            ("request.fields", self.request.fields, _KEYS_FIELDS),
            ("url", named, _KEYS_FIELDS),
        ):
            for name in names:
                if name.lower() in forbidden:
                    raise ValueError(f"{where} holds {name}, which is a key; a run keeps this file: use secrets")
        for secret in self.secrets:
            if secret.field is None:
                continue
            if self.request.body != "multipart" and not isinstance(self.request.template, dict):
                raise ValueError(f"secrets: field {secret.field!r} needs a body that is a JSON object, or multipart")
        places = [(secret.header or "").lower() for secret in self.secrets if secret.header]
        places += ["authorization"] if self.secret_variable is not None or self.auth != "none" else []
        if len(set(places)) != len(places):
            raise ValueError("secrets, secret_variable and auth send the same header twice")

    @property
    def address(self) -> str:
        """``url`` with its constants, each quoted as a part of an address."""
        return fill_text(
            self.url, {name: urllib.parse.quote(str(value), safe="") for name, value in self.filled({}).items()}
        )

    def filled(self, more: Mapping[str, object]) -> dict[str, object]:
        """What placeholders stand for: the constants, ``class_count``, ``region`` of AWS, and ``more``."""
        return {**self._fixed, **more}

    @property
    def _fixed(self) -> dict[str, object]:
        region = {} if self.aws is None else {"region": self.aws.region}
        return {**self.constants, **region, "class_count": len(self.classes)}

    def secret_texts(self) -> tuple[str, ...]:
        """Every key that is sent. Raises ConfigError."""
        return (*super().secret_texts(), *(secret.read() for secret in self.secrets))

    def signer(self) -> Sign | None:
        """What signs each request; None where nothing does. Raises ConfigError."""
        return None if self.aws is None else aws_signer(self.aws)
