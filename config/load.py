"""config.yaml + ${ENV} + .env + --set -> Config.

Order, the later wins: defaults, config.yaml, `--set section.key=value`. `${VAR}` and `${VAR:-default}` in config.yaml
are taken from the environment, else from the `.env` next to config.yaml. A variable that is missing is an error only
where the stage needs its section, so that a training node needs no database password.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from pathlib import Path
from typing import Any

import click
from dotenv import dotenv_values
from pydantic import BaseModel, ByteSize, SecretStr, ValidationError

from student_clap.config.formats.yaml12 import MAX_CHARACTERS, InvalidYamlError, load_yaml
from student_clap.config.runtime.text import one_line, reason
from student_clap.config.schema import Config, Text

DEFAULT_CONFIG = Path("config.yaml")
_SHOWN = 100  # characters of a key or a value in a message
_VARIABLE = re.compile(
    r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]{0,1000}))?\}"
)  # bounded, or many that never close take seconds


class ConfigError(click.ClickException):
    """The configuration cannot be used. The message lists every fault with its key's path.

    Args:
        where: the file, or `--set`.
        faults: one line each.
    """

    def __init__(self, where: str, faults: list[str]) -> None:
        self.faults = faults
        super().__init__(f"{where}:\n" + "\n".join(f"  - {fault}" for fault in faults))


def load_config(
    path: Path | None = None,
    overrides: tuple[str, ...] = (),
    *,
    needs: frozenset[str] = frozenset(),
    environment: dict[str, str] | None = None,
) -> Config:
    """Read and check the configuration.

    Args:
        path: the YAML file; None takes ./config.yaml if there is one, else the defaults.
        overrides: ``section.key=value`` texts, as given to ``--set``.
        needs: sections whose ``${VAR}`` must all be set.
        environment: variables; None takes os.environ over the ``.env`` next to the file.

    Raises:
        ConfigError: naming each faulty key, its value and the remedy.
    """
    tree: dict[str, Any] = {}
    where = "built-in defaults"
    if path is None and DEFAULT_CONFIG.exists():
        path = DEFAULT_CONFIG
    if path is not None:
        where = str(path)
        tree = read_mapping(
            path, if_missing="write one with `student-clap init`", expected="sections such as `database:`"
        )
        if environment is None:
            env_file = path.parent / ".env"
            stored = _read_env_file(env_file)
            environment = {**{k: v for k, v in stored.items() if v is not None}, **os.environ}
        faults: list[str] = []
        tree = _substitute(tree, environment, needs, (), faults)
        if faults:
            raise ConfigError(where, faults)
    read = copy.deepcopy(tree) if overrides else tree
    for override in overrides:
        _apply_override(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        found = _faults(error)
    # A fault that is there without the overrides is the file's.
    from_file = [fault in _faults_of(read) for fault in found]
    if overrides and not all(from_file):
        where = f"{where} with --set" if any(from_file) else "--set"
    raise ConfigError(where, found)


def _read_env_file(path: Path) -> dict[str, str | None]:
    """The variables of an .env; none where there is none. Raises ConfigError where it is not UTF-8."""
    try:
        return dict(dotenv_values(path)) if path.exists() else {}
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise ConfigError(
            str(path), [f"line {line} or one before is not UTF-8; save the file in that encoding"]
        ) from None


def masked(config: Config) -> dict[str, Any]:
    """The configuration as plain YAML values, secrets replaced by ``***``."""

    def plain(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return {name: plain(getattr(value, name)) for name in type(value).model_fields}
        if isinstance(value, SecretStr):
            return "***"
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, ByteSize):
            return int(value)
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(getattr(config, name)) for name in Config.model_fields}


def is_secret(key: str) -> bool:
    """Whether the value of `key`, such as ``jellyfin.token``, must not be shown."""
    return any(word in key for word in ("password", "token", "api_key"))


def read_mapping(path: Path, *, if_missing: str, expected: str) -> dict[str, Any]:
    """The keys of a YAML file; none of an empty one.

    Args:
        path: the file.
        if_missing: how to come by such a file.
        expected: what its first level holds.

    Raises:
        ConfigError: it is not there, or is not such a file.
    """
    try:
        with path.open(encoding="utf-8") as file:
            tree = load_yaml(file.read(MAX_CHARACTERS + 1))
    except FileNotFoundError:
        raise ConfigError(str(path), [f"there is no such file; {if_missing}"]) from None
    except InvalidYamlError as error:
        raise ConfigError(str(path), [f"not valid YAML: {error}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read: {reason(error)}"]) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(str(path), [f"holds a {type(tree).__name__}; expected {expected}"])
    return tree


def _substitute(
    value: Any, environment: dict[str, str], needs: frozenset[str], at: tuple[str, ...], faults: list[str]
) -> Any:
    if isinstance(value, dict):
        done = {k: _substitute(v, environment, needs, (*at, str(k)), faults) for k, v in value.items()}
        return {k: v for k, v in done.items() if v is not _MISSING}
    if isinstance(value, list):
        return [_substitute(v, environment, needs, at, faults) for v in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    missing = [m[1] for m in _VARIABLE.finditer(value) if m[1] not in environment and m[2] is None]
    if missing:
        if at and at[0] in needs:
            faults.extend(
                f"{'.'.join(at)}: the variable {name} is not set; put `{name}=...` into .env or the environment"
                for name in missing
            )
        return _MISSING
    return Text(_VARIABLE.sub(lambda m: environment.get(m[1], m[2] or ""), value))


_MISSING = object()  # an unset variable in a section this stage does not need: the field keeps its default


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or len(parts) < 2:
        shown = f"{key.strip()}=***" if is_secret(key) else one_line(override, _SHOWN)
        raise ConfigError("--set", [f"{shown!r} is not of the form section.key=value, such as training.lr=3e-4"])
    *sections, leaf = parts
    node = tree
    for name in sections:
        child = node.setdefault(name, {})
        if child is None:
            child = node[name] = {}
        if not isinstance(child, dict):
            raise ConfigError("--set", [f"{key}: {name} is not a section"])
        node = child
    section = Config.model_fields.get(sections[0])
    model = section.annotation if section is not None else None
    if isinstance(model, type) and issubclass(model, BaseModel):
        # A field and its alias are one key: the override replaces whichever the file used.
        for field_name, field in model.model_fields.items():
            if leaf in (field_name, field.alias):
                node.pop(field_name, None)
                node.pop(field.alias or field_name, None)
    node[leaf] = Text(value)


def _faults_of(tree: dict[str, Any]) -> list[str]:
    try:
        Config.model_validate(tree)
    except ValidationError as error:
        return _faults(error)
    return []


def _faults(error: ValidationError) -> list[str]:
    return [_fault(e) for e in error.errors()]


def _fault(error: Any) -> str:
    """One pydantic error as `path: fault; remedy`."""
    path = ".".join(one_line(part, _SHOWN) for part in error["loc"]) or "config"
    kind, message, value = error["type"], error["msg"], error.get("input")
    if kind == "extra_forbidden":
        known = _known_keys(error["loc"][:-1])
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{path}: unknown key; {hint}"
    if kind == "value_error":
        return f"{path}: {message.removeprefix('Value error, ')}"
    if isinstance(value, dict | SecretStr) or kind == "missing":
        return f"{path}: {message}"
    text = isinstance(value, Text)
    shown = "***" if is_secret(path) else one_line(repr(str(value) if text else value), _SHOWN)
    return f"{path}: {message[0].lower()}{message[1:]}, got {shown} ({'str' if text else type(value).__name__})"


def _known_keys(path: tuple[Any, ...]) -> list[str]:
    model: Any = Config
    for part in path:
        field = model.model_fields.get(part)
        if field is None:
            return []
        model = field.annotation
    return list(model.model_fields) if hasattr(model, "model_fields") else []
