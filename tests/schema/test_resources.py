"""Quantities are exact, and limits fill in what requests leave out."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt.schema.resources import NodeResources, effective_requests, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "0.5"),
        (2, "2"),
        ("1.5", "1.5"),
        ("1Ki", "1024"),
        ("2Gi", "2147483648"),
        ("1G", "1000000000"),
        ("0", "0"),
        ("1n", "0.000000001"),
        ("250u", "0.00025"),
        ("3k", "3000"),
        ("4E", "4000000000000000000"),
        ("1Ei", "1152921504606846976"),
        ("1e9", "1000000000"),
        ("1E3", "1000"),
        ("5e-3", "0.005"),
        ("2e+2", "200"),
        (".5", "0.5"),
        ("5.", "5"),
        ("+1.5Gi", "1610612736"),
        ("-1", "-1"),
        ("0.1n", "0.000000001"),
        ("1e-400", "0.000000001"),
        ("-0.1n", "-0.000000001"),
        ("1.0000000001", "1.000000001"),
        ("1e400", "9223372036854775807"),
        ("9Ei", "9223372036854775807"),
        ("0e999999", "0"),
        ("00012", "12"),
    ],
)
def test_a_quantity_has_its_exact_value(text: str | int, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2GB",
        "two",
        "1 Gi",
        "½",
        "1e",
        "e3",
        "1i",
        "1ki",
        "0.1mi",
        "1+1",
        "--1",
        ".",
        "1e3k",
        "1Ki3",
        "１",
        "1" * 300,
        True,
    ],
)
def test_text_that_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a Kubernetes quantity"):
        parse_quantity(text)


@given(st.integers(0, 10**15))
def test_a_thousand_milli_units_are_one_unit(amount: int) -> None:
    assert parse_quantity(f"{amount}m") * 1000 == amount


def test_a_resource_named_only_in_limits_is_requested_at_its_limit() -> None:
    resources = {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": 2, "nvidia.com/gpu": 8}}
    expected = {"cpu": Decimal(1), "memory": Decimal(2**30), "nvidia.com/gpu": Decimal(8)}
    assert effective_requests(resources) == expected
    assert NodeResources.model_validate(resources).effective() == expected
