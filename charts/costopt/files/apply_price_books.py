"""Writes the price books of the chart's values as PriceBook objects; runs in a hook, see templates/price_books.

Waits until the API server knows the kind, then applies each file of this folder. Only the standard library: what else
is installed is the operator's business. Exit code 1 when the kind does not come, or when the server refuses a book.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("COSTOPT_ACCOUNT_DIR", "/var/run/secrets/kubernetes.io/serviceaccount"))
HOST, PORT = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
SERVER = f"https://[{HOST}]:{PORT}" if ":" in HOST else f"https://{HOST}:{PORT}"
KINDS = "/apis/costopt.dev/v1alpha1"
DEADLINE_SECONDS = 120


def ask(method: str, path: str, body: bytes | None = None) -> bytes:
    """One request as the pod's account. Raises HTTPError when the server refuses it."""
    request = urllib.request.Request(  # noqa: S310 -- SERVER says the scheme
        SERVER + path,
        data=body,
        method=method,
        headers={
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}",
            "Content-Type": "application/apply-patch+yaml",
        },
    )
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=10, context=trust) as answer:  # noqa: S310
        content: bytes = answer.read()
        return content


def kind_is_served() -> bool:
    """Whether the server lists PriceBook among the kinds of our group."""
    try:
        return any(resource["kind"] == "PriceBook" for resource in json.loads(ask("GET", KINDS))["resources"])
    except OSError as error:  # not found, refused, cut off, timed out: all of them may pass
        print(f"PriceBook is not served yet: {error}", flush=True)
        return False


def apply(book: Path) -> bool:
    """Create the price book or change it in place; False when the server refuses it, with its reason on stderr."""
    path = f"{KINDS}/pricebooks/{book.stem}?fieldManager=costopt-chart&force=true"
    try:
        ask("PATCH", path, book.read_bytes())
    except urllib.error.HTTPError as error:
        print(f"price book {book.stem} is refused: {json.load(error)['message']}", file=sys.stderr)
        return False
    print(f"price book {book.stem} is as the chart's values have it")
    return True


deadline = time.monotonic() + DEADLINE_SECONDS
while not kind_is_served():
    if time.monotonic() > deadline:
        sys.exit(f"the API server did not serve PriceBook within {DEADLINE_SECONDS} seconds")
    time.sleep(1)
refused = [book for book in sorted(Path(__file__).parent.glob("*.json")) if not apply(book)]
sys.exit(1 if refused else 0)
