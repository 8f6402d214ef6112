"""What docs/client.md says of odd pictures is what they get: its tables are made anew and compared."""

from pathlib import Path

from tests.distill_client.picture_table import npz_rows, picture_rows

CLIENT_DOC = (Path(__file__).resolve().parents[2] / "docs" / "client.md").read_text(encoding="utf-8")


def test_the_table_of_odd_pictures_is_what_users_are_told() -> None:
    assert [row for row in picture_rows() if row not in CLIENT_DOC] == []


def test_the_table_of_bad_npz_files_is_what_users_are_told() -> None:
    assert [row for row in npz_rows() if row not in CLIENT_DOC] == []
