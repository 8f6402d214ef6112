"""Whether files are those of a commit is asked of git."""

import subprocess
from pathlib import Path

from benchmarks.reproduction.provenance import Tree, present_tree


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=someone", "-c", "user.email=someone@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_tree_is_dirty_when_a_tracked_file_differs_from_its_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    tracked = tmp_path / "tracked.py"
    tracked.write_text("1\n")
    git(tmp_path, "add", "tracked.py")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked.py").write_text("2\n")
    assert present_tree(project=tmp_path) == Tree(commit, dirty=False)
    tracked.write_text("2\n")
    assert present_tree(project=tmp_path) == Tree(commit, dirty=True)


def test_a_tree_is_dirty_for_a_method_whose_file_it_does_not_have(tmp_path: Path) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere.toml"
    project.mkdir()
    git(project, "init", "--quiet")
    tracked, untracked = project / "tracked.toml", project / "untracked.toml"
    for file in (tracked, untracked, elsewhere):
        file.write_text("seed = 1\n")
    git(project, "add", "tracked.toml")
    git(project, "commit", "--quiet", "--message", "one")
    found = {file: present_tree(file, project).dirty for file in (tracked, untracked, elsewhere)}
    assert found == {tracked: False, untracked: True, elsewhere: True}


def test_outside_of_git_the_commit_is_unknown(tmp_path: Path) -> None:
    assert present_tree(project=tmp_path) == Tree("unknown", dirty=False)
