"""Every kind of bad model file and bundle that we tried, and what the owner is told: the table in docs/server.md.

`python -m tests.teacher_server.teachers.bad_bundles` prints it from real runs of the commands; a test compares.
"""

import copy
import hashlib
import json
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import safetensors.torch
import tomli_w
import torch
from torch import nn
from typer.testing import CliRunner

from teacher_server.cli import app
from tests.teacher_server.teachers import test_program_attacks as attacks
from tests.teacher_server.teachers.models import CLASSES, export, small_network, to_onnx

OWN = "tests.teacher_server.teachers.models:small"


def told(folder: Path, *words: str) -> str:
    """The first line of what the command prints, without this machine's folders."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code != 0, (words, result.output)
    text = str(result.exception).split("\n")[0]
    return text.replace(f"{folder}/", "").replace(str(folder), ".").removesuffix(" If it is a state dict:")


class Owner:
    """A folder with model files, and the commands run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "classes.txt").write_text("\n".join(CLASSES))
        self.program = export(small_network())

    def write(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return name

    def import_(self, name: str, *more: str) -> str:
        given = [
            "--classes",
            str(self.folder / "classes.txt"),
            "--input",
            "16x16x3",
            "--mean",
            "0.5",
            "--std",
            "0.25",
        ]
        out = ["--out", str(self.folder / "never")]
        return told(self.folder, "bundle", "import", str(self.folder / name), *given, *out, *more)

    def attack(self, name: str) -> str:
        marker = self.folder / "marker"
        said = self.import_(self.write("model.pt2", attacks.ATTACKS[name][0](self.program, marker)))
        assert not marker.exists()
        return said


def _pickled(owner: Owner, name: str, **options: Any) -> str:
    torch.save(small_network().state_dict(), owner.folder / name, **options)
    return owner.import_(name)


def _whole(owner: Owner) -> str:
    torch.save(small_network(), owner.folder / "model.pth")
    return owner.import_("model.pth")


def _torchscript(owner: Owner) -> str:
    with zipfile.ZipFile(owner.folder / "script.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{name}", b"")
    return owner.import_("script.pt")


def _training_mode(owner: Owner) -> str:
    return owner.import_(owner.write("model.pt2", export(copy.deepcopy(small_network()).train())))


def _exported(network: nn.Module, *more: str) -> Callable[[Owner], str]:
    return lambda owner: owner.import_(owner.write("model.pt2", export(network.eval())), *more)


def _five_classes(owner: Owner) -> str:
    (owner.folder / "classes.txt").write_text("\n".join((*CLASSES, "yak")))
    said = owner.import_(owner.write("model.pt2", owner.program))
    (owner.folder / "classes.txt").write_text("\n".join(CLASSES))
    return said


def _state_dict(owner: Owner, *more: str) -> str:
    state = {name: tensor.contiguous() for name, tensor in small_network().dense.state_dict().items()}
    owner.write("model.safetensors", safetensors.torch.save(state))
    return owner.import_("model.safetensors", *more)


def _onnx(change: Callable[[onnx.ModelProto], None], *, external: bool = False) -> Callable[[Owner], str]:
    def make(owner: Owner) -> str:
        source = owner.folder / "made.onnx"
        to_onnx(small_network(), source, external=external)
        model = onnx.load(source, load_external_data=False)
        change(model)
        return owner.import_(owner.write("model.onnx", model.SerializeToString()))

    return make


def _custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "my.library"
    model.graph.node[0].op_type = "Fancy"


def _data_in(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location

    return change


class _Logarithm(nn.Module):
    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        return torch.log(images_nchw.flatten(1)[:, : len(CLASSES)] - 3)


FILES: dict[str, Callable[[Owner], str]] = {
    "a state dict saved by torch.save, `.pt`": lambda owner: _pickled(owner, "model.pt"),
    "the same of before torch 1.6, `.bin`": lambda owner: _pickled(
        owner, "model.bin", _use_new_zipfile_serialization=False
    ),
    "the same, renamed to `.safetensors`": lambda owner: _pickled(owner, "model.safetensors"),
    "a whole model saved by torch.save": _whole,
    "TorchScript": _torchscript,
    "`.pt2` with a malicious pickle as sample inputs": lambda owner: owner.attack("sample inputs"),
    "`.pt2` with a pickle as a weight": lambda owner: owner.attack("a weight"),
    "`.pt2` with a pickle as a constant": lambda owner: owner.attack("an opaque object"),
    "`.pt2` with weights as older torch wrote them": lambda owner: owner.attack("weights as older torch wrote them"),
    "`.pt2` that calls os.system": lambda owner: owner.attack("os.system"),
    "`.pt2` that reads a file": lambda owner: owner.attack("a file operator"),
    "`.pt2` with Python text as a size": lambda owner: (
        owner.attack("a size").split("'", 1)[0] + "...' is not evaluated"
    ),
    "`.pt2` with an import as the form of its inputs": lambda owner: owner.attack("a factory"),
    "`.pt2` with a shared library": lambda owner: owner.attack("a shared library"),
    "`.pt2` cut off half way": lambda owner: owner.import_(owner.write("model.pt2", owner.program[:1000])),
    "exported in training mode": _training_mode,
    "one class too many in `--classes`": _five_classes,
    "`--input` of another size": lambda owner: owner.import_(
        owner.write("model.pt2", owner.program), "--input", "32x32x3"
    ),
    "`--mean` of pixels in 0..255": lambda owner: owner.import_(
        owner.write("model.pt2", owner.program), "--mean", "124"
    ),
    "`--outputs probabilities` of a network that gives logits": lambda owner: owner.import_(
        owner.write("model.pt2", owner.program), "--outputs", "probabilities"
    ).split(", but they go")[0],
    "no rows of classes": _exported(nn.Identity()),
    "NaN": _exported(_Logarithm()),
    "a state dict without `--network`": _state_dict,
    "a state dict of another network": lambda owner: _state_dict(owner, "--network", OWN),
    "a network that torchvision does not have": lambda owner: _state_dict(
        owner, "--network", "torchvision:resnet19"
    ).split("; there")[0],
    "ONNX with a custom operator": _onnx(_custom_operator),
    "ONNX without the file of its weights": _onnx(_data_in("absent.data"), external=True),
    "ONNX with weights elsewhere": _onnx(_data_in("../../etc/secret"), external=True),
    "ONNX, damaged": lambda owner: owner.import_(owner.write("model.onnx", b"\x08\x07garbage")).split(": Error")[0],
    "a Keras file": lambda owner: owner.import_(owner.write("model.h5", b"\x89HDF\r\n\x1a\n")),
    "no such file": lambda owner: owner.import_("absent.onnx"),
}


class Shelf(Owner):
    """A sound bundle in DIR, to be damaged; each check starts from a new one."""

    def fresh(self, **changes: Any) -> Path:
        bundle = self.folder / "DIR"
        bundle.mkdir(exist_ok=True)
        for file in bundle.iterdir():
            file.unlink()
        weights = safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in small_network().state_dict().items()}
        )
        (bundle / "weights.safetensors").write_bytes(weights)
        manifest: dict[str, Any] = {
            "name": "mine",
            "version": "1",
            "classes": list(CLASSES),
            "input": {"height": 16, "width": 16, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3},
            "network": {"name": OWN},
            "weights": {"file": "weights.safetensors", "sha256": hashlib.sha256(weights).hexdigest()},
        }
        (bundle / "teacher.toml").write_text(tomli_w.dumps(manifest | changes))
        return bundle

    def check(self) -> str:
        return told(self.folder, "bundle", "check", str(self.folder / "DIR"), "--trust-network", OWN)

    def damaged(self, name: str, change: Callable[[bytes], bytes], *, announced: bool = False) -> str:
        path = self.fresh() / name
        path.write_bytes(change(path.read_bytes()))
        if announced:
            manifest = tomllib.loads((path.parent / "teacher.toml").read_text())
            manifest["weights"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            (path.parent / "teacher.toml").write_text(tomli_w.dumps(manifest))
        return self.check()

    def changed(self, **changes: Any) -> str:
        self.fresh(**changes)
        return self.check()


def _without(name: str) -> Callable[[Shelf], str]:
    def make(shelf: Shelf) -> str:
        (shelf.fresh() / name).unlink()
        return shelf.check()

    return make


def _flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _nan(content: bytes) -> bytes:
    tensors = safetensors.torch.load(content)
    tensors["dense.bias"][0] = float("nan")
    return safetensors.torch.save(tensors)


def _untrusted(shelf: Shelf) -> str:
    return told(shelf.folder, "bundle", "check", str(shelf.fresh()))


def _twice(shelf: Shelf) -> str:
    bundle = str(shelf.fresh())
    ledger = f"sqlite:///{shelf.folder}/ledger.sqlite"
    where = ["--bundle", bundle, "--bundle", bundle, "--ledger", ledger, "--port", "0", "--trust-network", OWN]
    return told(shelf.folder, "serve", *where)


def _sha_mismatch(shelf: Shelf) -> str:
    said = shelf.damaged("weights.safetensors", _flipped)
    words = [f"{word[:8]}..." if len(word.strip(",")) == 64 else word for word in said.split()]
    return " ".join(words)


BUNDLES: dict[str, Callable[[Shelf], str]] = {
    "no such folder": lambda shelf: told(shelf.folder, "bundle", "check", str(shelf.folder / "DIR-not-there")),
    "`teacher.toml` missing": _without("teacher.toml"),
    "`teacher.toml` is no TOML": lambda shelf: shelf.damaged("teacher.toml", lambda _: b"name = "),
    "a field missing": lambda shelf: shelf.damaged(
        "teacher.toml", lambda old: old.replace(b'name = "mine"\n', b"", 1)
    ),
    "a field misspelt": lambda shelf: shelf.changed(clases=["a"]),
    "a value out of range": lambda shelf: shelf.changed(version="1\n2"),
    "a class twice": lambda shelf: shelf.changed(classes=["cat", "cat", "newt", "owl"]),
    "a class too few": lambda shelf: shelf.changed(classes=list(CLASSES[:3])),
    "a weights file that is a path": lambda shelf: shelf.changed(weights={"file": "../secret", "sha256": "0" * 64}),
    "safetensors without a network": lambda shelf: shelf.damaged(
        "teacher.toml", lambda old: old.replace(f'[network]\nname = "{OWN}"\n'.encode(), b"")
    ),
    "weights missing": _without("weights.safetensors"),
    "one bit of the weights changed": _sha_mismatch,
    "weights cut off, SHA-256 renewed": lambda shelf: shelf.damaged(
        "weights.safetensors", lambda old: old[:-9], announced=True
    ).split(" (")[0],
    "a pickle as weights, SHA-256 renewed": lambda shelf: shelf.damaged(
        "weights.safetensors", lambda _: b"\x80\x02}q\x00.", announced=True
    ).split(" (")[0],
    "NaN in the weights, SHA-256 renewed": lambda shelf: shelf.damaged("weights.safetensors", _nan, announced=True),
    "a network that is somebody's code": _untrusted,
    "a format that the file does not have": lambda shelf: shelf.damaged(
        "teacher.toml",
        lambda old: old.replace(b"[weights]", b'[weights]\nformat = "torch-export"').replace(
            f'[network]\nname = "{OWN}"\n'.encode(), b""
        ),
    ),
    "the same version twice, at the start of a server": _twice,
}


def rows() -> list[tuple[str, str, str]]:
    """(which command, what was tried, what was said) of every kind."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        owner, shelf = Owner(folder), Shelf(folder)
        said = [("import", what, make(owner)) for what, make in FILES.items()]
        return said + [("check", what, make(shelf)) for what, make in BUNDLES.items()]


def table() -> str:
    """The table as it stands in docs/server.md."""
    lines = ["| tried | the owner is told |", "|---|---|"]
    return "\n".join(lines + [f"| {what} | {_cell(message)} |" for _, what, message in rows()])


def _cell(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("\\\\", "\\").replace('\\"', '"').replace("|", "\\|")


if __name__ == "__main__":
    print(table())  # noqa: T201
