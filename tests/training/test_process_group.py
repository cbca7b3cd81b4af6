"""What ranks exchange, by two real processes over gloo. As a program, this file is one of them."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from builders.trainer import start_as_ranks, wait_for
from costopt_trainer.errors import NotRetryable
from costopt_trainer.training import process_group
from costopt_trainer.training.process_group import ALONE, join_process_group


def table(rank: int) -> dict[str, list[int]]:
    """A few kilobytes, of other lengths on each rank."""
    return {f"tensor {number}": [rank, number] for number in range(200 * (rank + 1))}


@pytest.mark.slow
def test_a_thread_exchanges_long_tables_while_the_loop_exchanges_its_own(tmp_path: Path) -> None:
    codes, errors = wait_for(start_as_ranks(["training.test_process_group", str(tmp_path)], 2))
    assert codes == [0, 0], errors
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["gathered"] == [[table(0), table(1)]] * 20
    assert second["gathered"] == [[]] * 20, "no other rank receives them"
    assert first["sums"] == second["sums"] == [[1, 2 * number] for number in range(200)]
    assert first["told"] == second["told"] == "rank 1 has no disk"


def test_alone_nothing_is_sent() -> None:
    assert ALONE.apart() is ALONE
    assert ALONE.gather_on_first({"a": 1}) == [{"a": 1}]


def main() -> None:
    """One rank."""
    process_group.MAX_MESSAGE_BYTES = 1000  # so that a table takes several parts
    gang = join_process_group()
    apart = gang.apart()
    result: dict[str, Any] = {"gathered": []}

    def save() -> None:
        for _ in range(20):
            result["gathered"].append(apart.gather_on_first(table(gang.rank)))
        try:
            apart.agree(NotRetryable("CheckpointNotWritable", "rank 1 has no disk") if gang.rank == 1 else None)
        except NotRetryable as error:
            result["told"] = str(error)

    thread = threading.Thread(target=save)
    thread.start()
    result["sums"] = [gang.sum_integers(gang.rank, number) for number in range(200)]
    thread.join()
    (Path(sys.argv[1]) / f"{gang.rank}.json").write_text(json.dumps(result))
    gang.leave()


if __name__ == "__main__":
    main()
