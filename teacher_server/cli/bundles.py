"""`teacher bundle`: make a bundle of the owner's own model file, and check one."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from shared.wire.contracts import Resize
from teacher_server.cli.options import AsJson, Device, TrustNetwork, parse_image_shape, trusted_networks
from teacher_server.cli.reporting import operator_mistakes, print_report
from teacher_server.errors import OperatorError

app = typer.Typer(help="Make a bundle of a model file of your own, and check bundles.", no_args_is_help=True)

Samples = Annotated[
    list[Path] | None,
    typer.Option(help="an image, or a folder of images, to try the network on (default: generated ones); repeat"),
]


@app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(help="a torch.export program, an ONNX model or a safetensors state dict")],
    classes: Annotated[Path, typer.Option(help="the class names: a text file, one a line, or a JSON list")],
    input: Annotated[str, typer.Option(help="what it takes: HEIGHTxWIDTHxCHANNELS, such as 224x224x3")],
    mean: Annotated[str, typer.Option(help="of pixels in 0..1: one number, or one per channel with commas")],
    std: Annotated[str, typer.Option(help="of pixels in 0..1: one number, or one per channel with commas")],
    name: Annotated[str, typer.Option(help="the teacher's name (default: the file's)")] = "",
    version: Annotated[str, typer.Option(help="its version; another model needs another")] = "1",
    out: Annotated[Path | None, typer.Option(help="the bundle folder to make (default: bundles/NAME)")] = None,
    network: Annotated[
        str | None, typer.Option(help="of a state dict: lenet5, torchvision:NAME, timm:NAME or module:function")
    ] = None,
    outputs: Annotated[
        Literal["logits", "probabilities"] | None, typer.Option(help="what the network gives (default: detected)")
    ] = None,
    resize: Annotated[Resize, typer.Option(help="what is done to image files of another size")] = "exact",
    samples: Samples = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the bundle that is there")] = False,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Make a bundle of a model file, tried on sample images first. A pickle (.pt, .pth) is refused with the way out.

    Logits get a softmax. Serve the bundle with `teacher serve --bundle DIR`.
    """
    from teacher_server.teachers.importing import ImportOrder, import_bundle

    shape = parse_image_shape(input, "input")
    with operator_mistakes():
        order = ImportOrder(
            file=file,
            classes=_read_classes(classes),
            input=shape,
            mean=_per_channel(mean, shape[2], "mean"),
            std=_per_channel(std, shape[2], "std"),
            name=name or re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._") or "teacher",
            version=version,
            resize=resize,
            network=network,
            outputs=outputs,
            samples=tuple(samples or ()),
            device=device,
        )
        folder = out or Path("bundles") / order.name
        made = import_bundle(order, folder, overwrite=overwrite)
    _print_imported(folder, made, as_json=as_json)


@app.command("check")
def check_bundle(
    folder: Annotated[Path, typer.Argument(help="a teacher bundle folder")],
    samples: Samples = None,
    trust_network: TrustNetwork = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Check everything about a bundle that a server would rely on: exit code 0 when it is sound, 2 when it is not."""
    from teacher_server.teachers.checking import check_bundle as check

    try:
        with operator_mistakes():
            checked = check(
                folder, samples=samples or (), device=device, trusted_networks=trusted_networks(trust_network)
            )
    except OperatorError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"bundle": str(folder), "sound": False, "fault": str(error)}))
        raise typer.Exit(2) from error
    report = {
        "bundle": str(folder),
        "sound": True,
        **_described(checked.bundle.manifest),
        "sample_images": checked.trial.sample_images,
        "batch_difference": checked.trial.batch_difference,
        "notes": list(checked.trial.notes),
    }
    notes = [f"note: {note}" for note in checked.trial.notes]
    print_report(report, _lines(f"{folder}: sound; {_summary(report)}", _tried(report), *notes), as_json=as_json)


def _print_imported(folder: Path, made: Any, *, as_json: bool) -> None:
    report = {
        "bundle": str(folder),
        **_described(made.bundle.manifest),
        "outputs_were": made.outputs_were,
        "sample_images": made.trial.sample_images,
        "batch_difference": made.trial.batch_difference,
        "notes": list(made.notes),
    }
    softmax = ", a softmax is added" if made.bundle.manifest.outputs == "logits" else ", no softmax is added"
    print_report(
        report,
        _lines(
            f"{folder}: {_summary(report)}",
            f"outputs: {report['outputs']} ({made.outputs_were}){softmax}",
            _tried(report),
            *(f"note: {note}" for note in made.notes),
        ),
        as_json=as_json,
    )


def _described(manifest: Any) -> dict[str, Any]:
    shape = manifest.input
    return {
        "name": manifest.name,
        "version": manifest.version,
        "format": manifest.weights.format,
        "input": f"{shape.height}x{shape.width}x{shape.channels}",
        "resize": shape.resize,
        "classes": len(manifest.classes),
        "outputs": manifest.outputs,
        "sha256": manifest.weights.sha256,
    }


def _summary(report: dict[str, Any]) -> str:
    return "{name} version {version}, {format}, {input}, {classes} classes".format(**report)


def _tried(report: dict[str, Any]) -> str:
    return (
        f"tried on {report['sample_images']} images, alone and together: probabilities differ by up to "
        f"{report['batch_difference']:.1e}"
    )


def _lines(*lines: str) -> str:
    return "\n".join(lines)


def _read_classes(path: Path) -> tuple[str, ...]:
    """Class names of a text file or a JSON list. Raises ValueError naming the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"classes: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"classes: {path} is not UTF-8 text: {error}") from error
    if not text.lstrip().startswith("["):
        return tuple(line.strip() for line in text.rstrip().splitlines())
    try:
        names = json.loads(text)
    except ValueError as error:
        raise ValueError(f"classes: {path} begins like a JSON list and is none: {error}") from error
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes: {path} is not a list of strings; allowed is one name per class")
    return tuple(names)


def _per_channel(text: str, channels: int, flag: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{flag} is {text!r}; allowed are numbers in 0..1 with commas between them") from error
    if len(values) not in (1, channels):
        raise ValueError(f"{flag} has {len(values)} values; allowed are 1 or {channels}, one per channel")
    return values * channels if len(values) == 1 else values
