"""What a key may see of an answer: one policy, one canonical text.

The text stands in the teacher's card, in every event and, by its digest, in every receipt: no two texts mean the
same, and none ever changes its meaning.
"""

import re
from dataclasses import dataclass
from typing import Literal, Self

PROBABILITY_DECIMALS = 6  # of a policy that names none, and the most that any may name
TOP_K_MAX = 99_999
TEMPERATURE_MIN, TEMPERATURE_MAX = 0.1, 100.0
# A ladder, because each step adds a draw of its own: two keys on different steps learn no more than the lower one.
NOISE_STEPS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

NOISE_ALLOWED = ", ".join(f"{step:g}" for step in NOISE_STEPS)
TEMPERATURE_ALLOWED = f"{TEMPERATURE_MIN:g} to {TEMPERATURE_MAX:g} with at most two decimals"

_KIND = r"(?P<kind>probabilities|label|top-k:(?P<k>[1-9][0-9]{0,4}))"
_NUMBER = r"[0-9]{1,3}(?:\.[0-9]{1,2})?"
_TEXT = re.compile(
    rf"{_KIND}(?:;temperature=(?P<temperature>{_NUMBER}))?(?:;noise=(?P<noise>{_NUMBER}))?(?:;decimals=(?P<decimals>[0-9]))?"
)
_ALLOWED = "allowed are probabilities, top-k:K (K >= 1) and label, then perhaps ;temperature=T ;noise=S ;decimals=D"


@dataclass(frozen=True)
class Disclosure:
    """What is done to a teacher's probabilities before a key sees them, in this order.

    ``temperature``: p ** (1 / T), renormalised; 1 for none. ``noise``: the standard deviation, at temperature 1, of
    what is added to log-probabilities; 0 for none. ``kind``, ``k``: all probabilities, the ``k`` largest, or the
    largest one's label. ``decimals``: rows are rounded so that they stay distributions; None, as in the policies of
    before all this, rounds each number to 6 decimals by itself. Raises ValueError that names the field.
    """

    kind: Literal["probabilities", "top-k", "label"]
    k: int = 0
    temperature: float = 1.0
    noise: float = 0.0
    decimals: int | None = None

    def __post_init__(self) -> None:
        if self.kind == "top-k" and not 1 <= self.k <= TOP_K_MAX:
            raise ValueError(f"k of top-k is {self.k}; allowed are 1 to {TOP_K_MAX}")
        if (
            not TEMPERATURE_MIN <= self.temperature <= TEMPERATURE_MAX
            or round(self.temperature, 2) != self.temperature
        ):
            raise ValueError(f"temperature is {self.temperature:g}; allowed are {TEMPERATURE_ALLOWED}")
        if self.noise and self.noise not in NOISE_STEPS:
            raise ValueError(f"noise is {self.noise:g}; allowed are {NOISE_ALLOWED}")
        if self.decimals is not None and not 1 <= self.decimals <= PROBABILITY_DECIMALS:
            raise ValueError(f"decimals is {self.decimals}; allowed are 1 to {PROBABILITY_DECIMALS}")
        if self.kind == "label":
            if self.temperature != 1:
                raise ValueError(
                    f"temperature is {self.temperature:g}, but no temperature changes a label; allowed is none"
                )
            if self.decimals is not None:
                raise ValueError(f"decimals is {self.decimals}, but a label has none; allowed is none")
        elif self.decimals is None and (self.temperature != 1 or self.noise):
            raise ValueError(f"decimals is none; with a temperature or noise allowed are 1 to {PROBABILITY_DECIMALS}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form used on the wire and the command line; raises ValueError that says what is allowed."""
        if not (match := _TEXT.fullmatch(text)):
            raise ValueError(f"disclosure is {text!r}; {_ALLOWED}")
        kind: Literal["probabilities", "top-k", "label"]
        kind = "top-k" if match["k"] else "label" if match["kind"] == "label" else "probabilities"
        try:
            read = cls(
                kind,
                int(match["k"] or 0),
                temperature=float(match["temperature"] or 1),
                noise=float(match["noise"] or 0),
                decimals=int(match["decimals"]) if match["decimals"] else None,
            )
        except ValueError as error:
            raise ValueError(f"disclosure is {text!r}; {error}") from error
        if str(read) != text:  # a number written in another way, or a temperature of 1
            raise ValueError(f"disclosure is {text!r}, which is written {str(read)!r}")
        return read

    def __str__(self) -> str:
        parts = [f"top-k:{self.k}" if self.kind == "top-k" else self.kind]
        if self.temperature != 1:
            parts.append(f"temperature={self.temperature:g}")
        if self.noise:
            parts.append(f"noise={self.noise:g}")
        if self.decimals is not None:
            parts.append(f"decimals={self.decimals}")
        return ";".join(parts)
