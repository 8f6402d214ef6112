"""What is to be known before the tables are believed, in sentences: of some rows, and of what was not run."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.reproduction.cases import CONFIGS, methods_of
from benchmarks.reproduction.outcomes import Outcome, Section
from benchmarks.reproduction.published import DATASETS, STUDENTS
from benchmarks.reproduction.tables import METHODS


def caveats(sections: Sequence[Section]) -> str:
    """Which rows are of files that no commit has, and which means are over different versions of torch."""
    dirty: list[str] = []
    mixed: dict[str, list[str]] = defaultdict(list)  # by which seeds had which version
    for name, outcome in _named(sections):
        if seeds := [row.seed for row in outcome.rows if row.versions.dirty]:
            dirty.append(f"{name} ({_seeds(seeds)})")
        by_torch: dict[str, list[int]] = defaultdict(list)
        for row in outcome.rows:
            by_torch[row.versions.torch].append(row.seed)
        if len(by_torch) > 1:
            mixed[", ".join(f"{of} for {_seeds(seeds)}" for of, seeds in sorted(by_torch.items()))].append(name)
    sentences = ["Every row is of committed files.", "No mean is over different versions of torch."]
    if dirty:
        names = "; ".join(dirty)
        sentences[0] = f"Some rows are of files that no commit has (`dirty`), until they are run again: {names}."
    if mixed:
        told = [f"{versions}: {'; '.join(names)}." for versions, names in mixed.items()]
        sentences[1] = f"Some means are over different versions of torch. {' '.join(told)}"
    return "\n\n".join(sentences)


def coverage(sections: Sequence[Section], configs: Path = CONFIGS) -> str:
    """Which methods are compared on some data sets only, and where else a configuration of them is all there is."""
    planned: dict[str, set[str]] = defaultdict(set)
    for section in sections:
        planned[section.group.dataset].update(section.group.methods)
    told: dict[str, list[str]] = defaultdict(list)
    for method, title in METHODS.items():
        on = [dataset for dataset in DATASETS if method in planned[dataset]]
        lacking = [dataset for dataset in DATASETS if planned[dataset] and dataset not in on]
        if not on or not lacking:
            continue
        idle = [DATASETS[dataset] for dataset in lacking if method in methods_of(dataset, configs)]
        beside = f" (configured for {_listed(idle)} too, and in no plan)" if idle else ""
        told[_listed([DATASETS[dataset] for dataset in on])].append(title.partition(":")[0] + beside)
    sentences = [f"Compared on {where} alone: {'; '.join(methods)}." for where, methods in told.items()]
    return " ".join(sentences) or "Every method is compared on every data set."


def _named(sections: Sequence[Section]) -> Iterator[tuple[str, Outcome]]:
    """Every outcome once, with what tells it from the others."""
    seen = set()
    for section in sections:
        for outcome in section.outcomes:
            case = outcome.experiment.case
            about = [DATASETS[case.dataset], STUDENTS.get(outcome.student, outcome.student)]
            if section.group.section == "case":
                about.append(section.group.about)
            if case.disclosure != "probabilities":
                about.append(f"`{case.disclosure}`")
            method = METHODS[case.method].partition(":")[0].replace("*", "")
            name = f"{', '.join(about)}, {method} with {outcome.answers:,} answers"
            if name not in seen:
                seen.add(name)
                yield name, outcome


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {_listed(list(map(str, seeds)))}"


def _listed(names: Sequence[str]) -> str:
    """``A``, ``A and B`` or ``A, B and C``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
