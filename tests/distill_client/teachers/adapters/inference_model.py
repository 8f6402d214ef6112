"""A model behind the Open Inference Protocol v2, its tensors as the specification and its extensions say."""

import base64
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.distill_client.teachers.adapters.vendor import (
    CLASSES,
    ROWS,
    Asked,
    Reply,
    Vendor,
    adapter_of,
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
