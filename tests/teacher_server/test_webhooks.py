"""Messages that are delivered, however rude the receiver is; signed; the address is told to nobody."""

import base64
import hashlib
import hmac
import logging
import socket
import time
from datetime import UTC, datetime

import pytest

from teacher_server.webhook_address import read_signing_secret, require_webhook_url
from teacher_server.webhooks import Undelivered, Webhook, signature_headers
from tests.teacher_server.receiver import SECRET_PATH, receiving

BODY = b'{"type":"budget.alert"}'


def test_a_message_is_delivered_as_it_is_and_can_be_verified() -> None:
    secret = bytes(range(32))
    with receiving() as receiver:
        Webhook(receiver.url, secret).deliver("msg_1", BODY)
        (message,) = receiver.taken
    assert message.body == BODY
    assert message.headers["Content-Type"] == "application/json"
    assert message.headers["Webhook-Id"] == "msg_1"
    timestamp = message.headers["Webhook-Timestamp"]
    assert abs(int(timestamp) - time.time()) < 30
    expected = hmac.new(secret, b"msg_1." + timestamp.encode() + b"." + BODY, hashlib.sha256).digest()
    assert message.headers["Webhook-Signature"] == "v1," + base64.b64encode(expected).decode()


def test_the_example_of_the_specification_has_its_signature() -> None:
    """Computed by the specification's reference library, for its own example secret."""
    secret = read_signing_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    at = datetime.fromtimestamp(1614265330, UTC)
    headers = signature_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', at=at)
    assert headers["Webhook-Signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_without_a_secret_there_is_no_signature() -> None:
    assert set(signature_headers(None, "msg_1", BODY)) == {"Webhook-Id", "Webhook-Timestamp"}


def test_a_receiver_that_fails_is_asked_again_with_the_same_message() -> None:
    with receiving(500, 429, 302, 404) as receiver:
        Webhook(receiver.url, None).deliver("msg_1", BODY)
        assert len(receiver.messages) == 5
        assert {(message.headers["Webhook-Id"], message.body) for message in receiver.messages} == {("msg_1", BODY)}


def test_a_receiver_that_never_takes_it_is_given_up_at_the_deadline() -> None:
    with receiving(*[500] * 100) as receiver:
        started = time.monotonic()
        with pytest.raises(Undelivered, match="HTTP status 500"):
            Webhook(receiver.url, None, deadline_s=1.0).deliver("msg_1", BODY)
        assert time.monotonic() - started < 5
        assert len(receiver.messages) > 1


def test_the_address_is_in_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}{SECRET_PATH}"
    with receiving(500, 500) as receiver:
        Webhook(receiver.url, None).deliver("msg_1", BODY)
        texts = []
        for url in (nobody, f"https://127.0.0.1:{receiver.port}{SECRET_PATH}", f"http://name.invalid{SECRET_PATH}"):
            with pytest.raises(Undelivered) as error:
                Webhook(url, None, deadline_s=0.3).deliver("msg_1", BODY)
            assert error.value.__suppress_context__
            texts.append(str(error.value))
    for text in [*texts, *[f"{record.getMessage()} {record.__dict__}" for record in caplog.records]]:
        for secret in ("T0P-S3CR3T", "s3cr3t", "127.0.0.1", "name.invalid"):
            assert secret not in text


@pytest.mark.parametrize(
    "url", ["", "a.example", "ftp://a.example/", "http://", "https:///path", "http://[", "http://a:b/", "http://a b/"]
)  # fmt: skip
def test_addresses_that_cannot_be_posted_to(url: str) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        require_webhook_url(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/x", "https://hooks.example/T/B?c=d", "https://user:pass@a.example"]
)
def test_addresses_that_can(url: str) -> None:
    require_webhook_url(url)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_short", "secret", "A" * 32, "whsec_" + "A" * 200, "whsec_" + "?" * 32]
)
def test_signing_secrets_have_a_form(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_") as error:
        read_signing_secret(secret)
    assert secret in ("", "whsec_", "secret") or secret not in str(error.value)
