"""A list shows what kopf has missed: what is not in it any more is gone, unless it is younger than the list."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

from builders.toys import TOY, TOY_DOCUMENT, KeptToy
from costopt_operator.kube.api import Api
from costopt_operator.watch.own_objects import OwnObjects

Json = dict[str, Any]


def a_toy(name: str, version: int, namespace: str = "team") -> Json:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": TOY_DOCUMENT["spec"]}  # without kind and version, as a list has its items


@dataclass
class Lists:
    """The API server's lists: one object to a page."""

    version: int = 0
    items: list[Json] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def pages(self, path: str, _query: object) -> AsyncIterator[Json]:
        self.asked.append(path)
        for some in [[item] for item in self.items] or [[]]:
            yield {
                "apiVersion": TOY_DOCUMENT["apiVersion"],
                "metadata": {"resourceVersion": str(self.version)},
                "items": some,
            }


def test_what_is_not_listed_any_more_is_gone_unless_it_is_younger_or_of_another_namespace() -> None:
    lists, gone = Lists(), list[str]()
    toys = OwnObjects(
        cast("Api", lists), TOY, KeptToy.parse, learned=lambda *_: None, gone=lambda toy, _: gone.append(toy.name)
    )
    for name, version, namespace in (("bear", 3, "team"), ("duck", 4, "team"), ("ball", 9, "team"), ("kite", 2, "lab")):
        toys.learn(KeptToy(namespace, name, f"uid-{name}", version))
    lists.items, lists.version = [a_toy("duck", 6), a_toy("drum", 7)], 7
    asyncio.run(toys.list_in("team"))
    assert gone == ["bear"]
    assert {toy.name: toy.resource_version for toy in toys.objects.values()} == {
        "duck": 6,
        "ball": 9,
        "kite": 2,
        "drum": 7,
    }
    lists.items, lists.version = [], 20
    asyncio.run(toys.list_in(None))
    assert not toys.objects
    assert lists.asked == [TOY.path(namespace="team"), TOY.path()]
