"""The policy's text: read and written in one form only, old texts as they always were, every mistake named."""

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.wire.disclosure import NOISE_STEPS, Disclosure
from shared.wire.receipts import disclosure_digest

temperatures = st.integers(10, 10_000).map(lambda hundredths: hundredths / 100)
noises = st.sampled_from([0.0, *NOISE_STEPS])


@st.composite
def disclosures(draw: st.DrawFn) -> Disclosure:
    """Any policy that is allowed."""
    kind = draw(st.sampled_from(["probabilities", "top-k", "label"]))
    k = draw(st.integers(1, 12)) if kind == "top-k" else 0
    temperature = 1.0 if kind == "label" else draw(st.just(1.0) | temperatures)
    noise = draw(noises)
    is_bare = kind == "label" or (temperature == 1 and not noise and draw(st.booleans()))
    decimals = None if is_bare else draw(st.integers(1, 6))
    return Disclosure(kind, k, temperature=temperature, noise=noise, decimals=decimals)  # type: ignore[arg-type]  # kind


@settings(deadline=None)
@given(disclosures(), disclosures())
def test_every_policy_has_one_text_and_every_text_one_policy(one: Disclosure, other: Disclosure) -> None:
    assert Disclosure.parse(str(one)) == one
    assert (str(one) == str(other)) == (one == other)
    assert len(str(one)) <= 64, "as long as the ledger's column"


def test_the_longest_text_fits_the_ledger() -> None:
    longest = Disclosure("top-k", 99_999, temperature=99.99, noise=0.05, decimals=6)
    assert str(longest) == "top-k:99999;temperature=99.99;noise=0.05;decimals=6"


def test_the_parts_stand_in_the_order_in_which_they_are_applied() -> None:
    read = Disclosure.parse("top-k:3;temperature=2;noise=0.1;decimals=2")
    assert read == Disclosure("top-k", 3, temperature=2, noise=0.1, decimals=2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("probabilities;temperature=2.0;decimals=2", "written 'probabilities;temperature=2;decimals=2'"),
        ("probabilities;temperature=02;decimals=2", "written 'probabilities;temperature=2;decimals=2'"),
        ("probabilities;temperature=0.50;decimals=2", "written 'probabilities;temperature=0.5;decimals=2'"),
        ("probabilities;temperature=1;decimals=2", "written 'probabilities;decimals=2'"),
        ("probabilities;noise=0;decimals=2", "written 'probabilities;decimals=2'"),
        ("probabilities;noise=0.10;decimals=2", "written 'probabilities;noise=0.1;decimals=2'"),
        ("probabilities;temperature=0.09;decimals=2", "temperature is 0.09; allowed are 0.1 to 100"),
        ("probabilities;temperature=100.01;decimals=2", "temperature is 100.01; allowed are 0.1 to 100"),
        ("probabilities;temperature=0;decimals=2", "temperature is 0; allowed are 0.1 to 100"),
        ("probabilities;noise=0.3;decimals=2", "noise is 0.3; allowed are 0.05, 0.1, 0.2, 0.5, 1, 2, 5"),
        ("probabilities;decimals=0", "decimals is 0; allowed are 1 to 6"),
        ("probabilities;decimals=7", "decimals is 7; allowed are 1 to 6"),
        ("probabilities;temperature=2", "decimals is none; with a temperature or noise allowed are 1 to 6"),
        ("top-k:3;noise=0.1", "decimals is none; with a temperature or noise allowed are 1 to 6"),
        ("label;temperature=2", "temperature is 2, but no temperature changes a label"),
        ("label;decimals=2", "decimals is 2, but a label has none"),
        ("probabilities;decimals=2;noise=0.1", "allowed are probabilities, top-k:K"),  # another order
        ("probabilities;temperature=1e1;decimals=2", "allowed are probabilities, top-k:K"),
        ("probabilities;temperature=nan;decimals=2", "allowed are probabilities, top-k:K"),
        ("probabilities;temperature=-2;decimals=2", "allowed are probabilities, top-k:K"),
        ("probabilities;temperature=\u0662;decimals=2", "allowed are probabilities, top-k:K"),  # another script's 2
        ("probabilities;decimals=2\n", "allowed are probabilities, top-k:K"),
        ("probabilities;decimals=2;", "allowed are probabilities, top-k:K"),
        ("probabilities;", "allowed are probabilities, top-k:K"),
        ("probabilities; decimals=2", "allowed are probabilities, top-k:K"),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        Disclosure.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "top-k"}, "k of top-k is 0"),
        ({"kind": "probabilities", "temperature": float("nan"), "decimals": 2}, "temperature is nan"),
        ({"kind": "probabilities", "temperature": 2.005, "decimals": 2}, "temperature is 2.005"),
        ({"kind": "probabilities", "noise": -0.1, "decimals": 2}, "noise is -0.1"),
        ({"kind": "probabilities", "noise": float("nan"), "decimals": 2}, "noise is nan"),
    ],
)
def test_no_policy_is_made_that_has_no_text(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Disclosure(**fields)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("probabilities", "bc532888ff897bcc0976ed6765eba85ac4e098bde2bd897ca9b5e02e6ca91b6a"),
        ("top-k:3", "92970471bd548a410ab229a0267131c77beb24068b432c0a3de7db4afecdacfe"),
        ("label", "d9b5fa8c46f59bbf37b19bd33ba36c5917e3cda34699d3ab96f69310578f98a0"),
    ],
)
def test_digests_of_old_policies_are_what_old_receipts_hold(text: str, digest: str) -> None:
    assert disclosure_digest(text) == digest


@settings(deadline=None)
@given(disclosures(), disclosures())
def test_digests_tell_policies_apart(one: Disclosure, other: Disclosure) -> None:
    assert (disclosure_digest(str(one)) == disclosure_digest(str(other))) == (one == other)
    whole = f'{{"decimals":6,"disclosure":"{one}"}}'
    assert disclosure_digest(str(one)) == hashlib.sha256(whole.encode()).hexdigest()
