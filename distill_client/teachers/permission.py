"""Whether a teacher that is not ours may be asked for answers to train on: that is up to its owner's terms."""

from distill_client.errors import ConfigError
from distill_client.teachers.teacher_file import TeacherFile

GIVEN = (
    "Whoever ran this stated, by `i_have_permission = true` in the teacher's file, that the teacher's terms allow a "
    "model to be trained on its answers."
)


def require_permission(file: TeacherFile) -> None:
    """Raise ConfigError, with a paragraph on terms of service, unless the file says that there is permission."""
    if not file.i_have_permission:
        raise ConfigError(
            f"i_have_permission is not true in the file of teacher {file.name!r}, so nothing is bought from it. Its "
            "answers would train a model of your own. Many vendors' terms of service forbid that, most of all for "
            "models that compete with theirs, whatever you pay for the answers; some forbid automated bulk queries, "
            "or keeping answers. Read the terms of whoever runs it, the parts on outputs and on training or "
            "competing models; where they do not plainly allow it, ask for written permission, or use a teacher of "
            "your own or under an open licence. When you may, write `i_have_permission = true` into the file. The "
            "student's card will say that you did"
        )
