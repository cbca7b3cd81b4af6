"""Shown output is compared up to names and numbers, and no further."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.docs_output import difference, matches, normalised

ALIKE = {
    "a line of the library below helm": (
        "kept: costoptjobs.costopt.dev",
        'I1201 00:20:01.123456   4711 reflector.go:571] "watch ended with error"\nkept: costoptjobs.costopt.dev',
    ),
    "figures": ("train: step 6/600  loss 4.5422  23,179 tokens/s", "train: step 17/150  loss 1.5  814 tokens/s"),
    "signs and ratios": ("int8: 3.26x smaller, loss +0.0003", "int8: 12x smaller, loss -1.5"),
    "percentages": ("99.0%", "100.0%"),
    "sizes": ("3.32 MiB left", "17 KiB left"),
    "clocks and ages": ("1:40 left, 0s, 2m15s, 3:07:00", "0:00 left, 17h, 4d3h, 12:05"),
    "dates": ("LAST DEPLOYED: Sat Nov 28 14:55:04 2026", "LAST DEPLOYED: Mon Jan  5 01:02:03 2027"),
    "addresses": ("at https://127.0.0.1:1 (refused)", "at https://10.96.0.1:6443 (refused)"),
    "hashes": ("uid 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed", "uid 00000000-0000-4000-8000-00000000000a"),
    "pods' suffixes": ("quickstart-train-a0-1-x7k2p", "quickstart-train-a0-1-9zzzz"),
    "folders": ("written to /tmp/abc/runs", "written to /tmp/pytest-of-root/x/y"),
    "columns and rules": ("a   b\n ─────── \n1  22", "a b\n ──── \n333     4"),
    "empty lines": ("one\n\ntwo", "one\n   \ntwo\n"),
    "lines left out": ("one\n...\nfour", "one\ntwo\nthree\nfour"),
    "no lines left out": ("one\n...\ntwo", "one\ntwo"),
    "an end left out": ("one\n...", "one\ntwo"),
    "the rest of a line left out": (
        "install it: helm install costopt ...",
        "install it: helm install costopt a/b -n c",
    ),
    "two gaps": ("...\nb\n...\nb", "a\nb\nb\nc\nb"),
}

UNLIKE = {
    "what that library warns of": (
        "kept: costoptjobs.costopt.dev",
        'W1201 00:20:01.123456   4711 client.go:1] "the token is about to end"\nkept: costoptjobs.costopt.dev',
    ),
    "a missing line": ("one\ntwo", "one"),
    "a line too many": ("one", "one\ntwo"),
    "another order": ("one\ntwo", "two\none"),
    "a renamed column": ("stage  resource  hours", "stage  resource  time"),
    "a changed sentence": ("Job a is being suspended.", "Job a is suspended."),
    "a digit within a name": ("int8: done", "int4: done"),
    "another replica": ("train-a0-0 | begins", "train-a0-1 | begins"),
    "another version": ("costopt-trainer:0.1.0", "costopt-trainer:0.2.0"),
    "a figure that became a word": ("cost 0.000147 USD", "cost unknown USD"),
    "a ratio without its sign": ("1.85x as fast", "1.85 as fast"),
    "a percentage without its sign": ("20% pruned", "20 pruned"),
    "a word after a gap": ("one\n...\nfour", "one\ntwo\nthree"),
    "a word before the gap in a line": ("install it: helm ...", "upgrade it: helm install"),
    "a column that is gone": ("cpu  0.02  vCPU-Hours  0.04", "cpu  0.02  vCPU-Hours"),
    "nothing printed": ("one", ""),
    "something printed where nothing is shown": ("", "Warning: deprecated"),
}


@pytest.mark.parametrize("case", ALIKE)
def test_what_differs_from_run_to_run_is_alike(case: str) -> None:
    shown, printed = ALIKE[case]
    assert difference(shown, printed) == ""


@pytest.mark.parametrize("case", UNLIKE)
def test_what_a_reader_would_notice_is_not(case: str) -> None:
    shown, printed = UNLIKE[case]
    assert not matches(shown, printed), (normalised(shown), normalised(printed))
    assert difference(shown, printed)


LINES = st.lists(st.sampled_from(["train: done", "int8: done", "loss 1.5", "Bill", "cpu 0.1 USD"]), max_size=8)


@given(LINES)
def test_every_output_is_like_itself(lines: list[str]) -> None:
    assert matches("\n".join(lines), "\n".join(lines))


@given(LINES, st.data())
def test_an_output_that_lacks_one_of_the_shown_lines_is_noticed(lines: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(lines)))
    assert not matches("\n".join([*lines[:at], "a line of its own", *lines[at:]]), "\n".join(lines))


@given(LINES, st.data())
def test_a_gap_stands_for_any_run_of_lines(lines: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(lines)))
    end = data.draw(st.integers(start, len(lines)))
    assert matches("\n".join([*lines[:start], "...", *lines[end:]]), "\n".join(lines))


@given(st.decimals(0, 10**6, places=4), st.decimals(0, 10**6, places=2))
def test_any_two_figures_are_alike_and_no_figure_is_like_a_word(one: object, other: object) -> None:
    assert matches(f"cost {one} USD", f"cost {other} USD")
    assert not matches(f"cost {one} USD", "cost unknown USD")
