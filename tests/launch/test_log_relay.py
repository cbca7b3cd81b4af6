"""Ranks' output on its way to the launcher's stdout."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.launch import python, replica
from costopt_trainer.launch.log_relay import LONGEST_LINE_BYTES, RankOutput, Sink


def relay(chunks: list[bytes], prefix: bytes = b"") -> tuple[bytes, list[str]]:
    """What reaches the sink of what a rank writes in these chunks, and the lines remembered."""
    source, rank_end = os.pipe()
    with tempfile.TemporaryFile() as received:
        output = RankOutput(Sink(received.fileno()), prefix)
        output.relay(os.fdopen(source, "rb", buffering=0), is_stderr=False)
        for chunk in chunks:
            os.write(rank_end, chunk)
        os.close(rank_end)
        output.finish(5)
        received.seek(0)
        return received.read(), [line.text for line in output.lines]


def test_lines_pass_unchanged_and_a_last_line_is_ended() -> None:
    assert relay([b"one\ntw", b"o\n", b"three"]) == (b"one\ntwo\nthree\n", ["one", "two", "three"])


def test_every_line_of_another_rank_is_prefixed() -> None:
    assert relay([b"a\r\nb\rc\n"], b"[rank 1] ")[0] == b"[rank 1] a\r\n[rank 1] b\r[rank 1] c\n"


def test_a_line_without_end_is_passed_on_in_pieces() -> None:
    received, lines = relay([b"x" * 30000] * 2 + [b"y" * 10000])
    assert received.replace(b"\n", b"") == b"x" * 60000 + b"y" * 10000
    assert max(map(len, received.split(b"\n"))) <= 2 * LONGEST_LINE_BYTES
    assert max(map(len, lines)) <= 2000


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=5))
def test_nothing_is_lost_whatever_a_rank_writes(chunks: list[bytes]) -> None:
    written = b"".join(chunks)
    received, _ = relay(chunks)
    assert received.startswith(written)
    assert received[len(written) :] in (b"", b"\n")


def test_lines_are_dropped_once_nobody_reads_and_the_rank_goes_on() -> None:
    reader, sink_end = os.pipe()
    os.close(reader)
    sink = Sink(sink_end)
    sink.write(b"lost\n")
    sink.write(b"lost too\n")
    os.close(sink_end)


@pytest.mark.slow
def test_a_line_arrives_when_it_is_written(tmp_path: Path) -> None:
    program = f"""
        import time
        from pathlib import Path
        for number in range(5):
            print(f"line {{number}}.")
            while not (Path({str(tmp_path)!r}) / f"seen-{{number}}").exists():
                time.sleep(0.01)
    """
    with replica(tmp_path, python(program)) as launcher:
        for number in range(5):
            launcher.wait_for_output(f"line {number}.")  # the program waits for it to be seen
            (tmp_path / f"seen-{number}").touch()
        assert launcher.wait() == 0
