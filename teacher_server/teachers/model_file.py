"""Which kind of model a file holds, told by its content; and what to do with one that is a pickle."""

import io
import zipfile
from typing import Literal

Format = Literal["safetensors", "torch-export", "onnx"]

_PICKLE_SUFFIXES = ("pt", "pth", "pkl", "pickle", "ckpt", "bin", "joblib")

_HOW_TO_CONVERT = """\
A pickle runs whatever its author wrote when it is loaded, so this server never loads one. If it is a state dict:

    import torch
    from safetensors.torch import save_file
    tensors = torch.load({file!r}, map_location="cpu", weights_only=True)
    tensors = tensors.get("state_dict", tensors)  # where a training script has saved more than the weights
    save_file({{name: tensor.contiguous().clone() for name, tensor in tensors.items()}}, {stem!r} + ".safetensors")

and import that with --network. If it is a whole model, and you trust the file:

    import torch
    model = torch.load({file!r}, map_location="cpu", weights_only=False).eval()
    images = torch.zeros(2, CHANNELS, HEIGHT, WIDTH)
    program = torch.export.export(model, (images,), dynamic_shapes=({{0: torch.export.Dim("batch")}},))
    torch.export.save(program, {stem!r} + ".pt2")"""

_TORCHSCRIPT = """\
TorchScript holds pickles too. Export the model it was made from instead:

    images = torch.zeros(2, CHANNELS, HEIGHT, WIDTH)
    program = torch.export.export(model.eval(), (images,), dynamic_shapes=({{0: torch.export.Dim("batch")}},))
    torch.export.save(program, {stem!r} + ".pt2")"""


class ModelFileError(ValueError):
    """A model file that is not taken; the text says what it is and what to do."""


def identify(content: bytes, file_name: str) -> Format:
    """Tell the format of a model file from its bytes. Raises ModelFileError, for a pickle with the way out of it."""
    stem, _, suffix = file_name.rpartition(".")
    if content[:4] == b"PK\x03\x04":
        return _identify_zip(content, file_name, stem)
    if len(content) > 8 and content[8:9] == b"{" and 2 <= int.from_bytes(content[:8], "little") <= len(content) - 8:
        return "safetensors"  # first, because a header of 640 bytes begins as a pickle does
    if content[:1] == b"\x80" or suffix in _PICKLE_SUFFIXES:
        raise ModelFileError(f"a pickle. {_HOW_TO_CONVERT.format(file=file_name, stem=stem or file_name)}")
    if suffix == "onnx" or content[:1] == b"\x08":  # ModelProto's first field, ir_version
        return "onnx"
    if suffix == "safetensors":
        raise ModelFileError("not a whole safetensors file: it ends before its header does")
    raise ModelFileError(
        f"begins with {content[:8]!r}, which is no model file of a known kind; allowed are torch.export programs "
        "(.pt2), ONNX models (.onnx) and safetensors state dicts (.safetensors)"
    )


def _identify_zip(content: bytes, file_name: str, stem: str) -> Format:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelFileError(f"not a whole archive: {error}") from error
    if "archive_format" in names and any(name.startswith("models/") for name in names):
        return "torch-export"
    if "constants.pkl" in names:
        raise ModelFileError(f"a TorchScript archive. {_TORCHSCRIPT.format(stem=stem or file_name)}")
    if any(name.startswith("data/aotinductor/") for name in names):
        raise ModelFileError(
            "compiled code (AOTInductor), which is not run; save the program itself with torch.export.save"
        )
    if "data.pkl" in names:
        raise ModelFileError(f"a pickle. {_HOW_TO_CONVERT.format(file=file_name, stem=stem or file_name)}")
    raise ModelFileError(
        "a zip archive, but no torch.export program as torch 2.11 writes it; save it again with torch.export.save"
    )
