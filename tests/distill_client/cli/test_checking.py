"""`distill teacher check` of a teacher on our own server, behind a real socket."""

import pytest

from distill_client.errors import BudgetExhausted, ConfigError, TeacherRefused, TeacherUnfit
from tests.distill_client.cli.support import Served, distill, kinds_of_events, one_object


def test_a_teacher_of_ours_is_checked_for_twenty_images_of_the_keys_budget(served: Served) -> None:
    secret = served.key("checking", budget=20)
    result = distill("teacher", "check", served.url, "--name", "fake", "--yes", "--json", key=secret)
    report = one_object(result)
    assert (report["fit"], report["budget"]["remaining"], report["ledger"]) == (True, 0, "")
    assert "asked for 20 images, of the key's budget" in result.stderr
    assert {finding["verdict"] for finding in report["findings"]} == {"good"}


def test_with_images_it_is_told_how_sure_the_teacher_is_of_them(served: Served) -> None:
    words = ("teacher", "check", served.url, "--name", "fake", "--yes", "--json", "--images", "digits")
    report = one_object(distill(*words, key=served.key("checking-pool", budget=20)))
    (pool,) = [finding for finding in report["findings"] if finding["what"] == "pool"]
    assert pool["verdict"] == "note"
    assert pool["told"].startswith("the teacher is less sure of these images than it is right on its own test set")
    assert report["fit"], "which is no reason against the teacher"


def test_a_budget_that_a_check_would_use_up_half_way_is_left_alone(served: Served) -> None:
    secret = served.key("checking-poor", budget=19)
    result = distill("teacher", "check", served.url, "--name", "fake", "--yes", key=secret)
    assert isinstance(result.exception, BudgetExhausted)
    assert str(result.exception) == "a check asks for 20 images, 19 of 19 are left; ask the owner for a grant"
    assert kinds_of_events(served, secret) == ["create"]


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        ([], ConfigError, "--name is missing"),
        (["--name", "fake"], ConfigError, "give --yes"),
        (["--name", "nobody", "--yes"], TeacherRefused, "teacher is 'nobody'"),
        (["--name", "tall", "--yes", "--images", "digits"], TeacherUnfit, "--images: digits has images of 28x28x1"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_asked(
    served: Served, words: list[str], error: type[Exception], told: str
) -> None:
    secret = served.key(f"checking-{error.__name__}-{len(words)}")
    result = distill("teacher", "check", served.url, *words, key=secret)
    assert isinstance(result.exception, error)
    assert told in str(result.exception)
    assert kinds_of_events(served, secret) == ["create"]


def test_a_key_that_the_server_does_not_know_is_refused(served: Served) -> None:
    result = distill("teacher", "check", served.url, "--name", "fake", "--yes", key="tk-nobody")
    assert isinstance(result.exception, TeacherRefused)
    assert "DISTILL_API_KEY" in str(result.exception)
