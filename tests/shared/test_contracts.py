"""The wire's models: bounds, tolerance for a newer server, and the disclosure policy's text form."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.wire.contracts import (
    IDEMPOTENCY_KEY_PATTERN,
    Disclosure,
    EventReference,
    InputSpec,
    LabelsAnswer,
    Problem,
    Usage,
)


@pytest.mark.parametrize("text", ["probabilities", "label", "top-k:1", "top-k:10", "top-k:99999"])
def test_disclosures_are_read_and_written_alike(text: str) -> None:
    assert str(Disclosure.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "labels", "Label", "label ", "label\n", "top-k", "top-k:", "top-k:0", "top-k:-1", "top-k:01", "top-k:1.5",
     "top-k:1\n", "top-k:100000", "top-k:١", "top-k: 3"],
)  # fmt: skip
def test_other_disclosures_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="allowed are probabilities, top-k:K") as caught:
        Disclosure.parse(text)
    assert repr(text) in str(caught.value)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_disclosure_in_its_one_form_or_refused(text: str) -> None:
    try:
        disclosure = Disclosure.parse(text)
    except ValueError:
        return
    assert str(disclosure) == text


@pytest.mark.parametrize("key", ["a", "0b2c7d1e-0000-4000-8000-000000000000", "~" * 255])
def test_idempotency_keys_are_visible_ascii(key: str) -> None:
    assert re.fullmatch(IDEMPOTENCY_KEY_PATTERN, key)


@pytest.mark.parametrize("key", ["", "a b", "a\n", "a\0", "é", "a" * 256])
def test_other_idempotency_keys_do_not_match(key: str) -> None:
    assert not re.fullmatch(IDEMPOTENCY_KEY_PATTERN, key)


@pytest.mark.parametrize(
    "fields",
    [
        {"height": 0, "width": 28, "channels": 1},
        {"height": 28, "width": 5000, "channels": 1},
        {"height": 28, "width": 28, "channels": 2},
        {"height": 28, "width": 28, "channels": 1, "dtype": "float32"},
        {"height": 28, "width": 28, "channels": 1, "layout": "NCHW"},
    ],
)
def test_inputs_outside_the_bounds_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        InputSpec.model_validate(fields)


def test_budgets_are_never_negative() -> None:
    with pytest.raises(ValidationError):
        Usage(granted=1, spent=2, remaining=-1)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n"])
def test_hashes_are_64_lower_case_hexadecimal_digits(digest: str) -> None:
    with pytest.raises(ValidationError):
        EventReference(sequence=1, hash=digest)


def test_a_newer_servers_extra_fields_are_ignored() -> None:
    answer = LabelsAnswer.model_validate(
        {
            "request_id": "r",
            "teacher": "t",
            "version": "1",
            "labels": [3],
            "charged": 1,
            "spent": 1,
            "remaining": 9,
            "event": {"sequence": 2, "hash": "0" * 64, "signature": "later"},
            "witnesses": "later",
        }
    )
    assert answer.labels == [3]
    assert answer.probabilities is None
    assert "witnesses" not in answer.model_dump()


def test_a_problem_keeps_the_members_its_code_brings() -> None:
    problem = Problem.model_validate(
        {
            "type": "/docs/errors#budget_exhausted",
            "title": "The key's query budget does not cover this request",
            "status": 403,
            "detail": "asked for 10 with 3 remaining",
            "code": "budget_exhausted",
            "retryable": False,
            "granted": 100,
            "spent": 97,
            "asked": 10,
        }
    )
    assert problem.model_extra == {"granted": 100, "spent": 97, "asked": 10}
