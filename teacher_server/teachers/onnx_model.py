"""An ONNX file as bytes that stand for themselves: no data in other files, no operators from elsewhere."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from teacher_server.teachers.model_file import ModelFileError

if TYPE_CHECKING:
    from onnx import ModelProto

# What onnxruntime itself brings; everything else would be a library of somebody's.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_OPERATORS_WITH_FILES = ("EPContext",)
BYTES_MAX = 2**31 - 1  # protobuf's own limit


def import_onnx() -> tuple[ModuleType, ModuleType]:
    """The packages ``onnx`` and ``onnxruntime``. Raises ModelFileError that says how to install them."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ModelFileError(
            f"an ONNX model needs {error.name}, which is not installed: pip install 'blackbox-distillation[onnx]'"
        ) from error
    return onnx, onnxruntime


def require_self_contained(content: bytes) -> None:
    """Raise ModelFileError unless the model needs nothing but these bytes and onnxruntime's own operators."""
    model = _parsed(content)
    for tensor in _external_tensors(model):
        raise ModelFileError(f"the tensor {tensor.name!r} is in another file; import the model, which copies it in")
    _require_known_operators(model)


def with_external_data(content: bytes, folder: Path) -> tuple[bytes, list[str]]:
    """The model with the data of other files in ``folder`` copied in, and their names.

    Files anywhere else are refused. Raises ModelFileError.
    """
    onnx, _ = import_onnx()
    model = _parsed(content)
    _require_known_operators(model)
    names: set[str] = set()
    for tensor in _external_tensors(model):
        locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
        location = ", ".join(locations)
        if len(locations) != 1 or location in ("", ".", "..") or "/" in location or "\\" in location:
            raise ModelFileError(
                f"the tensor {tensor.name!r} is in the file {location!r}; allowed is a file beside the model"
            )
        names.add(location)
    if not names:
        return content, []
    missing = [name for name in sorted(names) if not (folder / name).is_file()]
    if missing:
        raise ModelFileError(f"needs the file {missing[0]!r} beside it, which holds its weights and is not there")
    size = len(content) + sum((folder / name).stat().st_size for name in names)
    if size > BYTES_MAX:
        raise ModelFileError(
            f"has {size} bytes with the weights beside it; one ONNX file holds at most {BYTES_MAX}. Use torch.export"
        )
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(folder))
        for tensor in _external_tensors(model):
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT
        return model.SerializeToString(), sorted(names)
    except (ValueError, OSError, RuntimeError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"the weights in {', '.join(sorted(names))} cannot be copied in: {reason}") from error


def _parsed(content: bytes) -> "ModelProto":
    onnx, _ = import_onnx()
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError, which only importing protobuf could name
        raise ModelFileError(f"not a whole ONNX file: {error}") from error
    if not model.graph.node:
        raise ModelFileError("not a whole ONNX file: its graph is empty")
    return model  # type: ignore[no-any-return]


def _external_tensors(model: "ModelProto") -> Iterator[Any]:
    """Every tensor anywhere in the model whose data are in another file."""
    onnx, _ = import_onnx()
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (
            message.data_location == onnx.TensorProto.EXTERNAL or message.external_data
        ):
            yield message


def _require_known_operators(model: "ModelProto") -> None:
    onnx, _ = import_onnx()
    own_functions = {(function.domain, function.name) for function in model.functions}
    for node in _messages(model):
        if not isinstance(node, onnx.NodeProto) or (node.domain, node.op_type) in own_functions:
            continue
        if node.domain not in _DOMAINS or node.op_type in _OPERATORS_WITH_FILES:
            raise ModelFileError(
                f"the custom operator {node.domain}:{node.op_type} would need a library of its own, which is not "
                "loaded; export the model with standard operators"
            )


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _messages(inner)
