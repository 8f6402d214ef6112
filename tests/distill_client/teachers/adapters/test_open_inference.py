"""The Open Inference Protocol v2, against a server that keeps its tensors as the specification and extensions say."""

import base64
import io
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from distill_client.errors import ConfigError, TeacherProtocolError, TeacherRefused
from distill_client.teachers.encoding import encode_image
from distill_client.teachers.manners.patience import Retryable
from tests.distill_client.teachers.adapters.vendor import (
    CLASSES,
    HTML,
    IMAGES,
    ROWS,
    Asked,
    Reply,
    Vendor,
    adapter_of,
    ask,
)

LENGTH = "Inference-Header-Content-Length"
DTYPES = {"UINT8": "<u1", "FP32": "<f4"}
BYTES_OF = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8"}


@dataclass
class Model:
    """One model; remembers the input of its last call as an array, or as files."""

    datatype: str = "UINT8"
    shape: list[int] = field(default_factory=lambda: [-1, 5, 6, 3])
    output: Any = field(default_factory=lambda: ROWS)
    output_datatype: str = "FP32"
    classification: bool = False
    labels: list[str] | None = None
    version: str | None = "3"
    seen: Any = None
    wanted: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __call__(self, asked: Asked) -> Reply:
        if asked.method == "GET":
            outputs = [
                {"name": "scores", "datatype": self.output_datatype, "shape": [-1, *np.shape(self.output)[1:]]}
            ]
            inputs = [{"name": "pixels", "datatype": self.datatype, "shape": self.shape}]
            return Reply({"name": "m", "platform": "x", "inputs": inputs, "outputs": outputs, **self.metadata})
        length = asked.headers.get(LENGTH.lower())
        head = json.loads(asked.content[: int(length)] if length else asked.content)
        (tensor,), (self.wanted,) = head["inputs"], head["outputs"]
        assert head["id"] == asked.headers["idempotency-key"]  # KServe's Python server fails without one
        assert tensor["name"] == "pixels"
        self.seen = self._read(tensor, asked.content[int(length) :] if length else None)
        return self._write(bool(length))

    def _read(self, tensor: dict[str, Any], raw: bytes | None) -> Any:
        if raw is not None:
            assert tensor["parameters"]["binary_data_size"] == len(raw)
            assert "data" not in tensor
        if tensor["datatype"] != "BYTES":
            dtype = DTYPES[tensor["datatype"]]
            flat = np.array(tensor["data"], dtype) if raw is None else np.frombuffer(raw, dtype)
            return flat.reshape(tensor["shape"])
        if raw is None:
            return [base64.b64decode(text) for text in tensor["data"]]
        files = []
        while raw:
            (size,) = struct.unpack("<I", raw[:4])
            files.append(raw[4 : 4 + size])
            raw = raw[4 + size :]
        assert int(np.prod(tensor["shape"])) == len(files)
        return files

    def _write(self, is_binary: bool) -> Reply:
        values, datatype = self.output, self.output_datatype
        if count := self.wanted.get("parameters", {}).get("classification"):
            order = np.argsort(-values, axis=1)[:, :count]
            names = [f":{label}" for label in self.labels] if self.labels else [""] * len(CLASSES)
            values = np.array(
                [[f"{row[at]:.6f}:{at}{names[at]}" for at in places] for row, places in zip(ROWS, order, strict=True)]
            )
            datatype = "BYTES" if is_binary else "STRING"
        output: dict[str, Any] = {"name": "scores", "datatype": datatype, "shape": list(np.shape(values))}
        document = {"model_name": "m", "model_version": self.version, "outputs": [output]}
        if not is_binary:
            output["data"] = values.ravel().tolist()
            return Reply(document)
        assert self.wanted["parameters"]["binary_data"] is True
        if datatype == "BYTES":
            raw = b"".join(struct.pack("<I", len(text)) + text.encode() for text in values.ravel())
        else:
            raw = np.ascontiguousarray(values).astype(BYTES_OF[datatype]).tobytes()
        output["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps(document).encode()
        return Reply(head + raw, headers={LENGTH: str(len(head)), "Content-Type": "application/octet-stream"})


def adapter(theirs: Vendor, **keys: Any) -> Any:
    content = {"model": "m", "datatype": "UINT8", "images_per_call": 8, **keys}
    return adapter_of(theirs.url, "open-inference", **content)


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


def output(**changes: Any) -> dict[str, Any]:
    return {
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [3, 4], "data": ROWS.ravel().tolist(), **changes}]
    }


@pytest.mark.parametrize(
    "content",
    [
        HTML,
        b"",
        b"{" * 100_000,
        {},
        {"outputs": []},
        {"outputs": "x"},
        {"outputs": [3]},
        {"outputs": [{"name": "scores"}]},
        output(name="other"),
        output(shape=[4, 3]),
        output(shape=[2, 4], data=[0.1] * 8),
        output(shape=[3, 5], data=[0.1] * 15),
        output(shape=[3]),
        output(shape=[-3, -4]),
        output(shape=[3, "4"]),
        output(shape=[3, True, 4]),
        output(shape=[10**30, 0]),
        output(data=[0.1] * 11),
        output(data=["0.1"] * 12),
        output(data=[True] * 12),
        output(data=[[0.1] * 4, [0.1] * 4, [0.1] * 3]),
        output(data="0.1"),
        output(data=None),
        output(data=[10**400] * 12),
        output(data=[None] * 12),
        output(data=[7.5] * 12),
        output(data=[-0.1] * 12),
        output(data=[0.9] * 12),
        output(datatype="BF16"),
        output(datatype=["FP32"]),
        output(datatype="BYTES", data=["a"] * 12),
        output(parameters={"binary_data_size": 48}),
        output(parameters={"binary_data_size": -1}),
        output(parameters={"binary_data_size": "48"}),
        json.dumps(output()).replace("0.7", "NaN").replace("0.1", "NaN").replace("0.", "-Infinity, 0.").encode(),
    ],
)
def test_what_is_no_answer(theirs: Vendor, content: Any) -> None:
    model = Model()
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply(content)
    with pytest.raises(TeacherProtocolError) as caught:
        ask(adapter(theirs), theirs.url)
    assert caught.value.charged == "unknown"
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("length", "body"),
    [
        ("9999999999999999999999", b"{}"),
        ("-1", b"{}"),
        ("x", b"{}"),
        ("²", b"{}"),
        ("0", b"{}"),
        ("50", b"{}"),
    ],
)
def test_a_header_that_lies_about_the_json(theirs: Vendor, length: str, body: bytes) -> None:
    model = Model()
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply(body, headers={LENGTH: length})
    with pytest.raises(TeacherProtocolError):
        ask(adapter(theirs), theirs.url)


@pytest.mark.parametrize(
    ("datatype", "raw"),
    [
        ("FP32", b"\0" * 47),
        ("FP32", b"\0" * 52),
        ("BYTES", b"\xff\xff\xff\xff1"),
        ("BYTES", b"\1\0"),
        ("BYTES", b"\3\0\0\0\xff\xfe:" * 12),
    ],
)
def test_binary_that_is_no_answer(theirs: Vendor, datatype: str, raw: bytes) -> None:
    model = Model()
    entry = {"name": "scores", "datatype": datatype, "shape": [3, 4], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"outputs": [entry]}).encode()
    reply = Reply(head + raw, headers={LENGTH: str(len(head))})
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else reply
    with pytest.raises(TeacherProtocolError):
        ask(adapter(theirs, output="classification" if datatype == "BYTES" else "probabilities"), theirs.url)


@pytest.mark.parametrize("entry", ["0.9", "0.9:4", "0.9:-1", "0.9:x", "x:1", ":1", "0.9:1:Coat", "0.9:²"])
def test_entries_that_name_no_class(theirs: Vendor, entry: str) -> None:
    model = Model()
    told = {"outputs": [{"name": "scores", "datatype": "STRING", "shape": [3, 1], "data": ["0.9:1", entry, "0.9:2"]}]}
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply(told)
    with pytest.raises(TeacherProtocolError):
        ask(adapter(theirs, output="classification", answers="top-k:1"), theirs.url)


@pytest.mark.parametrize("labels", [[0, 1, 4], [0, 1, -1], [0, 1, 1.5], [0, 1], [0, 1, None]])
def test_labels_that_are_no_places(theirs: Vendor, labels: list[Any]) -> None:
    model = Model(output=np.array([0, 1, 2]))
    told = {"outputs": [{"name": "scores", "datatype": "FP32", "shape": [len(labels)], "data": labels}]}
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply(told)
    with pytest.raises(TeacherProtocolError):
        ask(adapter(theirs, output="label", answers="label"), theirs.url)


@pytest.mark.parametrize(
    ("status", "charged"), [(503, "no"), (429, "no"), (500, "unknown"), (504, "unknown"), (408, "unknown")]
)
def test_failures_that_pass(theirs: Vendor, status: int, charged: str) -> None:
    model = Model()
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply({"error": "no"}, status)
    with pytest.raises(Retryable) as caught:
        ask(adapter(theirs), theirs.url)
    assert caught.value.charged == charged


def test_bad_requests_cost_nothing(theirs: Vendor) -> None:
    model = Model()
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply({"error": "batch-size"}, 400)
    with pytest.raises(TeacherRefused, match="batch-size") as caught:
        ask(adapter(theirs), theirs.url)
    assert caught.value.charged == "no"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"output": "label"}, "output is label and answers is 'probabilities'"),
        ({"output": "logits", "answers": "top-k:2"}, "output is logits"),
        ({"mean": [0.1, 0.2]}, "mean has 2 numbers"),
        ({"std": [1.0, 0.0, 1.0]}, "std is"),
        ({"model": "a/b"}, "model"),
        ({"datatype": "INT8"}, "datatype"),
        ({"scale": 0}, "scale"),
    ],
)
def test_files_that_cannot_be(theirs: Vendor, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        adapter(theirs, **keys)


@pytest.mark.parametrize(
    ("keys", "images"),
    [
        ({"datatype": "UINT8", "call_bytes_max": 2048 + 90 * 3}, 3),
        ({"datatype": "FP32", "call_bytes_max": 2048 + 90 * 4 * 3}, 3),
        ({"datatype": "UINT8", "wire": "json", "call_bytes_max": 2048 + 90 * 4 * 2}, 2),
        ({"datatype": "BYTES", "call_bytes_max": 2048 + 4000}, 3),
        ({"datatype": "UINT8"}, 8),
    ],
)
def test_no_more_images_than_fit_a_call(theirs: Vendor, keys: dict[str, Any], images: int) -> None:
    model = theirs.answer = Model(shape=[-1] if keys["datatype"] == "BYTES" else [-1, 5, 6, 3])
    model.datatype = keys["datatype"]
    found = adapter(theirs, **keys)
    assert found.capabilities.images_per_request_max == images
    model.output = np.repeat(ROWS[:1], images, axis=0)
    ask(found, theirs.url, np.random.default_rng(1).integers(0, 256, (images, 5, 6, 3), np.uint8))
    if "call_bytes_max" in keys:
        assert len(theirs.asked[-1].content) <= keys["call_bytes_max"]


def test_a_call_that_holds_no_image(theirs: Vendor) -> None:
    with pytest.raises(ConfigError, match="call_bytes_max is 2000"):
        adapter(theirs, call_bytes_max=2000)
