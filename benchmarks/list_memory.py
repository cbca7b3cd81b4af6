"""Peak memory of listing pods with large environments, against reading 200 of them at a time.

A server of its own process sends pods as the API server would. What is printed is by how much the peak of the resident
set of a fresh process grows while it lists them.

    PYTHONPATH=.:operator:tests python benchmarks/list_memory.py
"""

import subprocess
import sys

from builders.paging import LIST_ALL, Listing, served

TWO_HUNDRED_AT_A_TIME = """
import json, resource, sys, urllib.request

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before, pods, token = peak(), 0, ""
while True:
    url = f"{sys.argv[1]}/api/v1/pods?limit=200" + (f"&continue={token}" if token else "")
    page = json.loads(urllib.request.urlopen(url).read())
    pods, token = pods + len(page["items"]), page["metadata"].get("continue", "")
    if not token:
        break
print(pods, peak() - before)
"""
CASES = [("200 pods with 512 KiB each", [128 * 4096] * 200), ("5,000 pods with 1 KiB each", [1024] * 5000)]


def main() -> None:
    """Print one row a case."""
    print(f"{'':32} {'ours, MiB':>10} {'200 at a time, MiB':>20}")
    for name, sizes in CASES:
        with served(Listing(sizes)) as address:
            ours, peer = (_grown(program, address) for program in (LIST_ALL, TWO_HUNDRED_AT_A_TIME))
        print(f"{name:32} {ours:10.0f} {peer:20.0f}")


def _grown(program: str, address: str) -> float:
    done = subprocess.run([sys.executable, "-c", program, address], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[1]) / 1024


if __name__ == "__main__":
    main()
