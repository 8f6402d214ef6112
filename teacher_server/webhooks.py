"""Messages to an address of the owner's, by the Standard Webhooks specification: the server's only HTTP client.

The address is a secret, as many services put one into it: it is in no message and no log.
"""

import base64
import hashlib
import hmac
import logging
from datetime import UTC, datetime

import httpx2
import stamina

_ATTEMPT_TIMEOUT_S = 5.0


class Undelivered(Exception):
    """The receiver did not take the message; says why without the address."""


class Webhook:
    """Posts JSON to ``url``; signed where ``secret`` is given."""

    def __init__(self, url: str, secret: bytes | None, *, deadline_s: float = 20.0) -> None:
        for logger in ("httpx2", "httpcore2"):  # they would log the address
            logging.getLogger(logger).setLevel(logging.WARNING)
        self._url = url
        self._secret = secret
        self._deadline_s = deadline_s

    def deliver(self, message_id: str, body: bytes) -> None:
        """Send until the receiver answers 2xx, or raise Undelivered once the deadline has passed.

        The same ``message_id`` tells a receiver that it has had the message before.
        """
        with httpx2.Client(timeout=_ATTEMPT_TIMEOUT_S, follow_redirects=False) as client:
            for attempt in stamina.retry_context(
                on=Undelivered,
                attempts=None,
                timeout=self._deadline_s,
                wait_initial=0.25,
                wait_max=5.0,
                wait_jitter=0.25,
            ):
                with attempt:
                    self._send(client, message_id, body)

    def _send(self, client: httpx2.Client, message_id: str, body: bytes) -> None:
        headers = {"Content-Type": "application/json", **signature_headers(self._secret, message_id, body)}
        try:
            # Streamed, so that what a receiver answers beyond its status is not read.
            with client.stream("POST", self._url, content=body, headers=headers) as response:
                status = response.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise Undelivered(type(error).__name__) from None  # its own text may hold the address
        if not 200 <= status < 300:
            raise Undelivered(f"HTTP status {status}")


def signature_headers(
    secret: bytes | None, message_id: str, body: bytes, *, at: datetime | None = None
) -> dict[str, str]:
    """The headers that a message is recognised, and where there is a secret, verified by."""
    timestamp = str(int((at or datetime.now(UTC)).timestamp()))
    headers = {"Webhook-Id": message_id, "Webhook-Timestamp": timestamp}
    if secret is not None:
        signed = b".".join((message_id.encode(), timestamp.encode(), body))
        mac = hmac.new(secret, signed, hashlib.sha256).digest()
        headers["Webhook-Signature"] = f"v1,{base64.b64encode(mac).decode()}"
    return headers
