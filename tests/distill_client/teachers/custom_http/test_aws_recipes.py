"""The recipes for AWS: every request is signed, and the signature is made again and compared."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from distill_client.errors import TeacherRefused
from tests.distill_client.teachers.adapters.vendor import CLASSES, ROWS, Asked, Reply, Vendor
from tests.distill_client.teachers.custom_http.described import (
    asked_as,
    recipe,
)
from tests.distill_client.teachers.custom_http.recipe_servers import (
    AWS_SECRET,
    ONE,
    pixels,
    place_of,
    refusal,
    require_signature,
)

pytestmark = pytest.mark.usefixtures("keys")


def test_sagemaker(theirs: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sagemaker(asked: Asked) -> Reply:
        assert asked.path == "/endpoints/ENDPOINT/invocations"
        if refused := require_signature(asked, theirs.url, "sagemaker", "eu-central-1"):
            return refused
        assert asked.headers["content-type"] == "application/x-image"
        if len(asked.content) > 6_291_456:
            return refusal(413, {"message": "too large"})
        return Reply([float(score) for score in ROWS[place_of(asked.content)]])

    theirs.answer = sagemaker
    with asked_as(recipe("sagemaker.toml", theirs.url), tmp_path) as (teacher, ledger):
        assert teacher.label(ONE, "key").values == pytest.approx(ROWS[:1])
        not_ready = Reply({"Message": "loading"}, 429, {"x-amzn-ErrorType": "ModelNotReadyException"})
        refused = [not_ready]
        theirs.answer = lambda asked: refused.pop() if refused else sagemaker(asked)
        assert teacher.label(ONE, "again").values == pytest.approx(ROWS[:1])  # and signed anew
        spent = ledger.usage().spent
        theirs.always(
            {"OriginalStatusCode": 400, "OriginalMessage": "not an image", "Message": "no"},
            424,
            x_amzn_errortype="ModelError",
        )
        with pytest.raises(TeacherRefused, match="not an image"):
            teacher.label(ONE, "third")
        assert ledger.usage().spent == spent + 1  # whether the container charged is not known
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    theirs.answer = sagemaker
    (tmp_path / "two").mkdir()
    with (
        asked_as(recipe("sagemaker.toml", theirs.url), tmp_path / "two") as (teacher, ledger),
        pytest.raises(TeacherRefused, match="unauthorised"),
    ):
        teacher.label(ONE, "key")


def test_rekognition_custom_labels(theirs: Vendor, tmp_path: Path) -> None:
    def rekognition(asked: Asked) -> Reply:
        if refused := require_signature(asked, theirs.url, "rekognition", "eu-central-1"):
            return refused
        assert asked.headers["content-type"] == "application/x-amz-json-1.1"
        assert asked.headers["x-amz-target"] == "RekognitionService.DetectCustomLabels"
        body = asked.json
        assert body["ProjectVersionArn"].startswith("arn:aws:rekognition:")
        image = pixels(base64.b64decode(body["Image"]["Bytes"]))
        assert image.shape == (65, 78, 3)
        labels = [
            {"Name": CLASSES[at], "Confidence": 100 * ROWS[0][at]}
            for at in np.argsort(-ROWS[0])
            if 100 * ROWS[0][at] >= body.get("MinConfidence", 50)
        ]
        return Reply(
            {"CustomLabels": labels[: body["MaxResults"]]}, headers={"Content-Type": "application/x-amz-json-1.1"}
        )

    throttled = {"__type": "ProvisionedThroughputExceededException", "Message": "Provisioned rate exceeded."}
    refused = [Reply(throttled, 400, {"Retry-After": "0"})]
    theirs.answer = lambda asked: refused.pop() if refused else rekognition(asked)
    with asked_as(recipe("rekognition-custom-labels.toml", theirs.url), tmp_path) as (teacher, ledger):
        assert teacher.label(ONE, "key").values == pytest.approx(ROWS[:1])
        assert [event.kind for event in ledger.events()] == ["create", "ask", "release", "ask"]
        theirs.always({"__type": "AccessDeniedException", "Message": "not authorized to perform"}, 400)
        with pytest.raises(TeacherRefused, match="unauthorised"):
            teacher.label(ONE, "again")


def test_no_secret_of_aws_leaves(theirs: Vendor, tmp_path: Path) -> None:
    theirs.always([1.0, 0.0, 0.0, 0.0])
    with asked_as(recipe("sagemaker.toml", theirs.url), tmp_path) as (teacher, _):
        teacher.label(ONE, "key")
    (asked,) = theirs.asked
    assert AWS_SECRET not in json.dumps([asked.path, dict(asked.headers)]) + asked.content.decode("latin-1")
