"""A server of lists of large pods, in pages, and a program that lists them like the operator."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from builders.operator import pod_json

PODS = "/api/v1/pods"


class Listing:
    """A list of pods, each with an environment of so many bytes."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.pages: list[tuple[int, int]] = []
        """For each requested page: its first object and the limit."""

    def page(self, query: dict[str, str]) -> Iterator[bytes]:
        begin, limit = int(query.get("continue", "0")), int(query["limit"])
        self.pages.append((begin, limit))
        end = min(begin + limit, len(self.sizes))
        yield b'{"metadata": {"resourceVersion": "7"'
        if end < len(self.sizes):
            yield f', "continue": "{end}"'.encode()
        yield b'}, "items": ['
        for index in range(begin, end):
            yield (b"," if index > begin else b"") + pod_of(index, self.sizes[index])
        yield b"]}"


def pod_of(index: int, size: int) -> bytes:
    pod = pod_json(index)
    values = [min(4096, size - done) for done in range(0, size, 4096)]
    pod["spec"]["containers"][0]["env"] = [{"name": f"V{n}", "value": "x" * each} for n, each in enumerate(values)]
    return json.dumps(pod).encode()


@contextmanager
def served(listing: Listing) -> Iterator[str]:
    """The listing, served at an address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = dict(parse_qsl(urlsplit(self.path).query))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            try:
                for part in listing.page(query):
                    self.wfile.write(part)
            except OSError:
                pass  # the client left the page early

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


LIST_ALL = """
import asyncio, resource, sys
from kubernetes.aio.client import Configuration
from costopt_operator.kube.api import Api
from costopt_operator.watch.list_watch import ListWatch
from costopt_operator.decide.objects import parse_pod

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

async def main():
    api = Api(Configuration(host=sys.argv[1]))
    watch = ListWatch(api, "/api/v1/pods", {}, parse_pod, lambda pod, gone: None)
    before = peak()
    await watch._list()
    print(len(watch.objects), peak() - before)
    await api.close()

asyncio.run(main())
"""
"""Prints how many pods it listed, and by how many KiB its peak memory grew meanwhile."""
