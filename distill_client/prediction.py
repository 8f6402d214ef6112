"""Using the student: image files in, class names out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill_client.contenders import STUDENT
from distill_client.results import load_contender
from distill_client.run_folder import RunFolder
from distill_client.student.evaluation import predict_probabilities
from distill_client.summary import student_input
from shared.datasets import Skipped
from shared.datasets.pictures import PICTURE_PIXELS_MAX, read_picture_file
from shared.wire.contracts import InputSpec
from shared.wire.image_files import decode_image_file
from shared.wire.images import Images, InvalidImages


def predict_files(
    folder: RunFolder, files: list[Path], device: torch.device
) -> tuple[list[dict[str, Any]], list[Skipped]]:
    """Top class and its probability for each file, brought to the student's input by its recorded rule.

    Files that cannot be read are in the second list, with the reason, as they are when a pool is read.
    """
    card, spec = folder.record.teacher, student_input(folder)
    used, decoded, skipped = [], [], []
    for file in files:
        try:
            decoded.append(_decoded(file, spec))
            used.append(file)
        except InvalidImages as error:
            skipped.append(Skipped(str(file), str(error)))
    student = load_contender(folder, STUDENT, device)
    if not decoded:
        return [], skipped
    probabilities_nk = predict_probabilities(student, np.stack(decoded))
    predictions = [
        {"file": str(file), "class": card.classes[int(row.argmax())], "probability": round(float(row.max()), 6)}
        for file, row in zip(used, probabilities_nk, strict=True)
    ]
    return predictions, skipped


def _decoded(file: Path, spec: InputSpec) -> Images:
    if file.is_dir():
        raise InvalidImages("a folder; give the picture files in it")
    try:
        return decode_image_file(read_picture_file(file), spec, pixels_max=PICTURE_PIXELS_MAX)
    except OSError as error:
        raise InvalidImages(f"cannot be read ({error.strerror})") from error
