"""A teacher described in a TOML file: where it is, what it answers, what it costs, and that asking it is allowed.

What every kind of teacher has stands here; an adapter adds what only its protocol has.
"""

import os
import re
from decimal import Decimal
from typing import Self

from pydantic import Field, field_validator, model_validator

from distill_client.config import Positive, Section
from distill_client.errors import ConfigError
from distill_client.teachers.protocol import Capabilities, InputForm
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
    images_per_call: Positive = 1
    call_bytes_max: Positive | None = None
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
    def _cost_needs_a_price(self) -> Self:
        if self.max_cost is not None and not self.price_per_image:
            raise ValueError("max_cost needs a price_per_image above 0")
        return self

    @property
    def granted(self) -> int:
        """Images that may be bought: ``max_queries``, or fewer where ``max_cost`` pays for fewer."""
        if self.max_cost is None:
            return self.max_queries
        return min(self.max_queries, int(self.max_cost / self.price_per_image))

    @property
    def image_hwc(self) -> tuple[int, int, int]:
        """``image_size`` as numbers."""
        height, width, channels = map(int, self.image_size.split("x"))
        return height, width, channels

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

    def capabilities(self, input_form: InputForm, **more: object) -> Capabilities:
        """What the file says of the teacher; ``more`` is what the adapter knows besides."""
        height, width, channels = self.image_hwc
        content: dict[str, object] = {
            "name": self.name,
            "version": self.version,
            "classes": self.classes,
            "input": InputSpec.model_validate({"height": height, "width": width, "channels": channels}),
            "preprocessing": f"sent as {input_form}",
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
