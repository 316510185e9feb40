"""config.yaml + ${ENV} + .env + --set -> Config.

Order, the later wins: defaults, config.yaml, `--set section.key=value`. `${VAR}` and `${VAR:-default}` in config.yaml
are taken from the environment, else from the `.env` next to config.yaml; the default stands for an empty variable too,
and `$${` for `${` itself. A variable that is missing is an error; in the section of a source only where the stage asks
that source, so that a training node needs no database password.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from dotenv import dotenv_values
from pydantic import BaseModel, ByteSize, SecretStr, ValidationError

from student_clap.config.formats.yaml12 import MAX_CHARACTERS, InvalidYamlError, dump_yaml, load_yaml
from student_clap.config.runtime.text import one_line, reason
from student_clap.config.schema import Config, Text
from student_clap.config.section import Source

DEFAULT_CONFIG = Path("config.yaml")
_SHOWN = 100  # characters of a key or a value in a message
_VARIABLE = re.compile(
    r"(?P<escaped>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]{0,1000}))?\}"
)  # bounded, or many that never close take seconds
_ALWAYS_NEEDED = frozenset(
    name
    for name, field in Config.model_fields.items()
    if not (isinstance(field.annotation, type) and issubclass(field.annotation, Source))
)


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
        needs: sections of sources whose ``${VAR}`` must all be set, as those of every other section must be.
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
        tree = _substituted(tree, environment)
    read = copy.deepcopy(tree) if overrides else tree
    for override in overrides:
        _apply_override(tree, override)
    unset: list[str] = []
    tree = _without_unset(tree, _ALWAYS_NEEDED | needs, unset)
    if unset:
        raise ConfigError(where, unset)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        found = _faults(error)
    # A fault that is there without the overrides is the file's.
    read = _without_unset(read, frozenset(), [])
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


def as_yaml(config: Config) -> str:
    """The configuration as a config.yaml that `load_config` reads back, secrets replaced by ``***``."""

    def escaped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: escaped(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [escaped(inner) for inner in value]
        return value.replace("${", "$${") if isinstance(value, str) else value

    return dump_yaml(escaped(masked(config)))


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


@dataclass(frozen=True)
class _Unset:
    """In the place of a value: the variables that it has and nobody set."""

    names: tuple[str, ...]


def _substituted(tree: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """The sections with the variables of their values replaced; a value that has an unset one is an _Unset."""
    return {
        name: {key: _substitute(value, environment) for key, value in section.items()}
        if isinstance(section, dict)
        else section
        for name, section in tree.items()
    }


def _substitute(value: Any, environment: dict[str, str]) -> Any:
    if isinstance(value, dict):
        done: Any = {key: _substitute(inner, environment) for key, inner in value.items()}
        return _unset_in(done.values()) or done
    if isinstance(value, list):
        done = [_substitute(inner, environment) for inner in value]
        return _unset_in(done) or done
    if not isinstance(value, str) or "${" not in value:
        return value
    matches = list(_VARIABLE.finditer(value))
    if not matches:
        return Text(value)
    variables = [found for found in matches if not found["escaped"]]
    unset = tuple(v["name"] for v in variables if v["default"] is None and v["name"] not in environment)
    return _Unset(unset) if unset else Text(_VARIABLE.sub(lambda found: _replaced(found, environment), value))


def _unset_in(values: Iterable[Any]) -> _Unset | None:
    names = tuple(name for value in values if isinstance(value, _Unset) for name in value.names)
    return _Unset(names) if names else None


def _replaced(found: re.Match[str], environment: dict[str, str]) -> str:
    if found["escaped"]:
        return "${"
    return environment.get(found["name"]) or found["default"] or ""


def _without_unset(tree: dict[str, Any], needs: frozenset[str], faults: list[str]) -> dict[str, Any]:
    """`tree` without the keys whose value is unset, which keep their default; those of `needs` are faults."""
    kept: dict[str, Any] = {}
    for name, section in tree.items():
        if not isinstance(section, dict):
            kept[name] = section
            continue
        kept[name] = {key: value for key, value in section.items() if not isinstance(value, _Unset)}
        faults.extend(
            f"{name}.{key}: the variable {variable} is not set; put `{variable}=...` into .env or the environment"
            + (f", or write `${{{variable}:-...}}` with what stands for it" if name in _ALWAYS_NEEDED else "")
            for key, value in section.items()
            if isinstance(value, _Unset) and name in needs
            for variable in value.names
        )
    return kept


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
