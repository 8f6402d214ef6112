"""A student's card says that training on its teacher's answers was stated to be allowed, and how images were sent."""

from typing import Any

import pytest

from distill_client.student.card import render_card
from distill_client.teachers.permission import GIVEN
from tests.distill_client.teachers.custom_http.described import a_file

CONTENT: dict[str, Any] = {
    "name": "run",
    "network": "lenet5",
    "weights": "student.safetensors",
    "input": {"height": 5, "width": 6, "channels": 3, "scaled": "uint8 / 255"},
    "preprocessing": "none",
    "classes": ["a", "b"],
    "outputs": "logits",
    "distilled_from": {"name": "theirs", "version": "1"},
    "teacher_test_accuracy": None,
    "disclosure": "label",
    "learnt_by": "x",
    "real_images": "pictures",
    "pool_warnings": [],
    "answers_by_phase": {"pool": 1},
    "budget_images": 1,
    "answers_bought": 1,
    "test_dataset": None,
    "test_accuracy": None,
    "agreement_with_teacher": None,
    "agreement_on": "nothing",
    "agreement_images": 0,
    "audit": "equal",
    "counted_by": "client",
    "last_receipt": None,
    "run_id": "r",
    "config_digest": "d",
}


def test_the_card_of_a_described_teachers_student_says_both() -> None:
    card = a_file("http://teacher.test", min_size="10x10").capabilities("png")
    assert card.has_permission is True
    text = render_card({**CONTENT, "permission": GIVEN, "asked_as": card.preprocessing})
    assert "| permission | Whoever ran this stated" in text
    assert "| the teacher's images | enlarged to 10x12 (each pixel repeated 2 times), then sent as png |" in text


@pytest.mark.parametrize("word", ["permission", "the teacher's images"])
def test_the_card_of_our_own_servers_student_says_neither(word: str) -> None:
    assert f"| {word} |" not in render_card({**CONTENT, "permission": None, "asked_as": None})
