"""From named scores to an answer's values, in our classes."""

from collections.abc import Mapping, Sequence

import numpy as np

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.protocol import Values
from distill_client.teachers.teacher_file import TeacherFile
from shared.wire.contracts import Disclosure


def probabilities_of(scores: Sequence[Mapping[str, float]], file: TeacherFile) -> Values:
    """Each image's scores by class name, as float32 N x K, NaN for what was not named; or int64 N of the best ones.

    Raises TeacherProtocolError for a name that is none of the file's classes, or a score outside 0 to 1.
    """
    index = {name: position for position, name in enumerate(file.classes)}
    values_nk = np.full((len(scores), len(index)), np.nan, np.float32)
    for row, named in enumerate(scores):
        for name, score in named.items():
            if name not in index:
                raise TeacherProtocolError(f"the teacher answered {name!r}, which is none of the file's classes")
            if not 0 <= score <= 1 + 1e-6:
                raise TeacherProtocolError(f"the teacher gave {name!r} a score of {score}; allowed are 0 to 1")
            values_nk[row, index[name]] = min(score, 1.0)
    if Disclosure.parse(file.answers).kind != "label":
        return values_nk
    known = np.where(np.isnan(values_nk), -1.0, values_nk)
    labels_n: Values = np.where(known.max(axis=1) < 0, -1, known.argmax(axis=1)).astype(np.int64)
    return labels_n
