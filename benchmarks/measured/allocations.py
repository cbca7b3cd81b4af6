"""Memory as torch's own allocator counts it, on a device or in host memory.

Resident memory would count what the C library keeps of freed blocks too: several hundred MiB, more for what allocates
often than for what allocates much.
"""

import json
import tempfile
from pathlib import Path

import torch


class Allocations:
    """The bytes that torch has given out since `start` and not got back, at their highest until `stop`.

    On a processor each allocation is written down until then, which slows steps down: times are taken before or after.
    Allocations of the calling thread count, and of those that run its backward passes.
    """

    def __init__(self) -> None:
        self._profile = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
        )
        self._before = 0

    def start(self) -> None:
        """Begin to count; what is held already does not count."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            self._profile.start()

    def stop(self) -> int:
        """The highest number of bytes."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() - self._before
        self._profile.stop()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "trace.json")
            self._profile.export_chrome_trace(str(file))
            events = json.loads(file.read_bytes())["traceEvents"]
        return max(int(event["args"]["Total Allocated"]) for event in events if event.get("name") == "[memory]")
