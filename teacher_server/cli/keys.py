"""`teacher keys`: issue and manage API keys."""

import json
import re
from contextlib import closing
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from shared.wire.disclosure import NOISE_ALLOWED, PROBABILITY_DECIMALS, Disclosure
from teacher_server.cli.options import AsJson, Ledger, SigningKeyFile
from teacher_server.cli.reporting import out, print_report, progress_out
from teacher_server.errors import OperatorError
from teacher_server.ledger.keys import issuing as ledger_keys
from teacher_server.ledger.keys.key_rotation import old_secret_valid_until, rotate_secret
from teacher_server.ledger.keys.policies import DisclosureChange, change_policy
from teacher_server.ledger.ledger import Ledger as OpenLedger
from teacher_server.ledger.lifecycle.opening import open_database

app = typer.Typer(help="Issue and manage API keys; works while the server runs.", no_args_is_help=True)

Name = Annotated[str, typer.Option(help="which key")]
_Disclosure = typer.Option(help="probabilities, top-k:K or label; or a whole policy, in quotes")
Decimals = Annotated[
    str | None, typer.Option(help=f"1 to {PROBABILITY_DECIMALS}: rows are rounded so that they sum to one; or none")
]
Temperature = Annotated[str | None, typer.Option(help="above 1 flattens the probabilities, below sharpens; or none")]
Noise = Annotated[
    str | None,
    typer.Option(help=f"on log-probabilities, the same whenever an image is sent: {NOISE_ALLOWED}; or none"),
]
_WIDE = 110  # columns in which a table of keys fits as it is
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.command("create")
def create_key(
    ledger: Ledger,
    name: Annotated[str, typer.Option(help="who the key is for; never reused")],
    budget: Annotated[int, typer.Option(help="images it may buy answers for")],
    disclosure: Annotated[str, _Disclosure] = "probabilities",
    decimals: Decimals = None,
    temperature: Temperature = None,
    noise: Noise = None,
    expires: Annotated[str, typer.Option(help="2026-12-31 (to its end, UTC), a full time, or never")] = "never",
    images_per_day: Annotated[str, typer.Option(help="images it may buy in a day (UTC), or none")] = "none",
    images_per_second: Annotated[str, typer.Option(help="images a second, over any 10 seconds, or none")] = "none",
    signing_key: SigningKeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key and print its secret: the only time it is shown."""
    change = DisclosureChange(disclosure, decimals, temperature, noise)
    policy = change.applied_to(Disclosure("probabilities"))
    expires_at = _expiry(expires)
    limits = ledger_keys.KeyLimits(
        _limit(images_per_day, "images_per_day"), _limit(images_per_second, "images_per_second")
    )
    limits.require_allowed()  # before a ledger is made that is not there
    with closing(open_database(ledger, create=True, signing_key=signing_key)) as database:
        key, secret = ledger_keys.create_key(
            database, name=name, budget=budget, disclosure=policy, expires_at=expires_at, limits=limits
        )
    print_report({"key": secret, **_key_report(key)}, secret, as_json=as_json)
    if not as_json:
        progress_out.print(f"key {name}: {budget} images, {policy}. Shown once; only its hash is stored.")


@app.command("list")
def list_keys(ledger: Ledger, as_json: AsJson = False) -> None:
    """Show every key with its budget and limits."""
    with closing(open_database(ledger, create=False)) as database:
        reports = [_key_report(key) for key in ledger_keys.list_keys(database)]
    if as_json:
        typer.echo(json.dumps({"keys": reports}))
        return
    out.print(_keys_table(reports))


@app.command("show")
def show_key(ledger: Ledger, name: Name, as_json: AsJson = False) -> None:
    """Show one key: its budget, its limits and what they leave it now, and until when an old secret is valid."""
    with closing(open_database(ledger, create=False)) as database:
        key = ledger_keys.find_key(database, name)
        standing = OpenLedger(database).standing(key)
        old_secret = old_secret_valid_until(database, key)
    report = _key_report(key) | {
        "remaining_today": standing.day.remaining if standing.day else None,
        "remaining_in_10_seconds": standing.rate.remaining if standing.rate else None,
        "old_secret_valid_until": old_secret,
    }
    width = max(map(len, report))
    text = "\n".join(f"{field:<{width}}  {_cell(value) or '-'}" for field, value in report.items())
    print_report(report, text, as_json=as_json)


@app.command("grant")
def grant(
    ledger: Ledger,
    name: Name,
    images: Annotated[int, typer.Argument(help="how many images to add to its budget")],
    signing_key: SigningKeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Add to a key's budget."""
    with closing(open_database(ledger, create=False, signing_key=signing_key)) as database:
        key = ledger_keys.grant_images(database, name=name, images=images)
    print_report(_key_report(key), f"{name}: granted {key.granted}, spent {key.spent}", as_json=as_json)


@app.command("set")
def set_policy(
    ledger: Ledger,
    name: Name,
    expires: Annotated[str | None, typer.Option(help="2026-12-31 (to its end, UTC), a full time, or never")] = None,
    disclosure: Annotated[str | None, _Disclosure] = None,
    decimals: Decimals = None,
    temperature: Temperature = None,
    noise: Noise = None,
    images_per_day: Annotated[str | None, typer.Option(help="images it may buy in a day (UTC), or none")] = None,
    images_per_second: Annotated[
        str | None, typer.Option(help="images a second, over any 10 seconds, or none")
    ] = None,
    signing_key: SigningKeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Change what a key may see and buy, or when it ends; what is not given stays as it is."""
    changes: dict[str, str | int | None] = {}
    if expires is not None:
        changes["expires_at"] = _expiry(expires)
    if images_per_day is not None:
        changes["images_per_day"] = _limit(images_per_day, "images_per_day")
    if images_per_second is not None:
        changes["images_per_second"] = _limit(images_per_second, "images_per_second")
    change = DisclosureChange(disclosure, decimals, temperature, noise)
    if not changes and change == DisclosureChange():
        raise OperatorError(
            "nothing to set; give --expires, --disclosure, --decimals, --temperature, --noise, --images-per-day or "
            "--images-per-second"
        )
    with closing(open_database(ledger, create=False, signing_key=signing_key)) as database:
        key = change_policy(database, name=name, changes=changes, disclosure=change)
    report = _key_report(key)
    shown = ("disclosure", "images_per_day", "images_per_second", "expires")
    text = ", ".join(f"{field} {_cell(report[field]) or 'none'}" for field in shown)
    print_report(report, f"{name}: {text}", as_json=as_json)


@app.command("rotate")
def rotate(
    ledger: Ledger,
    name: Name,
    overlap: Annotated[str, typer.Option(help="how long the old secret stays valid: 24h, 30m, 7d, or 0")] = "24h",
    signing_key: SigningKeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret and print it, the only time it is shown; the old one stays valid for a while."""
    length = _length(overlap)
    with closing(open_database(ledger, create=False, signing_key=signing_key)) as database:
        key, secret, until = rotate_secret(database, name=name, overlap=length)
    report = {"key": secret, **_key_report(key), "old_secret_valid_until": until}
    print_report(report, secret, as_json=as_json)
    if not as_json:
        progress_out.print(
            f"key {name}: the old secret is {f'valid until {until}' if until else 'not valid any more'}"
        )


@app.command("revoke")
def revoke(ledger: Ledger, name: Name, signing_key: SigningKeyFile = None, as_json: AsJson = False) -> None:
    """Take a key out of use for ever."""
    with closing(open_database(ledger, create=False, signing_key=signing_key)) as database:
        key = ledger_keys.revoke_key(database, name=name)
    print_report(_key_report(key), f"{name}: revoked at {key.revoked_at}", as_json=as_json)


def _expiry(text: str) -> str | None:
    return None if text == "never" else ledger_keys.parse_expiry(text)


def _limit(text: str, name: str) -> int | None:
    if text == "none":
        return None
    if not re.fullmatch(r"[0-9]{1,30}", text):
        raise OperatorError(f"{name} is {text!r}; allowed are a number of images, 1 or more, and none")
    return int(text)


def _length(text: str) -> timedelta:
    if text == "0":
        return timedelta(0)
    if not (match := re.fullmatch(r"([0-9]{1,8})([smhd])", text)):
        raise OperatorError(
            f"overlap is {text!r}; allowed are 0 and a number with s, m, h or d, such as 24h, up to 366d"
        )
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def _key_report(key: ledger_keys.Key) -> dict[str, Any]:
    return {
        "name": key.name,
        **key.usage.model_dump(),
        "images_per_day": key.limits.images_per_day,
        "images_per_second": key.limits.images_per_second,
        "disclosure": str(key.disclosure),
        "status": key.status,
        "created": key.created_at,
        "expires": key.expires_at,
        "revoked": key.revoked_at,
    }


def _keys_table(reports: list[dict[str, Any]]) -> Table:
    """On a narrow terminal what is long is folded, no heading and no number."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    folded = {"name": None, "disclosure": 10, "expires": 10}
    for header in ("name", "granted", "spent", "remaining", "per day", "per s", "disclosure", "status", "expires"):
        width = folded.get(header) if out.width < _WIDE else None
        table.add_column(header, overflow="fold", width=width, no_wrap=header not in folded)
    for report in reports:
        names = ("name", "granted", "spent", "remaining", "images_per_day", "images_per_second", "disclosure")
        cells = [_cell(report[name]) for name in (*names, "status")]
        table.add_row(*cells, _cell(report["expires"])[:19].replace("T", " "))  # may be folded between them
    return table


def _cell(value: object) -> str:
    return "" if value is None else str(value)
