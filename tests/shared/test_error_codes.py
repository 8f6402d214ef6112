"""The one table of errors: complete, and with the statuses that clients of every kind rely on."""

import pytest

from shared.wire.error_codes import ERROR_KINDS, ErrorCode, problem_type


def test_every_code_has_a_kind_and_every_kind_a_code() -> None:
    assert set(ERROR_KINDS) == set(ErrorCode)


@pytest.mark.parametrize("code", ErrorCode)
def test_kinds_are_usable(code: ErrorCode) -> None:
    kind = ERROR_KINDS[code]
    assert 400 <= kind.status <= 599
    assert kind.title == kind.title.strip() != ""
    assert problem_type(code).endswith(code.value)


def test_titles_and_types_are_distinct() -> None:
    assert len({kind.title for kind in ERROR_KINDS.values()}) == len(ErrorCode)
    assert len({problem_type(code) for code in ErrorCode}) == len(ErrorCode)


def test_an_exhausted_budget_is_403_and_final() -> None:
    """Generic clients retry every 429 and 503; none may ever be told so about a budget."""
    kind = ERROR_KINDS[ErrorCode.BUDGET_EXHAUSTED]
    assert (kind.status, kind.retryable) == (403, False)


@pytest.mark.parametrize("code", ErrorCode)
def test_refusals_are_final_and_failures_are_not(code: ErrorCode) -> None:
    kind = ERROR_KINDS[code]
    if kind.status >= 500:
        # A ledger that does not add up needs its owner, not another request.
        assert kind.retryable is (code is not ErrorCode.LEDGER_INCONSISTENT)
    else:  # these 4xx are matters of the way or of the moment, not of the request
        passing = (
            ErrorCode.BODY_INCOMPLETE,
            ErrorCode.STILL_RUNNING,
            ErrorCode.RATE_LIMITED,
            ErrorCode.DAILY_BUDGET_EXHAUSTED,
        )
        assert kind.retryable is (code in passing)
