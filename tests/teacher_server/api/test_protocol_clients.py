"""The clients that others wrote, unmodified, against `teacher serve` as a process of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from numpy.typing import NDArray

from shared.wire.contracts import Disclosure
from teacher_server.ledger.keys.issuing import create_key
from tests.teacher_server.security.conftest import Serve, Served
from tests.teacher_server.security.schemathesis_hooks import picture
from tests.teacher_server.support import numbered_images, numbers_of, require_sound


@pytest.fixture
def served(serve: Serve) -> Iterator[Served]:
    found = serve()
    yield found
    with found.place.open() as database:
        require_sound(database)


def new_secret(served: Served, name: str, *, budget: int, disclosure: str = "probabilities") -> str:
    with served.place.open() as database:
        parsed = Disclosure.parse(disclosure)
        return create_key(database, name=name, budget=budget, disclosure=parsed, expires_at=None)[1]


def spent_by(served: Served, secret: str) -> int:
    with served.client() as client:
        answer = client.get("/v1/usage", headers={"Authorization": f"Bearer {secret}"})
        return int(answer.raise_for_status().json()["spent"])


# --- tritonclient -------------------------------------------------------------------------------------------------


@dataclass
class TritonUser:
    """Somebody with a key and NVIDIA's client."""

    client: Any
    headers: dict[str, str] | None

    def infer(self, array: NDArray[Any], datatype: str, *, binary: bool = True, **options: Any) -> Any:
        tensor = triton.InferInput("images", list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=binary)
        headers = {**(self.headers or {}), **options.pop("headers", {})}  # the client adds to what it is given
        return self.client.infer("numbers", [tensor], headers=headers, **options)


@pytest.fixture
def user(served: Served) -> Iterator[TritonUser]:
    client = triton.InferenceServerClient(f"127.0.0.1:{served.port}")
    yield TritonUser(client, {"Authorization": f"Bearer {served.secret}"})
    client.close()


def wanted(*, binary: bool = True, classes: int = 0, name: str = "probabilities") -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary, class_count=classes)]


def test_triton_looks_around(user: TritonUser) -> None:
    client, headers = user.client, user.headers
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("numbers", headers=headers)
    assert client.is_model_ready("numbers", "1", headers=headers)
    assert not client.is_model_ready("numbers", "2", headers=headers)
    assert not client.is_model_ready("absent", headers=headers)
    assert "binary_tensor_data" in client.get_server_metadata(headers=headers)["extensions"]
    metadata = client.get_model_metadata("numbers", headers=headers)
    assert metadata["inputs"][0]["shape"] == [-1, 8, 8, 1]
    assert client.get_model_metadata("numbers", "1", headers=headers) == metadata
    assert not client.is_model_ready("numbers"), "without a key nobody is told of a teacher"
    for ask in (client.get_server_metadata, lambda: client.get_model_metadata("numbers")):
        with pytest.raises(triton.InferenceServerException, match="unauthenticated") as caught:
            ask()
        assert caught.value.status() == "401"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_triton_buys(user: TritonUser, served: Served, compression: str | None) -> None:
    numbers = [3, 65_535, 258]
    pixels = numbered_images(numbers)
    files = np.array([picture(number, kind="PNG") for number in numbers], object)
    tensors: list[tuple[NDArray[Any], str, bool]] = [
        (pixels, "UINT8", True),
        (pixels, "UINT8", False),
        ((pixels / np.float32(255)).astype(np.float32), "FP32", True),
        ((pixels / np.float32(255)).astype(np.float32), "FP32", False),
        (files, "BYTES", True),
        (files.reshape(3, 1), "BYTES", True),
    ]
    answers = []
    for array, datatype, binary in tensors:
        for outputs in (None, wanted(), wanted(binary=False)):
            result = user.infer(
                array,
                datatype,
                binary=binary,
                outputs=outputs,
                request_id="mine",
                request_compression_algorithm=compression,
                response_compression_algorithm=compression,
            )
            answers.append(result.as_numpy("probabilities"))
            told = result.get_response()
            assert (told["id"], told["parameters"]["charged"]) == ("mine", 3)
            assert ("input_quantised" in told["parameters"]) is (datatype == "FP32")
    assert all(answer.dtype == np.float32 for answer in answers)
    assert {answer.tobytes() for answer in answers} == {answers[0].tobytes()}
    assert numbers_of(answers[0]) == numbers
    assert served.spent() == 3 * len(answers)
    result = user.infer(pixels, "UINT8", model_version="1")
    assert result.get_response()["model_version"] == "1"


@pytest.mark.parametrize("binary", [True, False])
def test_triton_classifies(user: TritonUser, binary: bool) -> None:
    result = user.infer(numbered_images([50_000, 1]), "UINT8", outputs=wanted(classes=2, binary=binary))
    found = result.as_numpy("probabilities")
    texts = [[entry.decode() if binary else entry for entry in row] for row in found]
    assert texts == [["0.500000:0:zero", "0.333333:2:two"], ["0.666660:2:two", "0.333330:1:one"]]


def test_triton_asks_again_under_one_idempotency_key(user: TritonUser, served: Served) -> None:
    asked = [
        user.infer(numbered_images([5]), "UINT8", headers={"Idempotency-Key": "once"}, request_id=str(turn))
        for turn in range(3)
    ]
    assert len({result.get_response()["parameters"]["event_hash"] for result in asked}) == 1
    assert served.spent() == 1


@pytest.mark.parametrize("disclosure", ["top-k:1", "label"])
def test_triton_sees_what_its_key_may(user: TritonUser, served: Served, disclosure: str) -> None:
    user.headers = {"Authorization": f"Bearer {new_secret(served, 'bob', budget=50, disclosure=disclosure)}"}
    pixels = numbered_images([1, 2])
    if disclosure == "label":
        for outputs in (None, wanted(name="labels"), wanted(name="labels", binary=False)):
            labels = user.infer(pixels, "UINT8", outputs=outputs).as_numpy("labels")
            assert (labels.dtype, labels.tolist()) == (np.int64, [2, 2])
        found = user.infer(pixels, "UINT8", outputs=wanted(name="labels", classes=1)).as_numpy("labels")
        assert found.ravel().tolist() == [b"nan:2:two", b"nan:2:two"]
    else:
        for outputs in (None, wanted(binary=False)):
            values = user.infer(pixels, "UINT8", outputs=outputs).as_numpy("probabilities")
            assert np.isnan(values).tolist() == [[True, True, False]] * 2, "null in JSON is NaN again"
    with pytest.raises(triton.InferenceServerException, match="invalid_request") as caught:
        user.infer(
            pixels, "UINT8", outputs=wanted(classes=2, name="labels" if disclosure == "label" else "probabilities")
        )
    assert caught.value.status() == "422"


def test_triton_is_refused(user: TritonUser, served: Served) -> None:
    good = user.headers
    for headers in (None, {"Authorization": "Bearer tk-0123456789ab-" + "A" * 43}):
        user.headers = headers
        with pytest.raises(triton.InferenceServerException, match="unauthenticated") as caught:
            user.infer(numbered_images([1]), "UINT8")
        assert caught.value.status() == "401"
    secret = new_secret(served, "bob", budget=3)
    user.headers = {"Authorization": f"Bearer {secret}"}
    user.infer(numbered_images([1, 2]), "UINT8")
    with pytest.raises(triton.InferenceServerException, match=r"budget_exhausted: .*spent=2") as caught:
        user.infer(numbered_images([1, 2]), "UINT8")
    assert caught.value.status() == "403"
    assert spent_by(served, secret) == 2
    user.headers = good
    for array, datatype, status, told in (
        (numbered_images([1]).astype(np.float64), "FP64", "422", "UINT8, FP32, BYTES"),
        (np.zeros((1, 4, 4, 1), np.uint8), "UINT8", "422", "shape is"),
        (np.full((1, 8, 8, 1), -2.1, np.float32), "FP32", "422", "a value is -2.1"),
        (np.array([b"no picture"], object), "BYTES", "422", "cannot be decoded"),
        (np.zeros((1025, 8, 8, 1), np.uint8), "UINT8", "413", "too_many_images"),
    ):
        with pytest.raises(triton.InferenceServerException, match=told) as caught:
            user.infer(array, datatype)
        assert caught.value.status() == status
    assert served.spent() == 0


# --- huggingface_hub ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_hub_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HF_HUB_OFFLINE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


def hub_client(served: Served, secret: str, *, path: str = "/hf/numbers") -> InferenceClient:
    return InferenceClient(model=served.server.url + path, token=secret)


def test_the_hub_client_buys(served: Served, tmp_path: Any) -> None:
    client = hub_client(served, served.secret)
    png = picture(30_000, kind="PNG")
    file = tmp_path / "picture.png"
    file.write_bytes(png)
    expected = [("two", 0.466667), ("zero", 0.3), ("one", 0.233333)]
    for image in (png, file, str(file)):
        assert [(entry.label, entry.score) for entry in client.image_classification(image)] == expected
        found = client.image_classification(image, top_k=2, function_to_apply="softmax")
        assert [(entry.label, entry.score) for entry in found] == expected[:2]
    by_version = hub_client(served, served.secret, path="/hf/numbers/versions/1")
    assert [entry.label for entry in by_version.image_classification(png, top_k=1)] == ["two"]
    assert served.spent() == 7


def test_the_hub_client_of_a_label_key(served: Served) -> None:
    client = hub_client(served, new_secret(served, "bob", budget=5, disclosure="label"))
    (entry,) = client.image_classification(picture(1, kind="PNG"))
    assert entry.label == "two"
    assert repr(entry.score) == "None", "which the client's own type does not expect, and takes"


def test_the_hub_client_is_refused(served: Served) -> None:
    png = picture(1, kind="PNG")
    secret = new_secret(served, "bob", budget=1)
    hub_client(served, secret).image_classification(png)
    cases = [
        (hub_client(served, secret), png, 402, "budget_exhausted"),
        (hub_client(served, "wrong"), png, 401, "unauthenticated"),
        (hub_client(served, served.secret, path="/hf/absent"), png, 404, "teacher_not_found"),
        (hub_client(served, served.secret), b"no picture", 422, "invalid_images"),
    ]
    for client, image, status, code in cases:
        with pytest.raises(HfHubHTTPError, match=code) as caught:
            client.image_classification(image)
        assert caught.value.response.status_code == status
        assert code in str(caught.value.server_message)
        assert "token has the correct permissions" not in str(caught.value), "which it says of every 403"
    with pytest.raises(HfHubHTTPError, match="function_to_apply"):
        hub_client(served, served.secret).image_classification(png, function_to_apply="sigmoid")
    assert (served.spent(), spent_by(served, secret)) == (0, 1)
