"""Running many small steps concurrently."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

AT_A_TIME = 32


async def run_all(steps: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Run all steps, at most a few dozen at a time; raises the first failure once all have ended."""
    pending = list(steps)
    for begin in range(0, len(pending), AT_A_TIME):
        results = await asyncio.gather(*pending[begin : begin + AT_A_TIME], return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                for rest in pending[begin + AT_A_TIME :]:
                    rest.close()
                raise result
