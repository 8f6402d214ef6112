"""Every recipe in configs/teachers, against a local server that checks and answers as the vendor documents."""

from pathlib import Path

import numpy as np
import pytest

from distill_client.errors import BudgetExhausted, TeacherRefused
from distill_client.teachers.adapters.kinds import load_teacher_file
from tests.distill_client.teachers.adapters.vendor import CLASSES, IMAGES, ROWS, Asked, Reply, Vendor
from tests.distill_client.teachers.custom_http.described import (
    RECIPES,
    SECRET,
    asked_as,
    recipe,
)
from tests.distill_client.teachers.custom_http.recipe_servers import (
    ONE,
    azure,
    clarifai,
    google_error,
    google_vision,
    place_of_base64,
    refusal,
    roboflow,
    vertex,
)

pytestmark = pytest.mark.usefixtures("keys")


def test_every_recipe_is_here_and_complete_but_for_names_and_secrets() -> None:
    names = {path.name for path in RECIPES.glob("*.toml")}
    assert names == {
        "azure-custom-vision.toml",
        "clarifai.toml",
        "google-vision.toml",
        "in-house.toml",
        "rekognition-custom-labels.toml",
        "roboflow.toml",
        "sagemaker.toml",
        "vertex-ai-image.toml",
    }
    for name in names:
        file = load_teacher_file(RECIPES / name)
        assert not file.i_have_permission, name


def test_in_house(theirs: Vendor, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.headers["authorization"] != f"Bearer {SECRET}":
            return refusal(401, {"error": "who are you?"})
        row = ROWS[place_of_base64(asked.json["image"])]
        assert asked.json["top"] == 4
        return Reply({"results": [{"name": CLASSES[at], "score": row[at]} for at in np.argsort(-row)]})

    theirs.answer = answer
    with asked_as(recipe("in-house.toml", theirs.url), tmp_path) as (teacher, _):
        assert teacher.label(ONE, "key").values == pytest.approx(ROWS[:1])


def test_vertex_ai_gives_whole_distributions_in_order(theirs: Vendor, tmp_path: Path) -> None:
    theirs.answer = vertex
    with asked_as(recipe("vertex-ai-image.toml", theirs.url, images_per_call=3), tmp_path) as (teacher, _):
        answer = teacher.label(IMAGES, "key")
        assert answer.values == pytest.approx(ROWS)
        assert (answer.charged, answer.failures, len(theirs.asked)) == (3, {}, 1)


def test_vertex_ai_is_asked_again_where_it_is_throttled_and_not_where_the_token_is_old(
    theirs: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = [google_error(429, "RESOURCE_EXHAUSTED", details=[{"@type": "RetryInfo", "retryDelay": "0.05s"}])]
    theirs.answer = lambda asked: refused.pop() if refused else vertex(asked)
    with asked_as(recipe("vertex-ai-image.toml", theirs.url), tmp_path) as (teacher, ledger):
        assert teacher.label(ONE, "key").values == pytest.approx(ROWS[:1])
        kinds = [event.kind for event in ledger.events()]
        assert kinds == ["create", "ask", "release", "ask"]  # the answer is settled with what keeps it
    monkeypatch.setenv("VERTEX_TOKEN", "an-older-token")
    (tmp_path / "two").mkdir()
    with asked_as(recipe("vertex-ai-image.toml", theirs.url), tmp_path / "two") as (teacher, ledger):
        with pytest.raises(TeacherRefused, match="unauthorised"):
            teacher.label(ONE, "key")
        assert ledger.usage().spent == 0


def test_google_vision_maps_labels_and_keeps_each_images_own_fate(theirs: Vendor, tmp_path: Path) -> None:
    theirs.answer = google_vision
    label_map = {"Sneakers": "Ankle boot", "Running shoe": 3}
    file = recipe("google-vision.toml", theirs.url, label_map=label_map)
    with asked_as(file, tmp_path) as (teacher, _):
        answer = teacher.label(IMAGES, "key")
    # Two of theirs are one of ours, 0.93 + 0.6; with the trousers' 0.3 they are all that is known of our classes.
    assert answer.values[0] == pytest.approx([np.nan, 0.3 / 1.83, np.nan, 1.53 / 1.83], nan_ok=True)
    failure = answer.failures[1]
    assert (failure.retryable, failure.charged) == (True, "no")
    assert "currently unavailable" in failure.reason
    assert np.isnan(answer.values[2]).all()
    assert (list(answer.failures), answer.charged) == ([1], 2)
    assert file.labels.names_that_came()["Footwear"] == 1


def test_google_vision_does_not_ask_again_for_an_image_that_it_cannot_read(theirs: Vendor, tmp_path: Path) -> None:
    theirs.always({"responses": [{"error": {"code": 3, "message": "Bad image data."}}]})
    with asked_as(recipe("google-vision.toml", theirs.url), tmp_path) as (teacher, _):
        (failure,) = teacher.label(ONE, "key").failures.values()
    assert (failure.retryable, failure.charged) == (False, "unknown")


def test_azure_custom_vision_takes_one_enlarged_image(theirs: Vendor, tmp_path: Path) -> None:
    refused = [
        refusal(
            429,
            {"error": {"code": "429", "message": "Requests have exceeded rate limit. Please retry after 1 second."}},
            Retry_After="0",
        )
    ]
    theirs.answer = lambda asked: refused.pop() if refused else azure(asked)
    with asked_as(recipe("azure-custom-vision.toml", theirs.url), tmp_path) as (teacher, _):
        card = teacher.card()
        assert teacher.label(ONE, "key").values == pytest.approx(ROWS[:1])
    assert (card.upscaled_to, card.images_per_request_max) == ("260x312", 1)
    assert "each pixel repeated 52 times" in card.preprocessing
    assert len(theirs.asked) == 2


def test_azures_used_up_quota_is_not_a_rate_limit(theirs: Vendor, tmp_path: Path) -> None:
    message = "Out of call volume quota. Quota will be replenished in 11 days."
    theirs.always({"error": {"code": "403", "message": message}}, 403)
    with asked_as(recipe("azure-custom-vision.toml", theirs.url), tmp_path) as (teacher, ledger):
        with pytest.raises(BudgetExhausted, match="Out of call volume"):
            teacher.label(ONE, "key")
        assert ledger.usage().spent == 0


def test_roboflow_is_asked_without_its_threshold(theirs: Vendor, tmp_path: Path) -> None:
    theirs.answer = roboflow
    with asked_as(recipe("roboflow.toml", theirs.url), tmp_path) as (teacher, _):
        assert teacher.label(IMAGES[1:2], "key").values == pytest.approx(ROWS[1:2])


def test_roboflows_multi_label_answers_as_the_recipes_comment_says(theirs: Vendor, tmp_path: Path) -> None:
    scores = dict(zip(CLASSES, [0.9, 0.6, 0.0, 0.0], strict=True))
    predictions = {name: {"confidence": score, "class_id": at} for at, (name, score) in enumerate(scores.items())}
    theirs.always({"predictions": predictions, "predicted_classes": ["T-shirt/top"]})
    comment = {"labels": "keys(predictions)", "scores": "values(predictions)[].confidence", "independent": True}
    with asked_as(recipe("roboflow.toml", theirs.url, reply=comment), tmp_path) as (teacher, _):
        assert teacher.label(ONE, "key").values == pytest.approx(np.array([[0.6, 0.4, 0, 0]]))


def test_clarifais_mixed_success_and_its_refusals_in_a_body_with_200(theirs: Vendor, tmp_path: Path) -> None:
    theirs.answer = clarifai
    throttled = Reply(
        {"status": {"code": 11005, "description": "Making too many requests"}}, 200, {"Retry-After": "0"}
    )
    with asked_as(recipe("clarifai.toml", theirs.url), tmp_path) as (teacher, ledger):
        answer = teacher.label(IMAGES, "key")
        assert answer.values[[0, 2]] == pytest.approx(ROWS[[0, 2]])
        assert (list(answer.failures), answer.failures[1].retryable, answer.charged) == ([1], True, 2)
        refused = [throttled]
        theirs.answer = lambda asked: refused.pop() if refused else clarifai(asked)
        assert teacher.label(ONE, "again").values == pytest.approx(ROWS[:1])
        assert [event.kind for event in ledger.events()][-3:] == ["ask", "release", "ask"]
        theirs.always({"status": {"code": 11004, "description": "monthly request limit exceeded"}})
        with pytest.raises(BudgetExhausted, match="monthly"):
            teacher.label(ONE, "third")
