"""The Open Inference Protocol v2, against a server that keeps its tensors as the specification and extensions say."""

import io
import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from numpy.typing import NDArray
from PIL import Image

from distill_client.errors import ConfigError, TeacherProtocolError, TeacherRefused
from distill_client.teachers.encoding import encode_image
from tests.distill_client.teachers.adapters.inference_model import LENGTH, Model, adapter
from tests.distill_client.teachers.adapters.vendor import (
    CLASSES,
    HTML,
    IMAGES,
    ROWS,
    Reply,
    Vendor,
    ask,
)


def decoded(files: list[bytes]) -> NDArray[np.uint8]:
    return np.stack([np.array(Image.open(io.BytesIO(content))) for content in files])


@pytest.mark.parametrize("wire", ["binary", "json"])
@pytest.mark.parametrize("output_datatype", ["FP32", "FP64"])
def test_bytes_as_they_are(theirs: Vendor, wire: str, output_datatype: str) -> None:
    model = theirs.answer = Model(output_datatype=output_datatype)
    answer = ask(adapter(theirs, wire=wire), theirs.url)
    assert answer.values.dtype == np.float32
    assert answer.values == pytest.approx(ROWS)
    assert np.array_equal(model.seen, IMAGES)
    assert [asked.path for asked in theirs.asked] == ["/v2/models/m", "/v2/models/m/infer"]
    assert theirs.asked[1].headers["idempotency-key"] == "key-1"


@pytest.mark.parametrize("datatype", ["UINT8", "FP32", "BYTES"])
def test_the_same_bytes_as_tritons_own_client(theirs: Vendor, datatype: str) -> None:
    theirs.answer = Model(datatype=datatype, shape=[-1] if datatype == "BYTES" else [-1, 5, 6, 3])
    found = adapter(theirs, datatype=datatype)
    ask(found, theirs.url)
    files = [encode_image(image_hwc, "png") for image_hwc in IMAGES]
    values = {
        "UINT8": IMAGES,
        "FP32": (IMAGES / 255).astype(np.float32),
        "BYTES": np.array(files, dtype=object),
    }[datatype]
    tensor = tritonclient.http.InferInput("pixels", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=True)
    wanted = tritonclient.http.InferRequestedOutput("scores", binary_data=True)
    body, length = tritonclient.http.InferenceServerClient.generate_request_body(
        [tensor], outputs=[wanted], request_id="key-1"
    )
    sent = theirs.asked[-1]
    ours = int(sent.headers[LENGTH.lower()])
    assert json.loads(sent.content[:ours]) == json.loads(body[:length])
    assert sent.content[ours:] == body[length:]


@pytest.mark.parametrize("wire", ["binary", "json"])
def test_scaled_numbers_in_another_layout(theirs: Vendor, wire: str) -> None:
    model = theirs.answer = Model(datatype="FP32", shape=[-1, 3, 5, 6])
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    found = adapter(theirs, datatype="FP32", layout="nchw", mean=mean, std=std, wire=wire)
    ask(found, theirs.url)
    expected = (IMAGES / 255 - mean) / std
    assert model.seen == pytest.approx(expected.transpose(0, 3, 1, 2), abs=1e-6)
    assert found.capabilities.input_form == "fp32"
    assert "nchw" in found.capabilities.preprocessing
    assert "0.485, 0.456, 0.406" in found.capabilities.preprocessing


def test_flat_rows(theirs: Vendor) -> None:
    model = theirs.answer = Model(datatype="FP32", shape=[-1, 90])
    ask(adapter(theirs, datatype="FP32", layout="flat", scale=1.0), theirs.url)
    assert np.array_equal(model.seen, IMAGES.reshape(3, 90))


def test_enlarged_images_in_another_layout(theirs: Vendor) -> None:
    model = theirs.answer = Model(shape=[-1, 3, 10, 12])
    found = adapter(theirs, layout="nchw", min_size="10x10")
    larger_nhwc = IMAGES.repeat(2, axis=1).repeat(2, axis=2)  # as the teacher in front of the adapter enlarges them
    ask(found, theirs.url, larger_nhwc)
    assert np.array_equal(model.seen, larger_nhwc.transpose(0, 3, 1, 2))
    assert found.capabilities.preprocessing.startswith("enlarged to 10x12")
    assert found.capabilities.upscaled_to == "10x12"


@pytest.mark.parametrize("wire", ["binary", "json"])
@pytest.mark.parametrize("shape", [[-1], [-1, 1]])
def test_encoded_files(theirs: Vendor, wire: str, shape: list[int]) -> None:
    model = theirs.answer = Model(datatype="BYTES", shape=shape)
    found = adapter(theirs, datatype="BYTES", wire=wire)
    assert ask(found, theirs.url).values == pytest.approx(ROWS)
    assert np.array_equal(decoded(model.seen), IMAGES)
    assert found.capabilities.input_form == "png"


def test_files_for_a_model_of_numbers_as_openvino_takes_them(theirs: Vendor) -> None:
    model = theirs.answer = Model(datatype="FP32", shape=[-1, 224, 224, 3])
    ask(adapter(theirs, datatype="BYTES"), theirs.url)
    assert np.array_equal(decoded(model.seen), IMAGES)


def test_logits_go_through_softmax_here(theirs: Vendor) -> None:
    theirs.answer = Model(output=np.log(ROWS + 1e-9) + 5)
    assert ask(adapter(theirs, output="logits"), theirs.url).values == pytest.approx(ROWS, abs=1e-6)


def test_huge_logits_are_no_overflow(theirs: Vendor) -> None:
    theirs.answer = Model(output=np.array([[1e300, 0, 0, 0]] * 3), output_datatype="FP64")
    assert ask(adapter(theirs, output="logits"), theirs.url).values.argmax(axis=1).tolist() == [0, 0, 0]


@pytest.mark.parametrize("wire", ["binary", "json"])
@pytest.mark.parametrize("labels", [None, CLASSES])
def test_classification_strings(theirs: Vendor, wire: str, labels: list[str] | None) -> None:
    model = theirs.answer = Model(labels=labels)
    found = adapter(theirs, output="classification", answers="top-k:2", wire=wire)
    values = ask(found, theirs.url).values
    assert model.wanted["parameters"]["classification"] == 2
    assert np.isnan(values).sum(axis=1).tolist() == [2, 2, 2]
    assert np.nanmax(values, axis=1) == pytest.approx([0.7, 0.4, 1.0])
    assert np.nanargmax(values, axis=1).tolist() == [0, 3, 2]


def test_the_label_counts_before_its_place(theirs: Vendor) -> None:
    theirs.answer = Model(labels=["Ankle boot", "Sandal", "Trouser", "T-shirt/top"])
    values = ask(adapter(theirs, output="classification"), theirs.url).values
    assert values == pytest.approx(ROWS[:, ::-1])


def test_label_by_classification_may_have_no_value(theirs: Vendor) -> None:
    entries = {"name": "scores", "datatype": "STRING", "shape": [3, 1], "data": ["nan:3", "nan:0", "nan:1"]}
    model = Model()
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply({"outputs": [entries]})
    values = ask(adapter(theirs, output="classification", answers="label"), theirs.url).values
    assert values.tolist() == [3, 0, 1]


@pytest.mark.parametrize("wire", ["binary", "json"])
def test_labels(theirs: Vendor, wire: str) -> None:
    theirs.answer = Model(output=np.array([2, 0, 3]), output_datatype="INT64")
    values = ask(adapter(theirs, output="label", answers="label", wire=wire), theirs.url).values
    assert values.dtype == np.int64
    assert values.tolist() == [2, 0, 3]


def test_null_is_what_is_not_disclosed(theirs: Vendor) -> None:
    theirs.answer = Model(output=np.array([[0.7, None, None, 0.1]] * 3, dtype=object))
    values = ask(adapter(theirs, wire="json", answers="top-k:2"), theirs.url).values
    assert np.isnan(values).sum(axis=1).tolist() == [2, 2, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_the_model_failed_at_says_nothing(theirs: Vendor, bad: float) -> None:
    rows = ROWS.copy()
    rows[1] = bad
    theirs.answer = Model(output=rows)
    values = ask(adapter(theirs), theirs.url).values
    assert np.isnan(values[1]).all()
    assert values[[0, 2]] == pytest.approx(ROWS[[0, 2]])
    assert ask(adapter(theirs, answers="label"), theirs.url).values.tolist() == [0, -1, 2]


def test_names_and_version_from_the_file(theirs: Vendor) -> None:
    model = theirs.answer = Model(metadata={"inputs": None, "outputs": []})
    ask(adapter(theirs, input_name="pixels", output_name="scores", model_version="3"), theirs.url)
    assert theirs.asked[-1].path == "/v2/models/m/versions/3/infer"
    assert model.wanted["name"] == "scores"


def test_another_model_in_the_place_of_the_first(theirs: Vendor) -> None:
    model = theirs.answer = Model()
    found = adapter(theirs)
    ask(found, theirs.url)
    model.version = "4"
    with pytest.raises(TeacherProtocolError, match="another model answers"):
        ask(found, theirs.url)


@pytest.mark.parametrize(
    ("model", "keys", "says"),
    [
        (Model(datatype="FP32"), {}, "datatype is UINT8; input 'pixels' of model m is FP32"),
        (Model(shape=[-1, 3, 5, 6]), {}, r"\[-1, 5, 6, 3\]; input 'pixels' of model m has \[-1, 3, 5, 6\]"),
        (Model(shape=[5, 6, 3]), {}, "image_size"),
        (Model(shape=[-1, 28, 28, 1]), {}, "image_size"),
        (Model(shape=[1, 5, 6, 3]), {}, "images_per_call is 8"),
        (Model(shape=[4, 5, 6, 3]), {"images_per_call": 1}, "takes exactly 4 a call"),
        (Model(output=np.zeros((3, 1000))), {}, "classes has 4 names"),
        (Model(), {"input_name": "x"}, "input_name is 'x'; model m has 'pixels'"),
        (Model(metadata={"inputs": []}), {}, "input_name is not given"),
        (
            Model(metadata={"outputs": [{"name": "a", "shape": [-1, 4]}, {"name": "b", "shape": [-1, 9]}]}),
            {},
            "names 'a', 'b'; choose one",
        ),
        (
            Model(metadata={"outputs": [{"name": "a", "shape": [-1, 4], "parameters": {"classes": '["a", "b"]'}}]}),
            {},
            "classes is",
        ),
    ],
)
def test_a_model_that_is_not_what_the_file_says(theirs: Vendor, model: Model, keys: Any, says: str) -> None:
    theirs.answer = model
    with pytest.raises(ConfigError, match=says):
        ask(adapter(theirs, **keys), theirs.url)
    assert [asked.method for asked in theirs.asked] == ["GET"]


def test_one_image_of_a_model_that_takes_one(theirs: Vendor) -> None:
    theirs.answer = Model(shape=[1, 5, 6, 3], output=ROWS[:1])
    assert ask(adapter(theirs, images_per_call=1), theirs.url, IMAGES[:1]).values == pytest.approx(ROWS[:1])


@pytest.mark.parametrize(
    "content", [HTML, b"[1]", {"inputs": []}, {"name": "m", "inputs": [{"shape": "x"}]}, b"[" * 9999]
)
def test_metadata_that_is_none(theirs: Vendor, content: Any) -> None:
    theirs.always(content)
    with pytest.raises(TeacherProtocolError):
        ask(adapter(theirs), theirs.url)


def test_a_model_that_is_not_there(theirs: Vendor) -> None:
    theirs.always({"error": "Request for unknown model: 'm' is not found"}, 404)
    with pytest.raises(TeacherRefused, match="unknown model"):
        ask(adapter(theirs), theirs.url)
