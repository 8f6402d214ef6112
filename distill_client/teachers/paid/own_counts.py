"""The client's own events added up: asked for, answered, failed, released, not known; in images and in money."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from distill_client.errors import RunStoreError
from distill_client.teachers.paid.allowance import Allowance
from shared.wire.contracts import Event

SETTLING = ("answer", "release", "fail")


@dataclass(frozen=True)
class Unsettled:
    """Images that were asked for under a batch's key, whose charge is not known; ``sequence`` is the asking's.

    ``places`` are theirs in the asking, ``image_digests`` the SHA-256 of each, in hex. ``cost`` is what they cost if
    they were charged.
    """

    sequence: int
    idempotency_key: str
    images: int
    asked_at: str
    cost: Decimal
    places: tuple[int, ...]
    image_digests: tuple[str, ...]


@dataclass(frozen=True)
class OwnCounts:
    """Images by what came of them; ``spent`` is asked less released, and so are answered, failed and unsettled.

    ``cost`` is that of what is spent, each image at the price of its time.
    """

    granted: int
    asked: int
    answered: int
    failed: int
    released: int
    cost: Decimal
    allowance: Allowance
    unsettled: tuple[Unsettled, ...]

    @property
    def spent(self) -> int:
        """Images that count against what is granted."""
        return self.asked - self.released

    @property
    def unsettled_images(self) -> int:
        """Images whose charge is not known."""
        return sum(each.images for each in self.unsettled)

    @property
    def unsettled_cost(self) -> Decimal:
        """What they cost if all of them were charged."""
        return sum((each.cost for each in self.unsettled), Decimal(0))


@dataclass
class _Asked:
    event: Event
    price: Decimal
    digests: tuple[bytes, ...]
    places: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.places = set(range(self.event.images))

    def settle(self, event: Event) -> None:
        """Take out the places that were settled. Raises ValueError when one of them was not open."""
        given = json.loads(event.detail).get("places")
        places = set(range(self.event.images)) if given is None else set(given)
        if not places <= self.places or len(places) != event.images:
            raise ValueError(f"event {event.sequence} settles images that are not open")
        self.places -= places

    def unsettled(self) -> Unsettled:
        return Unsettled(
            sequence=self.event.sequence,
            idempotency_key=self.event.idempotency_key,
            images=len(self.places),
            asked_at=self.event.at,
            cost=self.price * len(self.places),
            places=tuple(sorted(self.places)),
            image_digests=tuple(self.digests[place].hex() for place in sorted(self.places)),
        )


def count_events(events: Sequence[Event], digests: Mapping[int, tuple[bytes, ...]], *, where: str) -> OwnCounts:
    """Add up; ``digests`` are those of each asking's images, by its sequence. Raises RunStoreError, naming ``where``.

    What is wrong with the chain itself is not looked at here.
    """
    granted, cost, allowance = 0, Decimal(0), Allowance(0)
    images = dict.fromkeys(("ask", *SETTLING), 0)
    asked: dict[int, _Asked] = {}
    for event in events:
        try:
            if event.kind in ("create", "grant"):
                granted += event.images
                allowance = Allowance.of_detail(event.detail)
            elif event.kind == "ask":
                asked[event.sequence] = _Asked(event, allowance.price_per_image, digests[event.sequence])
                if len(digests[event.sequence]) != event.images:
                    raise ValueError(f"{len(digests[event.sequence])} digests of {event.images} images")
                cost += allowance.cost_of(event.images)
            elif event.kind in SETTLING:
                settled = asked[json.loads(event.detail)["ask"]]
                settled.settle(event)
                cost -= settled.price * event.images if event.kind == "release" else 0
            else:
                raise ValueError(f"a kind {event.kind}, which no own ledger has")
        except (KeyError, TypeError, ValueError, ArithmeticError, IndexError) as error:
            raise RunStoreError(
                f"{where}: event {event.sequence} ({event.kind}) of the own ledger cannot be counted: {error}"
            ) from error
        if event.kind in images:
            images[event.kind] += event.images
    return OwnCounts(
        granted=granted,
        asked=images["ask"],
        answered=images["answer"],
        failed=images["fail"],
        released=images["release"],
        cost=cost,
        allowance=allowance,
        unsettled=tuple(each.unsettled() for each in asked.values() if each.places),
    )
