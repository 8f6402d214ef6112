"""Changing what a key may see and buy, and when it ends; told in its chain, old and new."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select, update

from shared.wire.disclosure import NOISE_ALLOWED, PROBABILITY_DECIMALS, TEMPERATURE_ALLOWED, Disclosure
from teacher_server.errors import OperatorError
from teacher_server.ledger.chain.events import Happening, append_event
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import (
    Key,
    KeyLimits,
    canonical_detail,
    key_from_row,
    locked_row,
    require_not_revoked,
)
from teacher_server.ledger.tables import keys

POLICY_FIELDS = ("disclosure", "expires_at", "images_per_day", "images_per_second")
_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


@dataclass(frozen=True)
class DisclosureChange:
    """What an owner says of a key's disclosure, as text; None leaves that as it is, ``none`` takes it away.

    ``disclosure`` is a kind alone, which leaves the rest as it is, or a whole policy, which replaces all of it.
    """

    disclosure: str | None = None
    decimals: str | None = None
    temperature: str | None = None
    noise: str | None = None

    def applied_to(self, before: Disclosure) -> Disclosure:
        """The policy after it. Raises OperatorError that names the field, its value and what is allowed."""
        try:
            said = None if self.disclosure is None else Disclosure.parse(self.disclosure)
            stays = said if said and ";" in str(said) else before
            shown = said or before
            temperature = _number(
                "temperature", self.temperature, TEMPERATURE_ALLOWED, none=1.0, stays=stays.temperature
            )
            noise = _number("noise", self.noise, NOISE_ALLOWED, none=0.0, stays=stays.noise)
            decimals = self._decimals(stays.decimals)
            if shown.kind == "label":  # nothing is to be kept of what a label has not
                temperature = temperature if self.temperature else 1.0
                decimals = decimals if self.decimals else None
            elif decimals is None and not self.decimals and (temperature != 1 or noise):
                decimals = PROBABILITY_DECIMALS
            return Disclosure(shown.kind, shown.k, temperature=temperature, noise=noise, decimals=decimals)
        except ValueError as error:
            raise OperatorError(str(error)) from error

    def _decimals(self, stays: int | None) -> int | None:
        if self.decimals is None:
            return stays
        if self.decimals == "none":
            return None
        if not re.fullmatch(r"[0-9]{1,9}", self.decimals):
            raise ValueError(f"decimals is {self.decimals!r}; allowed are 1 to {PROBABILITY_DECIMALS}, and none")
        return int(self.decimals)


def _number(field: str, text: str | None, allowed: str, *, none: float, stays: float) -> float:
    if text is None:
        return stays
    if text == "none":
        return none
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{field} is {text!r}; allowed are {allowed}, and none")
    return float(text)


def change_policy(
    database: Database,
    *,
    name: str,
    changes: Mapping[str, str | int | None],
    disclosure: DisclosureChange = DisclosureChange(),
) -> Key:
    """Set some of ``POLICY_FIELDS`` of a key, as they are stored (None: no expiry, no limit).

    ``disclosure`` then changes parts of the disclosure. What is so already is no change, and without one there is no
    event. A key that has expired is in use again when it is given a later expiry. Raises OperatorError for an unknown
    or revoked key, or what is not allowed.
    """
    unknown = sorted(set(changes) - set(POLICY_FIELDS))
    if unknown:
        raise OperatorError(f"{unknown[0]} is not part of a key's policy; allowed are {', '.join(POLICY_FIELDS)}")
    with database.writing() as connection:
        row = locked_row(connection, name)
        require_not_revoked(row)
        wanted = {field: row[field] for field in POLICY_FIELDS} | dict(changes)
        # Read and changed under the same lock: of two owners each changes what he names, and nothing else.
        wanted["disclosure"] = str(disclosure.applied_to(Disclosure.parse(wanted["disclosure"])))
        KeyLimits(wanted["images_per_day"], wanted["images_per_second"]).require_allowed()
        changed = {field: value for field, value in wanted.items() if value != row[field]}
        if changed:
            # A refusal told before was one under the old policy; the end by the old expiry is no end any more.
            told = {"refusing": "", **({"expiry_noted": 0} if "expires_at" in changed else {})}
            connection.execute(update(keys).where(keys.c.id == row["id"]).values(**changed, **told))
            detail = {field: {"new": _told(value), "old": _told(row[field])} for field, value in changed.items()}
            row = connection.execute(select(keys).where(keys.c.id == row["id"])).mappings().one()
            append_event(connection, database.signer, row, Happening("policy", detail=canonical_detail(detail)))
    return key_from_row(row)


def _told(value: str | int | None) -> str | int:
    return "none" if value is None else value
