"""Of which version of this project, and on which machine, a figure is."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reproduction.cases import PROJECT
from benchmarks.reproduction.rows import Machine, Versions
from distill_client.run_record import current_versions

THREADS = 1  # of the client and of the server: networks this small gain nothing from a second


class Uncommitted(Exception):
    """The commit does not say what would run."""


@dataclass(frozen=True)
class Tree:
    """The project's commit, "unknown" outside of git; ``dirty`` where what runs differs from it."""

    commit: str
    dirty: bool


def present_tree(method: Path | None = None, project: Path = PROJECT) -> Tree:
    """The project's files as they are now; dirty too where the file of the ``method`` is none of the commit's."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(project), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    is_tracked = method is None or bool(git("ls-files", "--", str(method)))
    return Tree(commit=git("rev-parse", "HEAD") or "unknown", dirty=bool(changed) or not is_tracked)


def require_committed(tree: Tree) -> None:
    """Raise Uncommitted for a tree with changes, or of a method that it lacks."""
    if tree.dirty:
        raise Uncommitted(
            f"{PROJECT}, or the method's file, is not as commit {tree.commit[:7]} has it, so a row could not say "
            "what it is of; commit them, or run in a clone, or give --dirty: the tables then mark the row"
        )


def present_versions() -> Versions:
    """What this very process runs, of the files as they are now."""
    tree, installed = present_tree(), current_versions()
    packages = {name: installed[name] for name in ("python", "torch", "numpy")}
    return Versions(**packages, commit=tree.commit, dirty=tree.dirty)


def present_machine(device: str) -> Machine:
    """Where this process runs; ``device`` is "cpu" or "cuda"."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    if device != "cpu":
        import torch

        device = f"{device}: {torch.cuda.get_device_name(device)}"
    return Machine(cpu=cpu, cores=os.cpu_count() or 1, threads=THREADS, device=device)
