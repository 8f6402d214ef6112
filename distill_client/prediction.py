"""Using the student: image files in, class names out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill_client.contenders import STUDENT
from distill_client.errors import ConfigError
from distill_client.results import load_contender, student_input
from distill_client.run_folder import RunFolder
from distill_client.student.evaluation import predict_probabilities
from shared.datasets.pictures import PICTURE_PIXELS_MAX, read_picture_file
from shared.wire.image_files import decode_image_file
from shared.wire.images import InvalidImages


def predict_files(folder: RunFolder, files: list[Path], device: torch.device) -> list[dict[str, Any]]:
    """Top class and its probability for each file, brought to the student's input by its recorded rule.

    Raises ConfigError naming a file that cannot be read.
    """
    card, spec = folder.record.teacher, student_input(folder)
    decoded = []
    for file in files:
        if file.is_dir():
            raise ConfigError(f"{file}: a folder; give the picture files in it")
        try:
            decoded.append(decode_image_file(read_picture_file(file), spec, pixels_max=PICTURE_PIXELS_MAX))
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
        except InvalidImages as error:
            raise ConfigError(f"{file}: {error}") from error
    probabilities_nk = predict_probabilities(load_contender(folder, STUDENT, device), np.stack(decoded))
    return [
        {"file": str(file), "class": card.classes[int(row.argmax())], "probability": round(float(row.max()), 6)}
        for file, row in zip(files, probabilities_nk, strict=True)
    ]
