"""`distill plan`: what a run would buy, before it buys anything."""

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from distill_client.cli.connecting import allowance_of, connected
from distill_client.cli.options import AsJson, ConfigFile, TeacherUrl, out, say
from distill_client.config import RunConfig, load_config
from shared.wire.contracts import TeacherCard

if TYPE_CHECKING:
    from distill_client.expectation import Expectation
    from distill_client.material import Material
    from distill_client.plan import PlanCost
    from distill_client.teachers.paid.allowance import Allowance

# Somebody sits and waits for a plan, and a mistyped address is likelier than a server that is just starting.
PATIENCE_S = 10.0


def plan(config: ConfigFile, teacher: TeacherUrl = None, as_json: AsJson = False) -> None:
    """Say what a run would buy, phase by phase, and refuse what its budget cannot finish. Buys nothing.

    Where the benchmark has measured something comparable, the accuracy that such a run may expect is told as well,
    and beside it that of the pool's answers alone.

    With --teacher, the images' shape and classes and the key's remaining budget are checked as well; the key is read
    from DISTILL_API_KEY. A pool of pictures needs it, or pool.size, to know what size they will have.
    """
    from distill_client.expectation import KnownTeacher, expect, expect_of_pool_alone
    from distill_client.material import check_budget, check_card
    from distill_client.report.table import plan_table
    from distill_client.teachers.paid.buying import images_per_request

    experiment = load_config(config)
    card, allowance = None, None
    if teacher is not None:
        with connected(teacher, experiment, deadline_s=PATIENCE_S, buys=False) as server:
            card, allowance = server.card(), allowance_of(server)
    material = read_material(experiment, card)
    cost = material.cost
    if card is not None:
        check_card(experiment, card, material.pool)
        check_budget(cost, card)
    wanted = experiment.teacher.images_per_request
    per_request = wanted if card is None else images_per_request(wanted, card)
    requests = sum(math.ceil(images / per_request) for images in cost.phases().values())
    known = KnownTeacher(
        image_hwc=material.pool.images_nhwc.shape[1:],
        classes=len(material.pool.class_names),
        disclosure="probabilities" if card is None else card.disclosure,
        test_accuracy=None if card is None else card.test_accuracy,
    )
    expected = expect(experiment, known, answers=cost.total)
    alone = expect_of_pool_alone(experiment, known) if cost.total > cost.pool else None
    if as_json:
        report = {"phases": cost.phases(), "total": cost.total, "real_images": cost.real}
        report |= {"budget_images": experiment.budget_images}
        report |= {"requests": requests, "config_digest": experiment.digest(), "policy": experiment.budget.policy}
        report["expected_accuracy"] = None if expected is None else expected.as_json()
        report["expected_accuracy_of_pool_alone"] = None if alone is None else alone.as_json()
        typer.echo(json.dumps(report | _price(allowance, cost.total)))
    else:
        budget = experiment.budget_images
        is_the_most = experiment.budget.policy == "until-flat"
        out.print(
            plan_table(cost, budget_images=budget, requests=requests, allowance=allowance, is_the_most=is_the_most)
        )
        for line in _expectations(expected, alone, cost):
            out.print(line, highlight=False, markup=False, soft_wrap=True)


def _expectations(expected: "Expectation | None", alone: "Expectation | None", cost: "PlanCost") -> Iterator[str]:
    """What is told of the accuracy, in lines."""
    if expected is not None:
        told = f"expected accuracy: {expected.describe()}. An expectation, no promise: {expected.measured_on}"
        if expected.differences:
            told += f". But this run differs: {'; '.join(expected.differences)}"
        yield told
    if alone is not None:
        yield f"the pool's {cost.pool:,} answers alone, varied and learnt as few are: {alone.describe()}" + (
            "" if expected is None else f". {_gain(expected, alone)} beside them there"
        )


def _gain(expected: "Expectation", alone: "Expectation") -> str:
    """What the means say of the answers that are bought beside the pool's."""
    points = 100 * (expected.mean - alone.mean)
    return "Nothing was gained" if points < 0.05 else f"{points:.1f} points were gained"


def _price(allowance: "Allowance | None", images: int) -> dict[str, object]:
    """What the teacher's file says of money, for scripts; nothing for a teacher that counts."""
    if allowance is None:
        return {}
    return {
        "allowed_images": allowance.granted(),
        "price": {
            "per_image": str(allowance.price_per_image),
            "total": str(allowance.cost_of(images)),
            "max_cost": None if allowance.max_cost is None else str(allowance.max_cost),
            "currency": allowance.currency,
        },
    }


def read_material(experiment: RunConfig, card: TeacherCard | None) -> "Material":
    """Read and draw what the run works with; what came of the user's own files is said on stderr."""
    from distill_client.material import Material
    from distill_client.report.reading import describe_reading

    if experiment.pool.is_of_files:
        say(f"reading pictures: {experiment.pool.source}")
    material = Material(experiment, card)
    for line in describe_reading(material.pool, material.test):
        say(line)
    return material
