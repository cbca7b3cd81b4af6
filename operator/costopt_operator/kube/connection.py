"""How this process reaches the API server, and as whom: one answer for our own requests, the election's and kopf's.

A pod's service account is followed through every renewal of its token and of the certificate authority. Each request,
kopf's too, says the token of the moment, so that no watch need end for a new one.
"""

import asyncio
import ipaddress
import ssl
import time
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from costopt.service_account import ServiceAccount, find_service_account

AUTHORIZATION = "BearerToken"
"""The official client's name for the header of who asks."""

LOGIN_PAUSES_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Before kopf may log in again after the API server has refused it; the last one for ever."""
CALM_SECONDS = 60.0
"""A login that has held this long was a good one: the next starts without a pause again."""

_contexts: WeakKeyDictionary[Configuration, ssl.SSLContext] = WeakKeyDictionary()


async def load_configuration(kubeconfig: str | None, context: str | None) -> Configuration:
    """How to reach the API server: a kubeconfig that is named, else a pod's service account, else ~/.kube/config.

    Raises ConfigException or NoServiceAccount if there is no way, or a broken one.
    """
    account = find_service_account() if kubeconfig is None and context is None else None
    if account is not None:
        return of_pod(account)
    configuration = Configuration()
    await config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
    if configuration.proxy is None:
        configuration.proxy = proxy_for(configuration.host)
    return _without_environment(configuration)


def of_pod(account: ServiceAccount) -> Configuration:
    """The service account's, without a proxy: the address is one of the cluster's own, which no proxy serves."""
    configuration: Any = Configuration()
    configuration.host = account.server
    configuration.ssl_ca_cert = str(account.authority)
    configuration.proxy = None

    def renew(asked: Configuration) -> None:
        asked.api_key[AUTHORIZATION] = account.authorization
        account.renew(context_of(configuration))

    renew(configuration)
    configuration.refresh_api_key_hook = renew
    return _without_environment(configuration)


def proxy_for(server: str) -> str | None:
    """The proxy that the environment names for this URL. NO_PROXY may name hosts, domains, addresses and networks."""
    proxies = getproxies()
    parts = urlsplit(server)
    host = parts.hostname or ""
    if proxy_bypass(parts.netloc) or proxy_bypass(host) or _is_in_any(host, proxies.get("no", "")):
        return None
    return proxies.get(parts.scheme)


def context_of(configuration: Configuration) -> ssl.SSLContext:
    """The TLS settings that all connections of a configuration share."""
    if configuration not in _contexts:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if configuration.disable_strict_ssl_verification:
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        _contexts[configuration] = context
    return _contexts[configuration]


def client_of(configuration: Configuration) -> ApiClient:
    """The official client over these settings."""
    client = ApiClient(configuration)
    client.rest_client.ssl_context = context_of(configuration)
    return client


def session_of(configuration: Configuration) -> aiohttp.ClientSession:
    """A session whose requests each say who asks, as of that moment."""

    async def identified(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        authorization = await configuration.get_api_key_with_prefix(AUTHORIZATION)
        if authorization:
            request.headers["Authorization"] = authorization
        if configuration.tls_server_name:
            request.server_hostname = configuration.tls_server_name
        return await handler(request)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context_of(configuration)),
        middlewares=(identified,),
        proxy=configuration.proxy,
        trust_env=False,
    )


class Pauses:
    """Between logins that do not hold: a server that refuses everybody for a moment is not asked without a pause."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._count = 0

    async def before_login(self) -> None:
        """Wait as long as is due."""
        if self._at is not None and time.monotonic() - self._at >= CALM_SECONDS:
            self._count = 0
        if self._at is not None:
            await asyncio.sleep(LOGIN_PAUSES_SECONDS[min(self._count, len(LOGIN_PAUSES_SECONDS) - 1)])
            self._count += 1
        self._at = time.monotonic()


def _without_environment(configuration: Configuration) -> Configuration:
    """Left to itself aiohttp asks two threads before each request, for a proxy and a netrc file: dear as the rest."""
    session: dict[str, Any] = {"trust_env": False}
    configuration.client_session_kwargs = session
    return configuration


def _is_in_any(host: str, networks: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for network in networks.split(","):
        try:
            if address in ipaddress.ip_network(network.strip().strip("[]"), strict=False):
                return True
        except ValueError:
            continue
    return False
