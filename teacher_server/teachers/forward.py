"""A bundle's network on its device: uint8 rows in, float32 rows out, whatever format the network came in."""

import io
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from teacher_server.teachers.bundle import Bundle, BundleError, choose_device, load_network, read_weights
from teacher_server.teachers.manifest import BundleManifest, InputTable
from teacher_server.teachers.model_file import ModelFileError
from teacher_server.teachers.program_archive import sanitised_program


@dataclass(frozen=True)
class BatchRows:
    """How many rows a network takes at once; ``most`` is None where it takes any number."""

    fewest: int = 1
    most: int | None = None

    @property
    def are_fixed(self) -> bool:
        """Whether it takes one number of rows and no other."""
        return self.fewest == self.most


class Forward(Protocol):
    """One forward pass. Not to be called from two threads at once; whoever holds it has a lock."""

    @property
    def rows(self) -> BatchRows:
        """How many rows a call may have."""
        ...

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 N x K of uint8 images: probabilities where the network's outputs are logits, else its outputs."""
        ...


class Preprocessing:
    """uint8 images_nhwc to the float32 images_nchw a network takes: scaled to 0..1, then (x - mean) / std."""

    def __init__(self, spec: InputTable, device: torch.device) -> None:
        self._mean_c = torch.tensor(spec.mean, device=device) * 255
        self._std_c = torch.tensor(spec.std, device=device) * 255

    def __call__(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        """Scale a batch; both are on the same device."""
        # A permuted view keeps the channels-last strides, which the convolutions are faster on; never .contiguous().
        return images_nhwc.float().sub_(self._mean_c).div_(self._std_c).permute(0, 3, 1, 2)


class TorchForward:
    """A module or an exported program; logits get their softmax on the device."""

    def __init__(
        self,
        network: nn.Module,
        manifest: BundleManifest,
        device: torch.device,
        *,
        rows: BatchRows | None = None,
        channels_last: bool = True,
    ) -> None:
        if device.type == "cuda":
            # TF32 would let a row's answer depend on the batch it came in by far more than the 1e-5 we promise.
            torch.backends.cudnn.allow_tf32 = False
        self._network = network
        self._device = device
        self._preprocessing = Preprocessing(manifest.input, device)
        self._classes = len(manifest.classes)
        self._softmax = manifest.outputs == "logits"
        self._rows = rows or BatchRows()
        self._channels_last = channels_last

    @property
    def rows(self) -> BatchRows:
        """How many rows a call may have."""
        return self._rows

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Forward``. Raises ValueError when the network gives no rows of K numbers."""
        with torch.inference_mode():
            # torch.tensor copies, which suits the read-only view of a request's body; strides other than C order
            # would survive the copy and choose other, slower kernels
            images_nchw = self._preprocessing(torch.tensor(np.ascontiguousarray(images_nhwc)).to(self._device))
            if not self._channels_last:
                images_nchw = images_nchw.contiguous()  # an exported view() may hold for these strides only
            outputs_nk = _rows_of_classes(self._network(images_nchw), len(images_nhwc), self._classes)
            if self._softmax:
                outputs_nk = torch.softmax(outputs_nk, dim=1, dtype=torch.float32)
            result: NDArray[np.float32] = outputs_nk.float().cpu().numpy()
            return result


def load_forward(
    bundle: Bundle,
    device: torch.device | str = "cpu",
    *,
    trusted_networks: Collection[str] = (),
    content: bytes | None = None,
) -> Forward:
    """Load a bundle's network, of whichever format, to ``device``.

    ``content`` stands for the weights file of a bundle that is not written yet. Raises BundleError,
    and ValueError for a device this machine does not have.
    """
    target = choose_device(device)
    if bundle.manifest.weights.format == "safetensors":
        network = load_network(bundle, target, trusted_networks=trusted_networks, content=content)
        return TorchForward(network, bundle.manifest, target)
    content = read_weights(bundle) if content is None else content
    try:
        if bundle.manifest.weights.format == "onnx":
            from teacher_server.teachers.onnx_forward import OnnxForward

            return OnnxForward(content, bundle.manifest, target)
        return _load_program(content, bundle.manifest, target)
    except ModelFileError as error:
        raise BundleError(f"{bundle.weights_path}: {error}") from error


def _load_program(content: bytes, manifest: BundleManifest, device: torch.device) -> TorchForward:
    """A torch.export program, moved to ``device`` wherever it was exported. Raises ModelFileError."""
    from torch.export.passes import move_to_device_pass

    archive = sanitised_program(content)
    try:
        program = _read_program(archive)
        rows = _rows_of_program(program, manifest.input)
        if device.type != "cpu":
            program = move_to_device_pass(program, device)
        network = program.module(check_guards=False)
    except ModelFileError:
        raise
    except Exception as error:  # a damaged program can fail in any part of torch
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelFileError(f"torch {torch.__version__} cannot load this program: {reason}") from error
    return TorchForward(network, manifest, device, rows=rows, channels_last=False)


def _read_program(archive: bytes) -> ExportedProgram:
    """Load it; torch logs the reason of a failure, with a traceback, and raises another error that says less."""
    reasons: list[BaseException] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1]:
            reasons.append(record.exc_info[1])
        return False

    logger = logging.getLogger("torch.export")
    logger.addFilter(keep)
    try:
        return torch.export.load(io.BytesIO(archive))
    except Exception as error:
        raise (reasons[0] if reasons else error) from error
    finally:
        logger.removeFilter(keep)


def _rows_of_program(program: ExportedProgram, spec: InputTable) -> BatchRows:
    """What the program says of its one input, compared with what the manifest says."""
    inputs = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    if len(nodes) != 1:
        raise ModelFileError(f"the program has {len(inputs)} inputs ({', '.join(map(str, inputs))}); one is allowed")
    value = nodes[0].meta["val"]
    wanted = (spec.channels, spec.height, spec.width)
    if not isinstance(value, torch.Tensor) or value.ndim != 4 or value.dtype != torch.float32:
        found = f"{value.dtype} with {value.ndim} dimensions" if isinstance(value, torch.Tensor) else repr(value)
        raise ModelFileError(f"the program's input is {found[:80]}; allowed is float32 N x C x H x W")
    for size, side in zip(value.shape[1:], wanted, strict=True):
        if isinstance(size, int) and size != side:
            raise ModelFileError(
                f"the program takes images of C x H x W = {' x '.join(map(str, value.shape[1:]))}, but the input is "
                f"{spec.height}x{spec.width}x{spec.channels} (H x W x C)"
            )
    batch: Any = value.shape[0]
    if isinstance(batch, int):
        return BatchRows(batch, batch)
    if batch.node.expr not in program.range_constraints:
        return BatchRows()
    limits = program.range_constraints[batch.node.expr]
    most = int(limits.upper) if limits.upper.is_Integer and limits.upper < 2**31 else None
    fewest = int(limits.lower) if limits.lower.is_Integer else 1
    return BatchRows(max(1, fewest), most)


def _rows_of_classes(outputs: object, rows: int, classes: int) -> torch.Tensor:
    """The one tensor among a network's outputs that has K numbers for each row."""
    tensors = [output for output in _leaves(outputs) if isinstance(output, torch.Tensor)]
    return tensors[choose_output([tuple(tensor.shape) for tensor in tensors], rows, classes)]


def choose_output(shapes: list[tuple[int, ...]], rows: int, classes: int) -> int:
    """Which output is the answer: the only one of N x K. Raises ValueError that says what there is."""
    fitting = [index for index, shape in enumerate(shapes) if shape == (rows, classes)]
    if len(fitting) != 1:
        found = ", ".join(" x ".join(map(str, shape)) or "a number" for shape in shapes) or "nothing"
        raise ValueError(
            f"the network answers {rows} images with {found}; allowed is one output of {rows} x {classes}, which is "
            "images x classes"
        )
    return fitting[0]


def softmax(logits_nk: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of logits, row by row."""
    powers_nk = np.exp(logits_nk - logits_nk.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = powers_nk / powers_nk.sum(axis=1, keepdims=True)
    return result


def _leaves(outputs: object) -> Iterator[object]:
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        for output in outputs:
            yield from _leaves(output)
    else:
        yield outputs
