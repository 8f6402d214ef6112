"""What a run may buy of a teacher that keeps no count: images, and money."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Self


@dataclass(frozen=True)
class Allowance:
    """At most ``max_queries`` images, and no more than ``max_cost`` pays for; all money in ``currency``."""

    max_queries: int
    price_per_image: Decimal = Decimal(0)
    max_cost: Decimal | None = None
    currency: str = "USD"

    def granted(self, spent: int = 0, cost: Decimal = Decimal(0)) -> int:
        """Images that may be bought in all, when ``spent`` of them have been asked for at a ``cost`` so far."""
        if self.max_cost is None or not self.price_per_image:
            return self.max_queries
        left = max(Decimal(0), self.max_cost - cost) // self.price_per_image
        return min(self.max_queries, spent + int(left))

    def cost_of(self, images: int) -> Decimal:
        """What so many images cost."""
        return self.price_per_image * images

    def as_detail(self) -> str:
        """As an event's ``detail``: canonical JSON of integers and strings."""
        content: dict[str, int | str] = {
            "max_queries": self.max_queries,
            "price_per_image": str(self.price_per_image),
            "currency": self.currency,
        }
        if self.max_cost is not None:
            content["max_cost"] = str(self.max_cost)
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @classmethod
    def of_detail(cls, detail: str) -> Self:
        """The allowance that an event tells of. Raises ValueError (KeyError, ArithmeticError) when it is none."""
        content = json.loads(detail)
        max_cost = content.get("max_cost")
        return cls(
            int(content["max_queries"]),
            Decimal(content["price_per_image"]),
            None if max_cost is None else Decimal(max_cost),
            str(content["currency"]),
        )


def money(amount: Decimal, currency: str) -> str:
    """An amount for people, without zeros that say nothing: ``1.5 USD``."""
    whole = amount.normalize()
    return f"{whole:f} {currency}"
