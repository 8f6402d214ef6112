"""Model files of an owner, made in a second: a small network with batch norm and dropout, exported every way."""

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from teacher_server.teachers.importing import ImportOrder

CLASSES = ("cat", "dog", "newt", "owl")


class SmallNetwork(nn.Module):
    """3 x 16 x 16 images to four logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.dense = nn.Linear(8 * 7 * 7, len(CLASSES))

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.conv(images_nchw)))
        logits_nk: torch.Tensor = self.dense(nn.functional.dropout(hidden.flatten(1), training=self.training))
        return logits_nk


def small_network() -> SmallNetwork:
    torch.manual_seed(0)
    return SmallNetwork().eval()


def small(*, height: int, width: int, channels: int, classes: int) -> nn.Module:
    """As the owner's own `module:function`."""
    assert (height, width, channels) == (16, 16, 3)
    assert classes
    return SmallNetwork()


def export(network: nn.Module, *, rows: int = 2, fixed: bool = False, least: int | None = None) -> bytes:
    """A torch.export program of ``network``."""
    batch = torch.export.Dim("batch") if least is None else torch.export.Dim("batch", min=least, max=64)
    shapes = None if fixed else ({0: batch},)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (torch.zeros(rows, 3, 16, 16),), dynamic_shapes=shapes)
        torch.export.save(program, buffer)
    return buffer.getvalue()


def to_onnx(network: nn.Module, path: Path, *, rows: int = 2, fixed: bool = False, external: bool = False) -> None:
    """An ONNX file of ``network``; with ``external`` its weights lie in a file beside it."""
    shapes = None if fixed else ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(rows, 3, 16, 16),),
            path,
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=external,
            verbose=False,
        )


def order_for(file: Path, **changes: object) -> ImportOrder:
    fields = {
        "file": file,
        "classes": CLASSES,
        "input": (16, 16, 3),
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
        "name": "mine",
    }
    return ImportOrder(**(fields | changes))  # type: ignore[arg-type]


def rewrite_archive(content: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The archive with every member as ``change(name, content)`` says, None leaving it out; names lack the folder."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w") as target:
        for member in source.infolist():
            folder, _, name = member.filename.partition("/")
            changed = change(name, source.read(member))
            if changed is not None:
                target.writestr(f"{folder}/{name}", changed)
    return out.getvalue()


def rewrite_program(content: bytes, change: Callable[[dict[str, object]], None]) -> bytes:
    """The archive with its program's JSON changed in place."""

    def rewrite(name: str, member: bytes) -> bytes:
        if not name.startswith("models/"):
            return member
        program = json.loads(member)
        change(program)
        return json.dumps(program).encode()

    return rewrite_archive(content, rewrite)
