"""What a replica is told: its environment and its settings file, read once, or refused in one sentence."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from pydantic import ValidationError

from costopt import names
from costopt.hostile import MAX_JSON_BYTES, Hostile, parse_json, read_file
from costopt.schema.earlier_words import in_todays_words
from costopt.schema.replica import ReplicaSettings
from costopt.schema.sentences import sentence_of
from costopt_trainer.errors import NotRetryable


@dataclass(frozen=True)
class Address:
    """Where replica 0 holds the store that the gang meets at."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether all replicas are on this machine."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True)
class ReplicaEnvironment:
    """A replica's place in its gang, and the files it answers in."""

    settings_file: Path
    attempt: int
    index: int
    """Completion index: the node rank."""
    address: Address
    storage_dir: Path | None
    """The job's folder in its storage."""
    progress_file: Path | None
    lifeline_fd: int | None


def read_environment(environment: Mapping[str, str]) -> ReplicaEnvironment:
    """The variables of `costopt.names`; raises NotRetryable naming the first one that is missing or wrong."""
    settings_file = environment.get(names.ENV_SETTINGS_FILE)
    if not settings_file:
        raise NotRetryable("InvalidSettings", f"{names.ENV_SETTINGS_FILE} must name the replica's settings file.")
    lifeline = names.ENV_LIFELINE_FD
    return ReplicaEnvironment(
        settings_file=Path(settings_file),
        attempt=_whole_number(environment, names.ENV_ATTEMPT, "0"),
        index=_whole_number(environment, names.ENV_REPLICA_INDEX, "0"),
        address=Address(
            environment.get(names.ENV_RENDEZVOUS_HOST) or "127.0.0.1",
            _whole_number(environment, names.ENV_RENDEZVOUS_PORT, str(names.RENDEZVOUS_PORT), highest=65535),
        ),
        storage_dir=optional_path(environment, names.ENV_STORAGE_DIR),
        progress_file=optional_path(environment, names.ENV_PROGRESS_FILE),
        lifeline_fd=_whole_number(environment, lifeline) if environment.get(lifeline) else None,
    )


def optional_path(environment: Mapping[str, str], name: str) -> Path | None:
    """The path in variable `name`; None if it is unset or empty."""
    value = environment.get(name)
    return Path(value) if value else None


def _whole_number(environment: Mapping[str, str], name: str, default: str = "", *, highest: int = 10**9) -> int:
    text = environment.get(name) or default
    if not (text.isascii() and text.isdigit() and int(text) <= highest):
        raise NotRetryable("InvalidSettings", f"{name} must be a whole number of at most {highest}, not {text!r}.")
    return int(text)


def read_settings(path: Path) -> ReplicaSettings:
    """The replica's settings; raises NotRetryable with one sentence naming the first mistake."""
    try:
        # A pod's settings are a mounted ConfigMap, whose files are links: they are followed.
        content = read_file(Path(os.path.realpath(path)), max_bytes=MAX_JSON_BYTES)
        plain = parse_json(content)
        in_todays_words(plain)
        settings = ReplicaSettings.model_validate_json(json.dumps(plain))
    except OSError as error:
        raise NotRetryable("InvalidSettings", f"The settings file {path} cannot be read: {error.strerror}.") from error
    except Hostile as error:
        raise NotRetryable("InvalidSettings", f"The settings file {path} {error}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{field}: " if field else ""
        what = sentence_of(first, first["loc"], ReplicaSettings)
        raise NotRetryable("InvalidSettings", f"The settings file {path} is wrong: {where}{what}.") from error
    # A variant of a command's model has no recipe, and does not run the command.
    work = (settings.recipe, settings.command, settings.evaluation if settings.variant is not None else None)
    if sum(each is not None for each in work) != 1:
        one_of = "recipe and command" if settings.variant is None else "recipe and evaluation"
        raise NotRetryable("InvalidSettings", f"Exactly one of {one_of} must be set in {path}.")
    if settings.command == []:
        raise NotRetryable("InvalidSettings", f"command in {path} must name a program.")
    return settings


def check_index(environment: ReplicaEnvironment, settings: ReplicaSettings) -> None:
    """Raise NotRetryable unless the replica's index is one of the gang's."""
    if environment.index >= settings.num_nodes:
        sentence = f"{names.ENV_REPLICA_INDEX} ({environment.index}) must be less than numNodes ({settings.num_nodes})."
        raise NotRetryable("InvalidSettings", sentence)
