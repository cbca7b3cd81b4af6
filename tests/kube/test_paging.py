"""Lists are read in pages that are small in bytes, whatever their objects hold. A server sends pages as asked for."""

import asyncio
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from kubernetes.aio.client import Configuration

from builders.paging import LIST_ALL, PODS, Listing, served
from costopt_operator.kube.api import Api
from costopt_operator.kube.paging import FIRST_PAGE, MAX_PAGE_BYTES, PAGE_BYTES, next_limit, smaller_limit

MIB = 2**20


def indexes_read(address: str) -> list[str]:
    """Uids of the pods in all pages, in order."""

    async def read() -> list[str]:
        api = Api(Configuration(host=address))
        try:
            return [item["metadata"]["uid"] async for page in api.pages(PODS, {}) for item in page["items"]]
        finally:
            await api.close()

    return asyncio.run(read())


def test_each_object_comes_once_and_in_order_however_large_it_is() -> None:
    sizes = [1000] * 120 + [MIB] * 12 + [1000] * 300 + [MIB] * 12 + [10]
    listing = Listing(sizes)
    with served(listing) as address:
        assert indexes_read(address) == [f"pod-train-0-{index}" for index in range(len(sizes))]
    assert max(limit for _, limit in listing.pages) > FIRST_PAGE
    assert min(limit for _, limit in listing.pages) < 10


def test_pages_of_small_objects_grow() -> None:
    listing = Listing([100] * 2000)
    with served(listing) as address:
        assert len(indexes_read(address)) == 2000
    assert len(listing.pages) < 10


def test_an_empty_list_is_one_page() -> None:
    listing = Listing([])
    with served(listing) as address:
        assert indexes_read(address) == []
    assert len(listing.pages) == 1


def test_two_hundred_pods_of_the_largest_legal_environment_take_little_memory() -> None:
    listing = Listing([128 * 4096] * 200)
    with served(listing) as address:
        done = subprocess.run([sys.executable, "-c", LIST_ALL, address], capture_output=True, text=True, check=True)
    pods, kibibytes = map(int, done.stdout.split())
    assert pods == 200
    assert kibibytes < 100 * 1024, "half of the difference between what the chart asks for and allows, and less"


@given(st.integers(1, 500), st.integers(0, 500), st.integers(0, 10**8), st.integers(1, 1000))
def test_a_page_is_never_asked_for_with_more_objects_than_should_fit(
    limit: int, objects: int, read: int, most: int
) -> None:
    asked = next_limit(min(limit, most), read=read, objects=objects, most=most)
    assert 1 <= asked <= most
    assert asked <= 2 * limit
    if objects:
        assert asked == 1 or asked * read / objects <= PAGE_BYTES


def test_a_page_that_is_too_large_ends_with_a_single_object() -> None:
    limit = 500
    for _ in range(10):
        limit = smaller_limit(limit)
    assert limit == 1
    assert MAX_PAGE_BYTES > PAGE_BYTES
