"""A kubeconfig, or a pod's service account, -> a Cluster.

The kubernetes client reads both: client certificates, tokens and their files, OIDC, and login programs. Errors that it
does not put into a sentence get one here.
"""

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from costopt.cluster.access import Access, kubeconfig_files
from costopt.cluster.api import Cluster, RawAnswer
from costopt.cluster.handshake import is_cut_off, refused_greeting, user_context
from costopt.cluster.refusals import one_line, root_of
from costopt.refused import Refused
from costopt.service_account import NoServiceAccount, find_service_account

DEFAULT_NAMESPACE = "default"


def connect(access: Access) -> Cluster:
    """The cluster that is meant; no request is sent yet. Raises Refused if the kubeconfig leads to none."""
    # Imported here: the client takes a quarter of a second, which commands without a cluster need not wait for.
    from kubernetes.client import ApiClient, Configuration  # noqa: PLC0415
    from kubernetes.config import ConfigException  # noqa: PLC0415
    from urllib3 import disable_warnings  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    words = _LastWords()
    logging.getLogger().addHandler(words)  # also keeps the client's log lines off the user's screen
    disable_warnings()  # insecure-skip-tls-verify was the kubeconfig's decision
    configuration: Any = Configuration()
    configuration.retries = False  # a failed request is reported at once, in our words
    files = kubeconfig_files(access)
    where = os.pathsep.join(str(file) for file in files)
    try:
        if files:
            context, namespace = _from_files(files, access, configuration)
        else:
            context, namespace = _from_pod(access, configuration)
        client: Any = ApiClient(configuration)
    except Refused:
        raise
    except YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise Refused(f"{where} is not YAML (line {line}); mend it, or name another with --kubeconfig") from None
    except ConfigException as error:
        raise Refused(f"{where} cannot be used: {one_line(str(error))}") from None
    except OSError as error:
        raise Refused(f"{error.filename or where} cannot be used ({error.strerror}); check the kubeconfig") from None
    except (ValueError, KeyError, TypeError, AttributeError):  # their texts may quote secrets
        raise Refused(f"{where} is not a kubeconfig that can be used; check its users and clusters") from None
    if words.text and not configuration.api_key:
        raise Refused(f"the login program of context {context} has failed ({words.text}); log in, then try again")
    return Cluster(
        _Wire(client).send,
        context=context,
        server=configuration.host,
        namespace=access.namespace or namespace,
        last_words=lambda: words.text,
        refused_login=lambda error: _refused_login(error, configuration),
    )


def _refused_login(error: BaseException, configuration: Any) -> BaseException | None:
    """Why a connection was cut off, if the reason was the user's certificate; connects again without a request."""
    if not is_cut_off(error) or not configuration.cert_file or configuration.proxy:
        return None
    certificate, key = Path(configuration.cert_file), configuration.key_file
    try:
        context = user_context(
            configuration.ssl_ca_cert, certificate, key and Path(key), trusting=not configuration.verify_ssl
        )
    except OSError:  # includes ssl.SSLError: an unreadable file has been reported already
        return None
    return refused_greeting(configuration.host, context, configuration.tls_server_name)


def _from_files(files: list[Path], access: Access, configuration: Any) -> tuple[str, str]:
    """Set the configuration up; returns the context's name and namespace."""
    from kubernetes.config import kube_config  # noqa: PLC0415

    reader: Any = kube_config
    missing = [file for file in files if not file.exists()]
    if missing:
        raise Refused(f"{missing[0]} does not exist; name a kubeconfig with --kubeconfig")
    merged = reader.KubeConfigMerger(os.pathsep.join(str(file) for file in files))
    names = [str(context["name"]) for context in (merged.config.value["contexts"] if merged.config else [])]
    # As in kubectl but not in the client: the first file with a current context decides.
    current = (content.get("current-context") for content in merged.config_files.values())
    name = access.context or next(filter(None, current), None)
    if not name:
        there = f"; there {'is' if len(names) == 1 else 'are'} {', '.join(names)}" if names else ""
        raise Refused(f"{files[0]} has no current context; name one with --context{there}")
    if name not in names:
        raise Refused(f"there is no context {name} in {files[0]}; there is {', '.join(names) or 'none'}")
    loader = reader.KubeConfigLoader(
        merged.config, active_context=name, config_base_path=None, config_persister=merged.save_changes
    )
    loader.load_and_set(configuration)
    return name, loader.current_context["context"].get("namespace") or DEFAULT_NAMESPACE


def _from_pod(access: Access, configuration: Any) -> tuple[str, str]:
    try:
        account = find_service_account()
    except NoServiceAccount as error:
        raise Refused(f"this pod's service account cannot be used: {error}") from None
    if account is None:
        raise Refused("there is no kubeconfig here; name one with --kubeconfig, or in the variable KUBECONFIG")
    if access.context is not None:
        raise Refused("there is no kubeconfig here, hence no context; leave --context out to use the pod's own cluster")
    configuration.host = account.server
    configuration.ssl_ca_cert = str(account.authority)
    configuration.proxy = None  # the address is cluster-internal, which no proxy serves

    def renew(asked: Any) -> None:
        asked.api_key["BearerToken"] = account.authorization

    renew(configuration)
    configuration.refresh_api_key_hook = renew
    return "", account.namespace or DEFAULT_NAMESPACE


class _Wire:
    """Sends requests through the client's connections, with its login."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: tuple[float, float | None]
    ) -> RawAnswer:
        from urllib3.exceptions import ProtocolError  # noqa: PLC0415

        all_headers = {**headers, "User-Agent": "costopt"}
        # Renews a token that has expired.
        self._client.update_params_for_auth(all_headers, [], ["BearerToken"], url, method, body)
        request = partial(
            self._client.rest_client.pool_manager.request,
            method,
            self._client.configuration.host + url,
            headers=all_headers,
            body=body,
            timeout=_timeout(*timeout),
            preload_content=False,
            redirect=False,  # an API server never redirects, and nobody else may see the token
        )
        try:
            answer = request()
        except ProtocolError as error:
            # The other side may just have closed a kept-alive connection; a new one does not have this problem.
            if method != "GET" or not isinstance(root_of(error), ConnectionResetError):
                raise
            answer = request()
        return cast("RawAnswer", answer)


def _timeout(connect_seconds: float, read_seconds: float | None) -> Any:
    from urllib3 import Timeout  # noqa: PLC0415

    return Timeout(connect=connect_seconds, read=read_seconds)


class _LastWords(logging.Handler):
    """Keeps the last error that the client logged: the only trace of a failed login program."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = one_line(record.getMessage().removeprefix("exec: "))[:200]
