"""The owner's model file to a bundle that serves: three formats, what is detected, what is said, what is refused."""

import copy
import hashlib
import json
import subprocess
import sys
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient
from torch import nn

from benchmarks.imports import largest_differences
from teacher_server.app import create_app
from teacher_server.ledger.keys.issuing import create_key
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.settings import TeacherSettings
from teacher_server.teachers import onnx_model
from teacher_server.teachers.bundle import BundleError, load_bundle
from teacher_server.teachers.checking import check_bundle
from teacher_server.teachers.classifier import ClassifierFault, load_classifier
from teacher_server.teachers.importing import Imported, ImportOrder, import_bundle
from teacher_server.teachers.model_file import ModelFileError, identify
from teacher_server.teachers.onnx_forward import OnnxForward
from teacher_server.teachers.onnx_model import require_self_contained
from teacher_server.teachers.teacher import load_teacher, load_teachers
from tests.teacher_server.support import PROBABILITIES, Holder
from tests.teacher_server.teachers.models import (
    CLASSES,
    SmallNetwork,
    export,
    order_for,
    rewrite_archive,
    rewrite_program,
    small_network,
    to_onnx,
)

OWN = "tests.teacher_server.teachers.models:small"
IMAGES_NHWC = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
FILES = ("mine.safetensors", "mine.pt2", "mine.onnx", "external.onnx", "fixed1.pt2", "fixed4.onnx", "least3.pt2")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in every format and batch rule."""
    folder = tmp_path_factory.mktemp("owner")
    network = small_network()
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(state, folder / "mine.safetensors")
    (folder / "mine.pt2").write_bytes(export(network))
    (folder / "fixed1.pt2").write_bytes(export(network, rows=1, fixed=True))
    (folder / "least3.pt2").write_bytes(export(network, rows=3, least=3))
    to_onnx(network, folder / "mine.onnx")
    to_onnx(network, folder / "external.onnx", external=True)
    to_onnx(network, folder / "fixed4.onnx", rows=4, fixed=True)
    (folder / "softmax.pt2").write_bytes(export(nn.Sequential(network, nn.Softmax(1))))
    (folder / "training.pt2").write_bytes(export(copy.deepcopy(network).train()))
    return folder


def order(file: Path, **changes: object) -> ImportOrder:
    return order_for(file, **({"network": OWN} if file.suffix == ".safetensors" else {}) | changes)


def reference() -> NDArray[np.float32]:
    spec = order_for(Path())
    scaled = (IMAGES_NHWC / 255 - np.array(spec.mean)) / np.array(spec.std)
    with torch.no_grad():
        images_nchw = torch.tensor(scaled.transpose(0, 3, 1, 2).copy(), dtype=torch.float32)
        result: NDArray[np.float32] = small_network()(images_nchw).softmax(1).numpy()
    return result


def answers(made: Imported) -> NDArray[np.float32]:
    return load_classifier(made.bundle, trusted_networks=(OWN,)).probabilities(IMAGES_NHWC)


def refusal(file: Path, tmp_path: Path, **changes: object) -> str:
    """What the owner is told; nothing is written."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((BundleError, ValueError)) as caught:
        import_bundle(order(file, **changes), tmp_path / "bundle")
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_networks_own_probabilities(files: Path, tmp_path: Path, name: str) -> None:
    made = import_bundle(order(files / name), tmp_path / "bundle")
    np.testing.assert_allclose(answers(made), reference(), rtol=0, atol=1e-6)
    manifest = made.bundle.manifest
    assert (manifest.outputs, made.outputs_were) == ("logits", "detected")
    assert manifest.imported is not None
    assert manifest.imported.file == name
    assert manifest.imported.sha256 == hashlib.sha256((files / name).read_bytes()).hexdigest()
    assert manifest.imported.batch_difference <= 1e-5
    assert manifest.measured is None
    assert load_teacher(made.bundle.folder, device="cpu", trusted_networks=(OWN,)).test_accuracy is None
    checked = check_bundle(made.bundle.folder, trusted_networks=(OWN,))
    assert checked.trial.sample_images == 12


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fixed1.pt2", "it takes one image at a time"),
        ("fixed4.onnx", "it takes 4 images at least, so fewer are filled up"),
        ("least3.pt2", "it takes 3 images at least"),
        ("external.onnx", "the weights in external.onnx.data were copied into the model"),
    ],
)
def test_what_the_owner_should_know_is_said(files: Path, tmp_path: Path, name: str, says: str) -> None:
    assert any(says in note for note in import_bundle(order(files / name), tmp_path / "bundle").notes)
    assert import_bundle(order(files / "mine.pt2"), tmp_path / "other").notes == ()


def test_copied_weights_need_the_other_file_no_more(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "external.onnx"), tmp_path / "bundle")
    assert sorted(file.name for file in made.bundle.folder.iterdir()) == ["model.onnx", "teacher.toml"]
    require_self_contained((made.bundle.folder / "model.onnx").read_bytes())


def test_probabilities_get_no_second_softmax(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "softmax.pt2"), tmp_path / "bundle")
    assert (made.bundle.manifest.outputs, made.outputs_were) == ("probabilities", "detected")
    np.testing.assert_allclose(answers(made), reference(), rtol=0, atol=1e-6)


def test_the_owner_may_say_what_the_outputs_are(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "mine.pt2", outputs="logits"), tmp_path / "told")
    assert (made.outputs_were, made.notes) == ("told", ())
    made = import_bundle(order(files / "softmax.pt2", outputs="logits"), tmp_path / "odd")
    assert made.notes == ("the outputs look like probabilities already; the softmax over them flattens every answer",)
    told = refusal(files / "mine.pt2", tmp_path, outputs="probabilities")
    assert "outputs is 'probabilities', but they go from -" in told


def test_outputs_that_stop_being_probabilities_are_never_given(tmp_path: Path) -> None:
    """The sample images cannot try everything; a row that is no distribution fails before it is charged."""

    class Odd(nn.Module):
        def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
            share = torch.where(images_nchw[:, 0, 0, 0] > 0.99, 0.7, 0.25)
            return torch.stack([share, share, share, 1 - 3 * torch.full_like(share, 0.25)], 1)

    file = tmp_path / "odd.pt2"
    file.write_bytes(export(Odd()))
    white = np.full((1, 16, 16, 3), 255, np.uint8)
    black = tmp_path / "black.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(black)
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    made = import_bundle(order(file, samples=(black,), **plain), tmp_path / "bundle")
    with pytest.raises(ClassifierFault, match="1 rows are no probabilities"):
        load_classifier(made.bundle).probabilities(white)


def test_a_network_in_training_mode_is_recognised(files: Path, tmp_path: Path) -> None:
    told = refusal(files / "training.pt2", tmp_path)
    assert "Was it exported in training mode" in told
    assert "Call model.eval() first" in told


class Sums(nn.Module):
    """Every answer is about the whole batch, which no export of a sound classifier is."""

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        rows = images_nchw.flatten(1)[:, : len(CLASSES)]
        return rows + rows.sum(0, keepdim=True)


class Nan(nn.Module):
    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        return torch.log(images_nchw.flatten(1)[:, : len(CLASSES)] - 3)


class Two(nn.Module):
    """Logits beside what else a network may give."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_network()

    def forward(self, images_nchw: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": images_nchw.mean((2, 3)), "logits": self.inner(images_nchw)}


def test_the_one_output_that_fits_is_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "two.pt2"
    file.write_bytes(export(Two().eval()))
    made = import_bundle(order(file), tmp_path / "bundle")
    np.testing.assert_allclose(answers(made), reference(), rtol=0, atol=1e-6)


class Unusual(nn.Module):
    """What real architectures do: constants, no_grad and autocast inside, sizes of the batch, hyphens in names."""

    shift: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleDict({"block1-0": nn.Conv2d(3, 8, 3), "head": nn.Linear(8, len(CLASSES))})
        self.register_buffer("shift", torch.ones(3, 1, 1), persistent=False)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        rows = images_nchw.shape[0]
        with torch.no_grad():
            shifted = images_nchw * torch.tensor([[[0.5]], [[1.0]], [[2.0]]]) + self.shift
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
            hidden = self.layers["block1-0"](shifted)
        pooled = hidden.reshape(rows, 8, -1).mean(-1)
        logits_nk: torch.Tensor = self.layers["head"](pooled) + 0 * torch.arange(rows)[:, None]
        return logits_nk


def test_what_real_architectures_do_is_taken(tmp_path: Path) -> None:
    network = Unusual().eval()
    file = tmp_path / "unusual.pt2"
    file.write_bytes(export(network))
    made = import_bundle(order(file, mean=(0.0,) * 3, std=(1.0,) * 3), tmp_path / "bundle")
    with torch.no_grad():
        images_nchw = torch.tensor(IMAGES_NHWC.transpose(0, 3, 1, 2).copy()).float() / 255
        expected = network(images_nchw).softmax(1).numpy()
    np.testing.assert_allclose(answers(made), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (Sums(), "with the other images of its batch; allowed is 1e-05"),
        (Nan(), "rows are not finite"),
        (nn.Identity(), "answers 12 images with 12 x 3 x 16 x 16; allowed is one output of 12 x 4"),
        (nn.Flatten(), "answers 12 images with 12 x 768"),
    ],
    ids=["depends on the batch", "not finite", "no rows", "other classes"],
)
def test_a_network_that_cannot_serve_is_refused(tmp_path: Path, network: nn.Module, says: str) -> None:
    file = tmp_path / "bad.pt2"
    file.write_bytes(export(network.eval()))
    assert says in refusal(file, tmp_path)


@pytest.mark.parametrize("name", ["mine.pt2", "mine.onnx"])
def test_what_does_not_fit_the_file_is_refused(files: Path, tmp_path: Path, name: str) -> None:
    file = files / name
    assert "5, which is images x classes" in refusal(file, tmp_path, classes=(*CLASSES, "yak"))
    assert "but the input is 32x32x3 (H x W x C)" in refusal(file, tmp_path, input=(32, 32, 3))
    grey = {"input": (16, 16, 1), "mean": (0.5,), "std": (0.5,)}
    assert "but the input is 16x16x1 (H x W x C)" in refusal(file, tmp_path, **grey)
    assert "bring their network; leave --network out" in refusal(file, tmp_path, network="lenet5")
    assert "classes: Value error, 'cat' is there 2 times" in refusal(file, tmp_path, classes=("cat", "cat"))
    assert "input.mean.0: Input should be less than or equal to 1 (given: 124.0)" in refusal(
        file, tmp_path, mean=(124.0, 116.0, 104.0)
    )
    assert "name: " in refusal(file, tmp_path, name="Not A Name")


def test_a_state_dict_needs_a_network_that_it_fits(files: Path, tmp_path: Path) -> None:
    file = files / "mine.safetensors"
    assert "a state dict needs its network: --network" in refusal(file, tmp_path, network=None)
    told = refusal(file, tmp_path, network="torchvision:resnet18")
    assert "does not fit network.name torchvision:resnet18 with 4 classes" in told
    assert "conv.weight is not a tensor of the network" in told
    assert "there are" in refusal(file, tmp_path, network="torchvision:resnet19")


def test_the_owners_code_is_only_run_when_the_owner_says_so(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "mine.safetensors"), tmp_path / "bundle")
    for trusted in ((), ("tests.teacher_server.teachers.models:other",)):
        with pytest.raises(
            BundleError, match=f"code that loading this bundle would run; allow it with --trust-network {OWN}"
        ):
            load_teacher(made.bundle.folder, device="cpu", trusted_networks=trusted)
    assert load_teacher(made.bundle.folder, device="cpu", trusted_networks=(OWN,)).version == "1"


def test_sample_images_of_the_owner_are_used_and_named_when_unfit(files: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(3):
        Image.fromarray(IMAGES_NHWC[index]).save(pictures / f"{index}.png")
    (pictures / "notes.txt").write_text("not a picture")
    made = import_bundle(order(files / "mine.pt2", samples=(pictures,)), tmp_path / "used")
    assert made.trial.sample_images == 3

    large = pictures / "large.png"
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(large)
    assert f"{large}: the picture has 24 x 20 pixels" in refusal(files / "mine.pt2", tmp_path, samples=(pictures,))
    stretched = order(files / "mine.pt2", samples=(pictures,), resize="stretch")
    assert import_bundle(stretched, tmp_path / "other").bundle.manifest.input.resize == "stretch"
    assert "cannot be decoded" in refusal(files / "mine.pt2", tmp_path, samples=(pictures / "notes.txt",))
    assert "no .png" in refusal(files / "mine.pt2", tmp_path, samples=(files,))


def test_the_same_answer_to_everything_is_remarked(tmp_path: Path) -> None:
    network = small_network()
    nn.init.zeros_(network.dense.weight)
    file = tmp_path / "flat.pt2"
    file.write_bytes(export(network))
    assert any(
        "every sample image gets the same answer" in n for n in import_bundle(order(file), tmp_path / "b").notes
    )


def test_a_program_that_torch_cannot_load_says_why_in_one_line(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def break_it(program: dict[str, Any]) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.no_such_operator.default"

    file = tmp_path / "broken.pt2"
    file.write_bytes(rewrite_program((files / "mine.pt2").read_bytes(), break_it))
    told = refusal(file, tmp_path)
    assert f"torch {torch.__version__} cannot load this program: " in told
    assert "no_such_operator" in told
    assert "\n" not in told
    assert capsys.readouterr() == ("", "")
    assert caplog.text == ""


# --- pickles ------------------------------------------------------------------------------------------------------


def pickles(folder: Path) -> list[Path]:
    network = small_network()
    torch.save(network.state_dict(), folder / "weights.pt")
    torch.save(network.state_dict(), folder / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save(network, folder / "whole.pth")
    torch.save(network.state_dict(), folder / "renamed.pt2")
    torch.save(network.state_dict(), folder / "renamed.safetensors")
    (folder / "plain.onnx").write_bytes(b"\x80\x04N.")
    return sorted(folder.iterdir())


def test_a_pickle_under_any_name_is_refused_with_the_way_out(tmp_path: Path) -> None:
    home = tmp_path / "owner"
    home.mkdir()
    for file in pickles(home):
        told = refusal(file, tmp_path)
        assert f"{file}: a pickle. A pickle runs whatever its author wrote" in told, file
        assert "save_file(" in told
        assert "torch.export.save(program" in told


def test_the_way_out_works(tmp_path: Path) -> None:
    """Both recipes, run as they are printed, give files that import and answer as the network does."""
    torch.save(small_network().state_dict(), tmp_path / "weights.pt")
    torch.save({"state_dict": small_network().state_dict(), "epoch": 3}, tmp_path / "checkpoint.ckpt")
    torch.save(small_network(), tmp_path / "whole.pth")
    state_dict, model = "from safetensors", "model = torch.load"
    for name, first_line in (("weights.pt", state_dict), ("checkpoint.ckpt", state_dict), ("whole.pth", model)):
        told = refusal(tmp_path / name, tmp_path)
        recipe = next(part for part in told.split("\n\n") if first_line in part)
        code = "\n".join(line[4:] for line in recipe.splitlines() if line.startswith("    "))
        code = code.replace("CHANNELS, HEIGHT, WIDTH", "3, 16, 16")
        # the class of the whole model has to be importable, as it is for its owner
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=tmp_path, check=True, timeout=120, env={"PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip
    for name in ("weights.safetensors", "checkpoint.safetensors", "whole.pt2"):
        made = import_bundle(order(tmp_path / name), tmp_path / f"from-{name}")
        np.testing.assert_allclose(answers(made), reference(), rtol=0, atol=1e-6)


def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{name}", b"")
    assert "a TorchScript archive. TorchScript holds pickles too" in refusal(tmp_path / "script.pt", tmp_path)


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"", "empty.onnx", "not a whole ONNX file"),
        (b"", "empty.safetensors", "it ends before its header does"),
        (b"\x89HDF\r\n\x1a\n", "keras.h5", "is no model file of a known kind; allowed are"),
        (b"PK\x03\x04 and nothing more", "broken.pt2", "not a whole archive"),
        (b"\x08\x07garbage", "broken.onnx", "not a whole ONNX file"),
    ],
)
def test_files_of_no_known_kind_are_named(tmp_path: Path, content: bytes, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert says in refusal(tmp_path / name, tmp_path)
    assert "cannot be read (No such file" in refusal(tmp_path / "absent.pt2", tmp_path)


def test_formats_are_told_by_their_content(files: Path) -> None:
    for name, form in (("mine.pt2", "torch-export"), ("mine.onnx", "onnx"), ("mine.safetensors", "safetensors")):
        assert identify((files / name).read_bytes(), "some-file") == form


def test_a_program_is_loaded_wherever_it_was_exported(files: Path, tmp_path: Path) -> None:
    """What a GPU's machine saved names its device for every tensor; here there is none."""
    file = tmp_path / "from-a-gpu.pt2"

    def on_cuda(_: str, content: bytes) -> bytes:
        return content.replace(b'{"type": "cpu", "index": null}', b'{"type": "cuda", "index": 0}')

    file.write_bytes(rewrite_archive((files / "mine.pt2").read_bytes(), on_cuda))
    assert file.read_bytes().count(b'"cuda"') > 10
    np.testing.assert_allclose(answers(import_bundle(order(file), tmp_path / "b")), reference(), rtol=0, atol=1e-6)


# --- ONNX ---------------------------------------------------------------------------------------------------------


def changed_onnx(files: Path, tmp_path: Path, name: str = "mine.onnx") -> tuple[onnx.ModelProto, Path]:
    return onnx.load(files / name, load_external_data=False), tmp_path / "changed.onnx"


def test_custom_operators_are_refused(files: Path, tmp_path: Path) -> None:
    model, file = changed_onnx(files, tmp_path)
    model.graph.node[0].domain = "my.library"
    model.opset_import.append(onnx.helper.make_opsetid("my.library", 1))
    file.write_bytes(model.SerializeToString())
    assert "the custom operator my.library:" in refusal(file, tmp_path)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../secret", "allowed is a file beside the model"),
        ("/etc/passwd", "allowed is"),
        ("absent", "which holds its"),
    ],
)
def test_data_elsewhere_is_refused(files: Path, tmp_path: Path, location: str, says: str) -> None:
    model, file = changed_onnx(files, tmp_path, "external.onnx")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    file.write_bytes(model.SerializeToString())
    assert says in refusal(file, tmp_path)
    with pytest.raises(ModelFileError, match="is in another file; import the model"):
        require_self_contained(file.read_bytes())


def test_data_in_two_places_is_refused(files: Path, tmp_path: Path) -> None:
    model, file = changed_onnx(files, tmp_path, "external.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    tensor.external_data.add(key="location", value="other")
    file.write_bytes(model.SerializeToString())
    assert "other'; allowed is a file beside the model" in refusal(file, tmp_path)


def test_a_model_too_large_for_one_file_is_refused(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_model, "BYTES_MAX", 5000)
    assert "one ONNX file holds at most 5000" in refusal(files / "external.onnx", tmp_path)


def test_outputs_that_are_no_floats_are_refused(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["images"], ["flat"]),
            onnx.helper.make_node("ArgMax", ["flat"], ["label"], axis=1, keepdims=0),
        ],
        "labels",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 3, 16, 16])],
        [onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["n"])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    file = tmp_path / "labels.onnx"
    file.write_bytes(model.SerializeToString())
    assert "the model's outputs are label: tensor(int64); allowed is a tensor(float)" in refusal(file, tmp_path)


def test_images_go_in_as_the_model_takes_them(tmp_path: Path) -> None:
    """A model made for N x H x W x C, as TensorFlow's are."""
    weights = np.random.default_rng(1).normal(size=(16 * 16 * 3, len(CLASSES))).astype(np.float32) / 50
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["images"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "channels-last",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 16, 16, 3])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", len(CLASSES)])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    file = tmp_path / "nhwc.onnx"
    file.write_bytes(model.SerializeToString())
    made = import_bundle(order(file, mean=(0.0,) * 3, std=(1.0,) * 3), tmp_path / "bundle")
    logits = (IMAGES_NHWC / 255).reshape(len(IMAGES_NHWC), -1) @ weights
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(answers(made), expected, rtol=0, atol=1e-5)


def test_where_onnxruntime_has_no_cuda_the_cpu_answers_and_that_is_said(
    files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    made = import_bundle(order(files / "mine.onnx"), tmp_path / "bundle")
    forward = OnnxForward(made.bundle.weights_path.read_bytes(), made.bundle.manifest, torch.device("cuda"))
    np.testing.assert_allclose(forward(IMAGES_NHWC), reference(), rtol=0, atol=1e-6)
    assert "teacher mine runs on the CPU: onnxruntime has no CUDA here" in caplog.text


def test_without_onnxruntime_the_owner_is_told_what_to_install(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    told = refusal(files / "mine.onnx", tmp_path)
    assert "needs onnxruntime, which is not installed: pip install 'blackbox-distillation[onnx]'" in told
    with pytest.raises(ModelFileError):
        onnx_model.import_onnx()


def test_all_three_are_served_over_http_with_the_same_answers(files: Path, tmp_path: Path, ledger_url: str) -> None:
    forms = ("safetensors", "pt2", "onnx")
    folders = [
        import_bundle(order(files / f"mine.{form}", version=form), tmp_path / form).bundle.folder for form in forms
    ]
    settings = TeacherSettings.load(bundles=tuple(folders), ledger=ledger_url)
    app = create_app(settings, load_teachers(folders, device="cpu", trusted_networks=(OWN,)))
    with closing(open_database(ledger_url, create=True)) as database:
        _, secret = create_key(database, name="ada", budget=100, disclosure=PROBABILITIES, expires_at=None)
    with TestClient(app) as client:
        holder = Holder(client, secret)
        for form in forms:
            response = holder.post_npy(IMAGES_NHWC, path=f"/v1/teachers/mine/versions/{form}/labels")
            assert response.json()["version"] == form
            np.testing.assert_allclose(response.json()["probabilities"], reference(), rtol=0, atol=2e-6)


def test_a_resnet18_answers_the_same_through_every_format() -> None:
    """What `benchmarks/imports.py` prints."""
    differences = largest_differences(64)
    assert set(differences) == {"safetensors", "pt2", "onnx"}
    assert max(difference for difference, _ in differences.values()) <= 1e-5


# --- what is written ----------------------------------------------------------------------------------------------


def test_a_bundle_that_is_there_is_only_replaced_when_asked(files: Path, tmp_path: Path) -> None:
    first = import_bundle(order(files / "mine.pt2"), tmp_path / "bundle")
    with pytest.raises(BundleError, match="already exists"):
        import_bundle(order(files / "softmax.pt2"), tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle") == first.bundle
    newer = replace(order(files / "softmax.pt2"), version="2")
    import_bundle(newer, tmp_path / "bundle", overwrite=True)
    assert load_bundle(tmp_path / "bundle").manifest.version == "2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_a_changed_bit_in_a_program_is_noticed(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "mine.pt2"), tmp_path / "bundle")
    path = made.bundle.weights_path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="has SHA-256"):
        check_bundle(made.bundle.folder)


def test_the_class_count_of_a_written_bundle_is_checked(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "mine.pt2"), tmp_path / "bundle")
    path = made.bundle.folder / "teacher.toml"
    path.write_text(path.read_text().replace('    "owl",\n', ""))
    with pytest.raises(BundleError, match="with 12 x 4; allowed is one output of 12 x 3"):
        check_bundle(made.bundle.folder)


def test_the_manifest_can_be_read_as_it_is_documented(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "mine.onnx"), tmp_path / "bundle")
    content = json.loads(made.bundle.manifest.model_dump_json(exclude_none=True))
    assert content["weights"]["format"] == "onnx"
    assert set(content["imported"]) == {
        "file", "sha256", "outputs", "sample_images", "batch_difference", "versions",
    }  # fmt: skip
    assert "network" not in content


def test_our_network_is_the_one_of_the_file(files: Path) -> None:
    assert set(safetensors.torch.load_file(files / "mine.safetensors")) == set(SmallNetwork().state_dict())
