"""Settings: from the environment, from flags, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from teacher_server.errors import OperatorError
from teacher_server.settings import TeacherSettings

SIGNING_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
# Every setting: how it is written in the environment, and what that means.
EXAMPLES: dict[str, tuple[str, Any]] = {
    "bundles": ("one:two/three", (Path("one"), Path("two/three"))),
    "ledger": ("sqlite:///x.db", "sqlite:///x.db"),
    "ledger_timeout_s": ("1.5", 1.5),
    "host": ("::1", "::1"),
    "port": ("0", 0),
    "trusted_networks": ("mine:small, ours.nets:wide", ("mine:small", "ours.nets:wide")),
    "device": ("cuda:1", "cuda:1"),
    "images_per_request_max": ("7", 7),
    "body_bytes_max": ("2048", 2048),
    "body_timeout_s": ("0.5", 0.5),
    "file_pixels_max": ("1", 1),
    "request_pixels_max": ("2", 2),
    "requests_in_flight_max": ("3", 3),
    "answering_threads": ("4", 4),
    "head_timeout_s": ("2.5", 2.5),
    "connections_max": ("5", 5),
    "tls_certificate": ("c.pem", Path("c.pem")),
    "tls_key": ("k.pem", Path("k.pem")),
    "trusted_proxies": ("10.0.0.1, 192.168.0.0/16,::1", ("10.0.0.1", "192.168.0.0/16", "::1")),
    "requests_in_flight_per_key_max": ("6", 6),
    "classifying_threads": ("7", 7),
    "signing_key": ("s.pem", Path("s.pem")),
    "verify_interval_s": ("8.5", 8.5),
    "answer_kept_s": ("9.5", 9.5),
    "answers_bytes_max": ("10", 10),
    "alert_webhook": ("https://a.example/T/B", SecretStr("https://a.example/T/B")),
    "alert_webhook_secret": (SIGNING_SECRET, SecretStr(SIGNING_SECRET)),
}
REQUIRED = {"bundles": (Path("b"),), "ledger": "sqlite:///l.db"}


def test_every_setting_has_an_example_here() -> None:
    assert set(EXAMPLES) == set(TeacherSettings.model_fields)


def test_every_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (text, _) in EXAMPLES.items():
        monkeypatch.setenv(f"TEACHER_{name.upper()}", text)
    assert TeacherSettings.load().model_dump() == {name: value for name, (_, value) in EXAMPLES.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"TEACHER_{name.upper()}", "nonsense that is never looked at")
    value = EXAMPLES[name][1]
    assert getattr(TeacherSettings.load(**(REQUIRED | {name: value})), name) == value


def test_a_flag_that_was_not_given_leaves_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_PORT", "1234")
    assert TeacherSettings.load(**REQUIRED, port=None, host=None).port == 1234


@pytest.mark.parametrize("name", ["TEACHER_PROT", "TEACHER_", "TEACHER_PORT_", "TEACHER_LEDGERS", "TEACHER_BUNDLE"])
def test_an_unknown_name_is_refused_with_those_allowed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(OperatorError) as error:
        TeacherSettings.load(**REQUIRED)
    assert f"variable {name} is not" in str(error.value)
    for setting in EXAMPLES:
        assert f"TEACHER_{setting.upper()}" in str(error.value)


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(OperatorError, match="prot"):
        TeacherSettings.load(**REQUIRED, prot=1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bundles", ""),
        ("bundles", ":"),
        ("ledger_timeout_s", "0"),
        ("port", "-1"),
        ("port", "65536"),
        ("port", "http"),
        ("images_per_request_max", "0"),
        ("images_per_request_max", "1.5"),
        ("body_bytes_max", "1023"),
        ("body_timeout_s", "-1"),
        ("body_timeout_s", "nan"),
        ("file_pixels_max", "0"),
        ("request_pixels_max", "many"),
        ("requests_in_flight_max", "0"),
        ("answering_threads", "257"),
        ("head_timeout_s", "0"),
        ("connections_max", "0"),
        ("trusted_proxies", "*"),
        ("trusted_proxies", "10.0.0.1,my-proxy"),
        ("trusted_proxies", "10.0.0.1/8"),
    ],
)
def test_values_that_are_not_allowed_are_named(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    flags = {field: value for field, value in REQUIRED.items() if field != name}
    monkeypatch.setenv(f"TEACHER_{name.upper()}", text)
    with pytest.raises(OperatorError, match=name) as error:
        TeacherSettings.load(**flags)
    if name != "bundles":
        assert repr(text) in str(error.value)


@pytest.mark.parametrize("missing", REQUIRED)
def test_what_cannot_be_guessed_is_asked_for(missing: str) -> None:
    with pytest.raises(OperatorError, match=rf"{missing}: Field required"):
        TeacherSettings.load(**{name: value for name, value in REQUIRED.items() if name != missing})


def test_settings_do_not_change_afterwards() -> None:
    loaded = TeacherSettings.load(**REQUIRED)
    with pytest.raises(ValueError, match="frozen"):
        loaded.port = 1  # type: ignore[misc]  # that it is refused is the point


def test_what_is_missing_is_named_without_what_was_given() -> None:
    with pytest.raises(OperatorError, match=r"^settings: bundles: Field required$"):
        TeacherSettings.load(ledger="sqlite:///l.db")


@pytest.mark.parametrize(
    ("name", "text"), [("alert_webhook", "gopher://T0P-S3CR3T"), ("alert_webhook_secret", "whsec_T0P-S3CR3T")]
)
def test_secrets_that_are_not_allowed_are_named_but_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"TEACHER_{name.upper()}", text)
    with pytest.raises(OperatorError, match=f"^settings: {name}: allowed is") as error:
        TeacherSettings.load(**REQUIRED)
    assert "S3CR3T" not in str(error.value)


def test_secrets_are_not_shown_with_the_other_settings() -> None:
    settings = TeacherSettings.load(
        **REQUIRED, alert_webhook="https://a.example/T0P", alert_webhook_secret=SIGNING_SECRET
    )
    assert "T0P" not in repr(settings)
    assert SIGNING_SECRET not in str(settings)
