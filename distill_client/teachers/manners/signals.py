"""What other people's servers mean by their refusals: one table, from status and body to what is to be done.

Vendors do not agree: AWS throttles with 400, OpenAI's 429 has two meanings, Hugging Face's credits end with 402 and
Clarifai puts its codes into the body. A teacher's own signals are looked at first, the common ones after them.
"""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from distill_client.errors import BudgetExhausted, Charged, TeacherRefused
from distill_client.teachers.manners.patience import Pressure, Retryable, retry_after_s
from distill_client.teachers.transport import HttpReply

Meaning = Literal["throttled", "exhausted", "overloaded", "bad_request", "unauthorised", "unknown_outcome"]

_PRESSURES: dict[Meaning, Pressure] = {"throttled": "throttled", "overloaded": "overloaded"}
_SHOWN_CHARACTERS = 300


class Signal(BaseModel):
    """A reply that has this status (any, where none is given) and this text in its body means that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    meaning: Meaning
    status: tuple[int, ...] = ()
    body: str = Field("", description="a regular expression that is searched for in the body; empty fits every body")
    charged: Charged = "no"

    def fits(self, reply: HttpReply, text: str) -> bool:
        """Whether the reply is this signal."""
        return (not self.status or reply.status in self.status) and re.search(self.body, text) is not None


COMMON = (
    Signal(meaning="throttled", status=(429,)),
    Signal(meaning="exhausted", status=(402,)),
    Signal(meaning="unauthorised", status=(401, 403)),
    Signal(meaning="overloaded", status=(503,)),
    Signal(meaning="unknown_outcome", status=(408, 500, 502, 504), charged="unknown"),
)


def failure_of(reply: HttpReply, own: Sequence[Signal] = ()) -> Exception:
    """The error that a reply without an answer means: Retryable, TeacherRefused or BudgetExhausted.

    ``x-should-retry`` (true or false), where it is sent, decides over the table whether asking again may help.
    """
    text = reply.content[:65_536].decode("utf-8", errors="replace")
    found = next((signal for signal in (*own, *COMMON) if signal.fits(reply, text)), None)
    if found is None:
        is_server_fault = reply.status >= 500
        found = Signal(
            meaning="unknown_outcome" if is_server_fault else "bad_request",
            charged="unknown" if is_server_fault else "no",
        )
    message = f"{reply.url}: HTTP {reply.status}, {found.meaning}: {text[:_SHOWN_CHARACTERS].strip() or 'no text'}"
    should_retry = reply.headers.get("x-should-retry", "").strip().lower()
    is_retryable = found.meaning in ("throttled", "overloaded", "unknown_outcome")
    if should_retry == "true" or (is_retryable and should_retry != "false"):
        return Retryable(
            message,
            after_s=retry_after_s(reply.headers.get("retry-after", "")),
            pressure=_PRESSURES.get(found.meaning, ""),
            charged=found.charged,
        )
    if found.meaning == "exhausted":
        return BudgetExhausted(message, granted=0, spent=0)
    return TeacherRefused(message, code=found.meaning)
