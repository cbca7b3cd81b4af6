"""Logs written to mislead: whatever they hold, they are read, and only a kubelet says when a line was written."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.operator import Story, a_job, child, pod
from costopt.plan.silence import Silence
from costopt.schema.replica import log_lines, phase_in_log, progress_in_log, time_in_log
from costopt_operator.decide.observe import LogSight
from costopt_operator.watch.pod_log_reader import _lines_of, _mark_of, read_log

KUBELETS = "2026-03-01T12:00:09.123456789Z"
FAR = ("0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59.9-23:00", "2026-02-30T25:61:61Z", "2026-03-01", "")
SEPARATORS = ("\f", "\v", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\x00", "\x1b[K")
REPORT = json.dumps({"step": 3, "totalSteps": 9})

words = st.one_of(
    st.text(max_size=40),
    st.sampled_from(FAR),
    st.sampled_from(SEPARATORS),
    st.sampled_from(["\r", "\r\n", "\n", KUBELETS, REPORT, '{"phase": "Tokenizing", "percent": 40}']),
    st.sampled_from(['{"step": ' + "[" * 3000 + "}", '{"step": ' + "9" * 5000 + "}", '{"phase": NaN}', "\ud800"]),
)
hostile = st.lists(words, max_size=30).map("".join)


@given(log=hostile, stamp=st.sampled_from([KUBELETS, *FAR]))
def test_any_log_is_read_and_planned_with(log: str, stamp: str) -> None:
    lines = _lines_of("\n".join(f"{stamp} {line}" for line in log.split("\n")))
    sight = read_log(lines, LogSight(silent_for=timedelta(0)))
    assert sight.last_line == (time_in_log(lines[-1]) if lines else None)
    story = Story(a_job(suspend=True, restarts={"startupTimeoutSeconds": 60}))
    todo = story.look(30, child(), pod(0), pod(1), logs={pod(0).uid: sight})
    assert [gone.name for gone in todo.delete_jobs] == [child().name]


@given(before=hostile, noise=st.sampled_from(SEPARATORS), end=st.sampled_from(["\n", "\r", "\r\n"]))
def test_a_report_on_a_line_of_its_own_is_found_whatever_stands_before_it(before: str, noise: str, end: str) -> None:
    report = json.dumps({"step": 4, "totalSteps": 9, "checkpointsPassedOver": f"one{noise}two"}, ensure_ascii=False)
    progress = progress_in_log(log_lines(before + end + report + end))
    assert ord(noise[0]) < 0x20 or (progress is not None and progress.step == 4)
    plain = progress_in_log(log_lines(before + end + REPORT.replace("3", "4") + noise.rstrip("\x00\x1b[K") + end))
    assert plain is not None
    assert plain.step == 4


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_ends_with_a_line_feed_or_a_carriage_return(end: str) -> None:
    assert log_lines(f"a{end}b{end}") == ["a", "b"]
    assert log_lines(f"a{end}{end}b") == ["a", "", "b"]


@pytest.mark.parametrize("separator", SEPARATORS)
def test_nothing_else_ends_a_line(separator: str) -> None:
    assert log_lines(f"a{separator}b\n") == [f"a{separator}b"]
    phase = '{"phase": "Tokenizing", "percent": 40}'
    assert phase_in_log(log_lines(f"noise{separator}{phase}\n")) is None


@pytest.mark.parametrize("far", FAR)
def test_a_time_behind_a_separator_is_the_programs_and_not_the_kubelets(far: str) -> None:
    for separator in (*SEPARATORS, "\r"):
        sight = read_log(_lines_of(f"{KUBELETS} 10 %{separator}{far} 20 %\n"), LogSight())
        assert sight.last_line == datetime(2026, 3, 1, 12, 0, 9, 123456, UTC)


@given(st.lists(st.tuples(hostile, st.sampled_from([KUBELETS, *FAR])), min_size=2, max_size=6))
def test_silence_is_told_by_change_whatever_time_the_lines_bear(looks: list[tuple[str, str]]) -> None:
    silence, now, before = Silence(), timedelta(0), None
    for log, stamp in looks:
        lines = _lines_of(f"{stamp} {log}")
        now += timedelta(seconds=2)
        silence = silence.heard(_mark_of(lines), asked=now, answered=now, longest=timedelta(seconds=4))
        assert (silence.length == timedelta(0)) == (lines != before)
        before = lines
