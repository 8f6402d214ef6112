"""What the recipes' local servers have in common."""

import base64
import io
from typing import Any

import numpy as np
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from numpy.typing import NDArray
from PIL import Image

from tests.distill_client.teachers.adapters.vendor import CLASSES, IMAGES, ROWS, Asked, Reply
from tests.distill_client.teachers.custom_http.described import (
    SECRET,
    path_and_query,
)

ONE = IMAGES[:1]


AWS_KEY, AWS_SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def pixels(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def place_of(content: bytes) -> int:
    """Which of the test's images a file holds, byte for byte."""
    found = pixels(content)
    return next(place for place, image in enumerate(IMAGES) if np.array_equal(image, found))


def place_of_base64(text: str) -> int:
    return place_of(base64.b64decode(text, validate=True))


def refusal(status: int, content: Any, **headers: str) -> Reply:
    return Reply(content, status, {name.replace("_", "-"): value for name, value in headers.items()})


def google_error(code: int, status: str, message: str = "no", **more: Any) -> Reply:
    return Reply({"error": {"code": code, "message": message, "status": status, **more}}, code)


def vertex(asked: Asked) -> Reply:
    path, _ = path_and_query(asked.path)
    assert path == "/v1/projects/PROJECT/locations/europe-west4/endpoints/ENDPOINT_ID:predict"
    if asked.headers.get("authorization") != f"Bearer {SECRET}":
        return google_error(401, "UNAUTHENTICATED")
    if len(asked.content) > 1_500_000:
        return google_error(400, "INVALID_ARGUMENT", "too large")
    body, predictions = asked.json, []
    parameters = body["parameters"]
    for instance in body["instances"]:
        assert instance.keys() == {"content", "mimeType"}
        assert instance["mimeType"] == "image/png"
        row = ROWS[place_of_base64(instance["content"])]
        order = [at for at in np.argsort(-row) if row[at] >= parameters["confidenceThreshold"]]
        order = order[: parameters["maxPredictions"]]
        predictions.append(
            {
                "ids": [str(1000 + at) for at in order],
                "displayNames": [CLASSES[at] for at in order],
                "confidences": [row[at] for at in order],
            }
        )
    return Reply({"predictions": predictions, "deployedModelId": "1", "modelVersionId": "1"})


def google_vision(asked: Asked) -> Reply:
    assert path_and_query(asked.path) == ("/v1/images:annotate", {})
    if asked.headers.get("x-goog-api-key") != SECRET:
        return google_error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")
    requests = asked.json["requests"]
    if len(requests) > 16 or len(asked.content) > 10_000_000:
        return google_error(400, "INVALID_ARGUMENT", "Too many images per request.")
    responses: list[dict[str, Any]] = []
    for request in requests:
        assert request["features"] == [{"type": "LABEL_DETECTION", "maxResults": 50}]
        place = place_of_base64(request["image"]["content"])
        if place == 1:
            responses.append({"error": {"code": 14, "message": "The service is currently unavailable."}})
        elif place == 2:
            responses.append({})  # nothing was found in it
        else:
            found = [("Sneakers", 0.93), ("Footwear", 0.91), ("running SHOE", 0.6), ("Trouser", 0.3)]
            responses.append(
                {
                    "labelAnnotations": [
                        {"mid": f"/m/{at}", "description": name, "score": score, "topicality": score}
                        for at, (name, score) in enumerate(found)
                    ]
                }
            )
    return Reply({"responses": responses})


def azure(asked: Asked) -> Reply:
    path, _ = path_and_query(asked.path)
    assert path == "/customvision/v3.0/Prediction/PROJECT_ID/classify/iterations/PUBLISHED_NAME/image/nostore"
    if asked.headers.get("prediction-key") != SECRET:
        return refusal(401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key"}})
    assert asked.headers["content-type"] == "application/octet-stream"
    if len(asked.content) > 4_000_000:
        return refusal(400, {"code": "BadRequestImageSizeBytes", "message": "Maximum size is 4MB"})
    image = pixels(asked.content)
    assert image.shape == (260, 312, 3)  # 5x6, each pixel 52 times
    assert np.array_equal(image[::52, ::52], IMAGES[0])
    assert np.array_equal(image[51::52, 51::52], IMAGES[0])
    predictions = [
        {"probability": ROWS[0][at], "tagId": f"id-{at}", "tagName": CLASSES[at], "tagType": "Regular"}
        for at in np.argsort(-ROWS[0])
    ]
    return Reply({"id": "i", "project": "PROJECT_ID", "iteration": "it", "created": "", "predictions": predictions})


def roboflow(asked: Asked) -> Reply:
    path, query = path_and_query(asked.path)
    assert path == "/PROJECT/1"
    if query.get("api_key") != SECRET:
        return refusal(403, {"message": "Forbidden"})
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    row, threshold = ROWS[place_of_base64(asked.content.decode("ascii"))], float(query.get("confidence", "0.4"))
    order = [at for at in np.argsort(-row) if row[at] >= threshold]
    predictions = [{"class": CLASSES[at], "class_id": int(at), "confidence": row[at]} for at in order]
    size = {"width": 6, "height": 5}
    return Reply(
        {
            "time": 0.1,
            "image": size,
            "predictions": predictions,
            "top": CLASSES[order[0]],
            "confidence": row[order[0]],
        }
    )


def clarifai(asked: Asked) -> Reply:
    path, _ = path_and_query(asked.path)
    assert path == "/v2/users/USER/apps/APP/models/MODEL/versions/VERSION/outputs"
    if asked.headers.get("authorization") != f"Key {SECRET}":
        return refusal(401, {"status": {"code": 11009, "description": "API key not found", "req_id": "r"}})
    inputs, outputs = asked.json["inputs"], []
    if len(inputs) > 128:
        return refusal(400, {"status": {"code": 11102, "description": "Invalid request"}})
    for each in inputs:
        place = place_of_base64(each["data"]["image"]["base64"])
        if place == 1:
            status = {"code": 10030, "description": "Try the request again"}
            outputs.append({"id": "o", "status": status, "data": {}})
            continue
        concepts = [
            {"id": f"c{at}", "name": CLASSES[at], "value": ROWS[place][at], "app_id": "main"}
            for at in np.argsort(-ROWS[place])
        ]
        outputs.append({"id": "o", "status": {"code": 10000, "description": "Ok"}, "data": {"concepts": concepts}})
    mixed = len(inputs) > 1
    status = {"code": 10010 if mixed else 10000, "description": "Mixed Success" if mixed else "Ok", "req_id": "r"}
    return Reply({"status": status, "outputs": outputs})


def require_signature(asked: Asked, url: str, service: str, region: str) -> Reply | None:
    """Refuse, as AWS does, what is not signed with the key's secret: the signature is made again and compared."""
    authorization = asked.headers.get("authorization", "")
    algorithm, _, rest = authorization.partition(" ")
    parts = dict(part.strip().split("=", 1) for part in rest.split(",")) if rest else {}
    scope = parts.get("Credential", "").split("/")
    if algorithm != "AWS4-HMAC-SHA256" or scope[0] != AWS_KEY or scope[2:] != [region, service, "aws4_request"]:
        error = {"__type": "IncompleteSignatureException", "message": "no"}
        return Reply(error, 400, {"x-amzn-errortype": "IncompleteSignatureException"})
    signed = parts["SignedHeaders"].split(";")
    assert {"host", "x-amz-date", "x-amz-security-token", "content-type"} <= set(signed)
    headers = {name: asked.headers[name] for name in signed}
    assert headers["host"] == url.removeprefix("http://")
    request = AWSRequest(asked.method, url + asked.path, headers=headers, data=asked.content)
    request.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials(AWS_KEY, AWS_SECRET), service, region)
    wanted = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    if wanted != parts["Signature"]:
        return Reply({"__type": "InvalidSignatureException", "message": "The request signature does not match"}, 400)
    return None
