"""Which files of an owner are taken: no pickle, no TorchScript, programs of any machine, and ONNX that is whole."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from teacher_server.teachers import onnx_model
from teacher_server.teachers.importing import import_bundle
from teacher_server.teachers.model_file import ModelFileError, identify
from teacher_server.teachers.onnx_forward import OnnxForward
from teacher_server.teachers.onnx_model import require_self_contained
from tests.reliability.processes import ForkServer
from tests.teacher_server.teachers.importing import IMAGES_NHWC, answers, order, reference, refusal
from tests.teacher_server.teachers.models import (
    CLASSES,
    rewrite_archive,
    small_network,
)

PYTHON = ForkServer("tests.reliability.python_program:main")


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
        where = f"import os, warnings\nos.chdir({str(tmp_path)!r})\nwarnings.simplefilter('ignore')\n"
        # the class of the whole model has to be importable, as it is for its owner
        done = PYTHON.run("python", where + code)
        assert done.returncode == 0, done.stderr
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
