"""API secrets, ``tk-LOOKUP-REST``: the lookup finds the row, the hash of the whole decides."""

import hashlib
import re
import secrets
from dataclasses import dataclass, field

_PATTERN = re.compile(r"tk-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class ApiSecret:
    """A new secret. Only ``lookup`` and ``sha256`` are ever stored."""

    text: str = field(repr=False)
    lookup: str

    @property
    def sha256(self) -> str:
        """What is stored of it."""
        return hash_secret(self.text)


def new_secret() -> ApiSecret:
    """256 random bits, and 48 more to be found by."""
    lookup = secrets.token_hex(6)
    return ApiSecret(f"tk-{lookup}-{secrets.token_urlsafe(32)}", lookup)


def lookup_of(text: str) -> str | None:
    """The part that a secret is found by; None for what cannot be a secret."""
    match = _PATTERN.fullmatch(text)
    return match[1] if match else None


def hash_secret(text: str) -> str:
    """SHA-256 in hex; takes whatever bytes a stranger sent."""
    # A plain hash is enough for 256 random bits: there is nothing to guess that a slow hash would protect.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
