"""An ONNX model in onnxruntime, on the CPU or CUDA."""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from teacher_server.teachers.forward import BatchRows, choose_output, softmax
from teacher_server.teachers.manifest import BundleManifest, InputTable
from teacher_server.teachers.model_file import ModelFileError
from teacher_server.teachers.onnx_model import import_onnx, require_self_contained

_log = logging.getLogger("teacher_server")
_CUDA = "CUDAExecutionProvider"


class OnnxForward:
    """One session; images go in as N x C x H x W or N x H x W x C, whichever the model's input shape says."""

    def __init__(self, content: bytes, manifest: BundleManifest, device: torch.device) -> None:
        """Raise ModelFileError for a model that cannot be run on such images."""
        require_self_contained(content)
        self._session = _session(content, manifest.name, device)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{one.name}: {one.type}" for one in inputs)
            raise ModelFileError(f"the model's inputs are {found}; allowed is one tensor(float)")
        self._input = inputs[0].name
        outputs = self._session.get_outputs()
        self._outputs = [output.name for output in outputs if output.type == "tensor(float)"]
        if not self._outputs:
            found = ", ".join(f"{one.name}: {one.type}" for one in outputs)
            raise ModelFileError(f"the model's outputs are {found}; allowed is a tensor(float)")
        self.layout = _layout(inputs[0].shape, manifest.input)
        batch = inputs[0].shape[0]
        self._rows = BatchRows(batch, batch) if isinstance(batch, int) and batch > 0 else BatchRows()
        self._mean_c = np.array(manifest.input.mean, np.float32) * np.float32(255)
        self._std_c = np.array(manifest.input.std, np.float32) * np.float32(255)
        self._classes = len(manifest.classes)
        self._softmax = manifest.outputs == "logits"

    @property
    def rows(self) -> BatchRows:
        """How many rows a call may have."""
        return self._rows

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Forward``. Raises ValueError when the model gives no rows of K numbers."""
        images = (images_nhwc.astype(np.float32) - self._mean_c) / self._std_c
        if self.layout == "NCHW":
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        outputs = self._session.run(self._outputs, {self._input: images})
        chosen = choose_output([output.shape for output in outputs], len(images_nhwc), self._classes)
        outputs_nk: NDArray[np.float32] = outputs[chosen]
        return softmax(outputs_nk) if self._softmax else outputs_nk


def _session(content: bytes, name: str, device: torch.device) -> Any:
    _, onnxruntime = import_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # one limit for all teachers, OMP_NUM_THREADS
    options.log_severity_level = 3  # errors; they are raised as well
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and _CUDA in onnxruntime.get_available_providers():
        # TF32 would let a row's answer depend on the batch it came in
        providers.insert(0, (_CUDA, {"device_id": device.index or 0, "use_tf32": 0}))
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no other base
        reason = " ".join(str(error).split())[:300]
        raise ModelFileError(f"onnxruntime {onnxruntime.__version__} cannot load this model: {reason}") from error
    if device.type == "cuda" and _CUDA not in session.get_providers():
        _log.warning(
            "teacher %s runs on the CPU: onnxruntime has no CUDA here; onnxruntime-gpu instead of onnxruntime has it",
            name,
        )
    return session


def _layout(shape: list[object], spec: InputTable) -> str:
    """NCHW or NHWC, told by the sides that the model fixes; NCHW, as torch exports, when it fixes none."""
    if len(shape) != 4:
        raise ModelFileError(f"the model's input has the shape {shape}; allowed are N x C x H x W and N x H x W x C")
    layouts = {"NCHW": (spec.channels, spec.height, spec.width), "NHWC": (spec.height, spec.width, spec.channels)}
    for layout, sides in layouts.items():
        if all(not isinstance(found, int) or found == side for found, side in zip(shape[1:], sides, strict=True)):
            return layout
    raise ModelFileError(
        f"the model takes images of the shape {shape[1:]}, but the input is "
        f"{spec.height}x{spec.width}x{spec.channels} (H x W x C)"
    )
