"""The Kubernetes API as this operator uses it: plain JSON in and out, over the official client's connection.

How it connects is in connection.py. Its generated models are left aside: building them costs about a millisecond per
pod, and they drop fields newer than themselves.

Every write goes through `Api.request`, which refuses it unless this process may write now (see leader.py).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client import Configuration

from costopt.names import FIELD_MANAGER
from costopt.schema.kinds import GROUP_PATH, KINDS
from costopt_operator.kube.connection import client_of
from costopt_operator.kube.paging import FIRST_PAGE, MAX_PAGE_BYTES, next_limit, smaller_limit

Json = dict[str, Any]

REQUEST_SECONDS = 30.0
"""Timeout of an ordinary request: shorter than the time in which a lease can be lost and taken again."""

LOG_SECONDS = 5.0
"""Timeout of reading a log, which the node has to provide."""

_RESOURCE_PATHS = {
    "Job": ("/apis/batch/v1", "jobs"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Service": ("/api/v1", "services"),
    "Pod": ("/api/v1", "pods"),
    "Event": ("/api/v1", "events"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    **{kind.name: (GROUP_PATH, kind.plural) for kind in KINDS.values()},
}


class ApiError(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        """HTTP status."""
        self.reason = reason
        """The API's reason: NotFound, AlreadyExists, Conflict, Invalid, Expired, Forbidden."""
        self.message = message
        """The API's message."""


class NotLeading(Exception):
    """A write was refused by this process: it is not the leader, or cannot be sure that it still is."""


class TooLarge(Exception):
    """An answer is larger than the limit."""


Unreachable = (aiohttp.ClientError, TimeoutError, OSError)
"""What is raised when the API server cannot be reached."""


_GROUP_PLURALS = {"Workload": "workloads", "PodGroup": "podgroups"}
"""Kinds of scheduling.k8s.io, whose API version differs between versions of Kubernetes."""


def path_of(manifest: Json, *, named: bool = False) -> str:
    """Path of the objects of this one's kind and version in its namespace; `named`: of the object itself."""
    kind, metadata = manifest["kind"], manifest["metadata"]
    if kind not in _GROUP_PLURALS:
        return object_path(kind, metadata["namespace"], metadata["name"] if named else None)
    path = f"/apis/{manifest['apiVersion']}/namespaces/{metadata['namespace']}/{_GROUP_PLURALS[kind]}"
    return f"{path}/{metadata['name']}" if named else path


def object_path(kind: str, namespace: str, name: str | None = None) -> str:
    """Path of the objects of a kind in a namespace, or of one of them."""
    prefix, plural = _RESOURCE_PATHS[kind]
    path = f"{prefix}/namespaces/{namespace}/{plural}"
    return f"{path}/{quote(name, safe='')}" if name else path


def list_path(kind: str, namespace: str | None) -> str:
    """Path of all objects of a kind, in one namespace or (None) in all."""
    prefix, plural = _RESOURCE_PATHS[kind]
    return f"{prefix}/namespaces/{namespace}/{plural}" if namespace else f"{prefix}/{plural}"


class Api:
    """Requests to one API server."""

    def __init__(self, configuration: Configuration, may_write: Callable[[], bool] = lambda: True) -> None:
        configuration.connection_pool_maxsize = 64
        self._client = client_of(configuration)
        self._host = configuration.host
        self._may_write = may_write
        self.requests: dict[tuple[str, str], int] = {}
        """Requests made so far, by verb and the resource's plural."""

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> Json:
        """The answer to one request. Raises ApiError, one of Unreachable, or (for a write) NotLeading."""
        data = await self._answer(method, path, query or {}, body=body, content_type=content_type)
        return json.loads(data) if data else {}

    async def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: object = None,
        content_type: str = "application/json",
        most_bytes: int | None = None,
    ) -> bytes:
        """The body of the answer; TooLarge if it has more than `most_bytes`."""
        if method != "GET" and not self._may_write():
            raise NotLeading(f"{method} {path} was not sent: this process does not lead")
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        response = await self._send(method, path, query, timeout, body=body, content_type=content_type)
        data = await _read(response, most_bytes)
        if response.status >= 400:
            raise _error(response.status, data)
        return data

    async def text(self, path: str, query: Mapping[str, str]) -> str:
        """The answer to a GET as text (a log)."""
        timeout = aiohttp.ClientTimeout(total=LOG_SECONDS)
        response = await self._send("GET", path, query, timeout)
        data: bytes = await response.read()
        if response.status >= 400:
            raise _error(response.status, data)
        return data.decode("utf-8", "replace")

    async def stream(self, path: str, query: Mapping[str, str], silence_seconds: float) -> AsyncIterator[Json]:
        """The JSON lines of a watch, until the server ends it. TimeoutError after `silence_seconds` without a byte."""
        rest = b""
        async for chunk in self.chunks(path, query, silence_seconds):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)

    async def chunks(self, path: str, query: Mapping[str, str], silence_seconds: float) -> AsyncIterator[bytes]:
        """An answer to a GET as it comes, until the server ends it; TimeoutError as with `stream`.

        First an empty one, as soon as the server has begun to answer."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=silence_seconds)
        response = await self._send("GET", path, query, timeout)
        try:
            if response.status >= 400:
                raise _error(response.status, await response.read())
            yield b""
            async for chunk in response.content.iter_any():
                yield chunk
        finally:
            response.close()

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        *,
        body: object = None,
        content_type: str = "application/json",
    ) -> aiohttp.ClientResponse:
        self._count(method, path, query)
        headers = {**self._client.default_headers, "Accept": "application/json", "Content-Type": content_type}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self._host}{path}" + (f"?{urlencode(query)}" if query else "")
        answer = await self._client.call_api(method, url, headers, body, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response

    def _count(self, method: str, path: str, query: Mapping[str, str]) -> None:
        parts = path.split("/")
        if "namespaces" in parts[:-2]:
            parts = parts[parts.index("namespaces") + 2 :]
            resource = "/".join([parts[0], *parts[2:3]])
        else:
            resource = "nodes" if parts[-2] == "nodes" else parts[-1]
        key = ("WATCH" if query.get("watch") else method, resource)
        self.requests[key] = self.requests.get(key, 0) + 1

    async def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """The object, or None if there is none of that name."""
        return await self.read({"kind": kind, "metadata": {"namespace": namespace, "name": name}})

    async def read(self, manifest: Json) -> Json | None:
        """The object of this kind and name as it is, or None if there is none."""
        try:
            return await self.request("GET", path_of(manifest, named=True))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def create(self, manifest: Json) -> Json:
        """POST the object; ApiError with the reason AlreadyExists if there is one of that name."""
        return await self.request("POST", path_of(manifest), query={"fieldManager": FIELD_MANAGER}, body=manifest)

    async def replace(self, document: Json) -> Json:
        """PUT an object that was read; ApiError with status 409 if it is another by now, or was written since."""
        path = path_of(document, named=True)
        return await self.request("PUT", path, query={"fieldManager": FIELD_MANAGER}, body=document)

    async def replace_status(self, manifest: Json) -> Json:
        """PUT the status of a CostOptJob; ApiError with status 409 if it was written since `resourceVersion`."""
        metadata = manifest["metadata"]
        path = object_path("CostOptJob", metadata["namespace"], metadata["name"]) + "/status"
        return await self.request("PUT", path, query={"fieldManager": FIELD_MANAGER}, body=manifest)

    async def remove_finalizer(self, namespace: str, pod: str, uid: str, finalizer: str) -> Json | None:
        """Take one finalizer off this very pod and leave the others; None if the pod is gone."""
        body = {"metadata": {"uid": uid, "$deleteFromPrimitiveList/finalizers": [finalizer]}}
        try:
            return await self.request(
                "PATCH",
                object_path("Pod", namespace, pod),
                body=body,
                content_type="application/strategic-merge-patch+json",
            )
        except ApiError as error:
            if error.status == 404 or (error.status == 409 and "uid" in error.message):
                return None
            raise

    async def delete(
        self, kind: str, namespace: str, name: str, *, uid: str, grace_seconds: int | None = None, version: str = ""
    ) -> Json | None:
        """Delete this very object and, in the background, what it owns; None if it is gone already, or is not of that
        `version` any more."""
        body: Json = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        if version:
            body["preconditions"]["resourceVersion"] = version
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        try:
            return await self.request("DELETE", object_path(kind, namespace, name), body=body)
        except ApiError as error:
            if error.status in (404, 409):  # 409: another object of that name by now
                return None
            raise

    async def pages(self, path: str, query: Mapping[str, str], most: int = 500) -> AsyncIterator[Json]:
        """The pages of a list, each of at most so many objects, and of as few as it takes for it to be small."""
        token, limit = "", min(FIRST_PAGE, most)
        while True:
            asked = {**query, "limit": str(limit), **({"continue": token} if token else {})}
            try:
                data = await self._answer("GET", path, asked, most_bytes=MAX_PAGE_BYTES if limit > 1 else None)
            except TooLarge:
                limit = smaller_limit(limit)
                continue
            read, page = len(data), json.loads(data)
            del data
            token = page["metadata"].get("continue", "")
            limit = next_limit(limit, read=read, objects=len(page["items"]), most=most)
            yield page
            del page
            if not token:
                return
            await asyncio.sleep(0)  # a long list does not keep everything else waiting


async def _read(response: aiohttp.ClientResponse, most_bytes: int | None) -> bytes:
    """The whole body; TooLarge as soon as it is more than that, which ends the connection."""
    if most_bytes is None:
        data: bytes = await response.read()
        return data
    parts: list[bytes] = []
    length = 0
    async for chunk in response.content.iter_any():
        parts.append(chunk)
        length += len(chunk)
        if length > most_bytes:
            response.close()
            raise TooLarge
    return b"".join(parts)


def _error(status: int, data: bytes) -> ApiError:
    """The API's own words where it gave them; whatever stands in front of it (a proxy) may answer anything."""
    try:
        said = json.loads(data)
        return ApiError(status, str(said.get("reason") or ""), str(said.get("message") or "")[:4000])
    except (ValueError, AttributeError):
        return ApiError(status, "", data[:200].decode("utf-8", "replace"))
