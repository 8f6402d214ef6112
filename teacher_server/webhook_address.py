"""What a webhook's address and signing secret have to look like; neither is ever repeated in a message."""

import base64
import binascii
from urllib.parse import urlsplit

_PREFIX = "whsec_"


def require_webhook_url(url: str) -> None:
    """Raise ValueError for what cannot be posted to."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or not url.isprintable() or " " in url:
        raise ValueError("allowed is an http:// or https:// URL")


def read_signing_secret(text: str) -> bytes:
    """By the Standard Webhooks specification: ``whsec_`` and the base64 of 24 to 64 bytes. Raises ValueError."""
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        secret = b""
    if not text.startswith(_PREFIX) or not 24 <= len(secret) <= 64:
        raise ValueError(
            'allowed is whsec_ and the base64 of 24 to 64 bytes: echo "whsec_$(openssl rand -base64 32)"'
        )
    return secret
