"""A teacher described in a TOML file: where it is, what it answers, what it costs, and that asking it is allowed.

What every kind of teacher has stands here; an adapter adds what only its protocol has.
"""

import os
import re
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Self

from pydantic import Field, StrictInt, StrictStr, field_validator, model_validator

from distill_client.config import Positive, Section
from distill_client.errors import ConfigError
from distill_client.teachers.label_map import ERROR, POOL, REJECT, LabelMap
from distill_client.teachers.paid.allowance import Allowance
from distill_client.teachers.protocol import Capabilities, InputForm
from distill_client.teachers.transport import Sign
from distill_client.teachers.upscaling import Method, Upscaling
from shared.wire.contracts import Disclosure, InputSpec, Usage

_SECRET_PATTERN = re.compile(r"[\x21-\x7e]+")
_CALL_BYTES_MAX = 1 << 40  # where the file does not say how much a call may hold


class TeacherFile(Section):
    """The keys that every teacher's file may have."""

    kind: str
    name: str = Field(min_length=1, max_length=200, description="what the run calls the teacher")
    version: str = Field("1", min_length=1, description="raise it when the teacher behind the address changes")
    url: str = Field(description="http or https; what the teacher's address begins with")
    secret_variable: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="the environment variable that holds the key"
    )
    i_have_permission: bool = Field(False, description="that its terms allow to train a model on its answers")

    classes: list[str] = Field(min_length=2, description="our classes, in the order of our indices")
    image_size: str = Field(
        pattern=r"^[1-9][0-9]{0,3}x[1-9][0-9]{0,3}x[13]$", description="height x width x channels of what is asked"
    )
    answers: str = Field("probabilities", description="probabilities, top-k:K or label")
    label_map: dict[str, Annotated[StrictStr | StrictInt, Field(union_mode="smart")]] = Field(
        {}, description="their names or ids of classes, each with our class's name or index"
    )
    unmapped: str = Field(
        ERROR, description="what becomes of answers that are none of ours: error, reject, pool:CLASS"
    )
    fold_labels: bool = Field(False, description="whether case and spaces in their names make no difference")
    min_size: str | None = Field(
        None, pattern=r"^[1-9][0-9]{0,3}x[1-9][0-9]{0,3}$", description="height x width that images are enlarged to"
    )
    upscale: Method = Field("nearest", description="how: pixels repeated a whole number of times, or bicubic")
    images_per_call: Positive = 1
    call_bytes_max: Positive | None = None
    timeout_s: float = Field(60.0, gt=0, le=60, description="how long one call may take before it counts as lost")
    honours_idempotency: bool = Field(False, description="whether a call repeated with its key is charged once")

    max_queries: Positive = Field(description="images that a run may buy, at most; the client counts them itself")
    price_per_image: Decimal = Field(Decimal(0), ge=0)
    max_cost: Decimal | None = Field(None, gt=0, description="in the currency of price_per_image")
    currency: str = Field("USD", min_length=1, max_length=10)

    @field_validator("answers")
    @classmethod
    def _require_disclosure(cls, text: str) -> str:
        return str(Disclosure.parse(text))

    @field_validator("classes")
    @classmethod
    def _require_different(cls, classes: list[str]) -> list[str]:
        if len(set(classes)) != len(classes) or "" in classes:
            raise ValueError("two classes have the same name, or one has none")
        return classes

    @model_validator(mode="after")
    def _map_to_our_classes(self) -> Self:
        for name, ours in self.label_map.items():
            if (ours not in self.classes) if isinstance(ours, str) else not 0 <= ours < len(self.classes):
                raise ValueError(
                    f"label_map.{name} is {ours!r}; allowed are the classes' names and 0 to {len(self.classes) - 1}"
                )
        if self.unmapped not in (REJECT, ERROR, *(POOL + name for name in self.classes)):
            raise ValueError(
                f"unmapped is {self.unmapped!r}; allowed: {REJECT!r}, {ERROR!r}, '{POOL}CLASS' with a class of ours"
            )
        try:
            _ = self.labels
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _cost_needs_a_price(self) -> Self:
        if self.max_cost is not None and not self.price_per_image:
            raise ValueError("max_cost needs a price_per_image above 0")
        return self

    @property
    def granted(self) -> int:
        """Images that may be bought: ``max_queries``, or fewer where ``max_cost`` pays for fewer."""
        return self.allowance.granted()

    @property
    def allowance(self) -> Allowance:
        """What a run may buy, as its own ledger enforces it."""
        return Allowance(self.max_queries, self.price_per_image, self.max_cost, self.currency)

    @property
    def image_hwc(self) -> tuple[int, int, int]:
        """``image_size`` as numbers."""
        height, width, channels = map(int, self.image_size.split("x"))
        return height, width, channels

    @property
    def upscaling(self) -> Upscaling | None:
        """How images are enlarged before they are sent; None where they are not."""
        if self.min_size is None:
            return None
        height, width = map(int, self.min_size.split("x"))
        return Upscaling.to_reach(*self.image_hwc[:2], (height, width), self.upscale)

    @property
    def sent_hwc(self) -> tuple[int, int, int]:
        """Height, width and channels of the images as they are sent."""
        enlarged = self.upscaling
        return self.image_hwc if enlarged is None else (enlarged.height, enlarged.width, self.image_hwc[2])

    @cached_property
    def labels(self) -> LabelMap:
        """Their classes to ours; remembers which names came, for as long as this object lives."""
        names = {name: ours if isinstance(ours, str) else self.classes[ours] for name, ours in self.label_map.items()}
        return LabelMap(self.classes, names, unmapped=self.unmapped, folds=self.fold_labels)

    @property
    def address(self) -> str:
        """``url`` with whatever the kind of teacher fills into it."""
        return self.url

    def secret(self) -> str | None:
        """The key, from the environment; None where the teacher wants none. Raises ConfigError."""
        if self.secret_variable is None:
            return None
        secret = os.environ.get(self.secret_variable, "")
        if not _SECRET_PATTERN.fullmatch(secret):
            raise ConfigError(
                f"{self.secret_variable}, which secret_variable names, is not set or holds spaces, line breaks or "
                "other characters that no key has; put the teacher's key into it"
            )
        return secret

    def secret_texts(self) -> tuple[str, ...]:
        """Every key that is sent. Raises ConfigError."""
        secret = self.secret()
        return () if secret is None else (secret,)

    def signer(self) -> Sign | None:
        """What signs each request right before it is sent; None where nothing does. Raises ConfigError."""
        return None

    def capabilities(self, input_form: InputForm, **more: object) -> Capabilities:
        """What the file says of the teacher; ``more`` is what the adapter knows besides."""
        height, width, channels = self.image_hwc
        enlarged = self.upscaling
        content: dict[str, object] = {
            "name": self.name,
            "version": self.version,
            "classes": self.classes,
            "input": InputSpec.model_validate({"height": height, "width": width, "channels": channels}),
            "preprocessing": f"{enlarged}, then sent as {input_form}" if enlarged else f"sent as {input_form}",
            "upscaled_to": f"{enlarged.height}x{enlarged.width}" if enlarged else None,
            "has_permission": self.i_have_permission,
            "is_closed_set": self.unmapped == ERROR,
            "images_per_request_max": self.images_per_call,
            "body_bytes_max": self.call_bytes_max or _CALL_BYTES_MAX,
            "disclosure": self.answers,
            "budget": Usage(granted=self.granted, spent=0, remaining=self.granted),
            "input_form": input_form,
            "reports_usage": False,
            "honours_idempotency": self.honours_idempotency,
        }
        return Capabilities.model_validate(content | more)


def is_teacher_file(target: str) -> bool:
    """Whether what was given as a teacher is a file and not an address."""
    return target.endswith(".toml")
