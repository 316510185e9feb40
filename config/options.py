"""The options the stages share: --config, --set, --recipe, paths, and how messages reach the screen."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from student_clap.config.load import DEFAULT_CONFIG, is_secret, load_config
from student_clap.config.presets import MEL_PRESETS
from student_clap.config.runtime.screen import log_to_stderr, warn
from student_clap.config.schema import Config

_SETTING = re.compile(rf"\b(?:{'|'.join(Config.model_fields)})\.[a-z_]+\b")  # such as jellyfin.url


class UserPath(click.Path):
    """A path in which `~` and `~user` are homes also where no shell has put them there, as in `--to=~/model`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path with its home in the place of `~`; `~name` stays a file's name where there is no such user."""
        with suppress(RuntimeError):
            value = Path(value).expanduser()
        return super().convert(value, param, ctx)


def _missing_file(config_path: Path | None) -> str:
    """That there is no config.yaml, where none was named; "" where there is one."""
    if config_path is not None or DEFAULT_CONFIG.exists():
        return ""
    return f"no {DEFAULT_CONFIG} in {Path.cwd()}"


def _names_the_store(overrides: tuple[str, ...]) -> bool:
    """Whether the user named the store by hand, and so means no file's settings."""
    return any(override.partition("=")[0].strip() == "store.path" for override in overrides)


def config_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a click command with --config and --set, which it gets as `config_path` and `overrides`."""
    path = click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="YAML file.  [default: config.yaml]",
    )
    settings = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="Replace one setting; may be repeated.",
    )
    return path(settings(command))


def config_options(
    *needs: str, recipe: bool = False, file_optional: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a click command so that it gets ``config: Config`` as its first argument.

    Args:
        needs: sections whose environment variables must be set for this stage.
        recipe: whether the command uses one recipe's features, which --recipe then chooses.
        file_optional: whether the command has its use without a config.yaml, so that a missing one is not worth a line.

    The command raises ConfigError, before it begins, where the configuration cannot be used.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @config_arguments
        @functools.wraps(command)
        def wrapper(*args: Any, config_path: Path | None, overrides: tuple[str, ...], **kwargs: Any) -> Any:
            if recipe and (name := kwargs.pop("recipe")) is not None:
                overrides = (*overrides, f"audio.preset={name}")
            config = load_config(config_path, overrides, needs=frozenset(needs))
            log_to_stderr(config.logging.level)
            for key in (override.partition("=")[0].strip() for override in overrides):
                if is_secret(key):
                    logging.getLogger(__name__).warning(
                        "%s was given with --set, where every user of this machine can read it in the list of processes"
                        " and the shell keeps it; put it into .env",
                        key,
                    )
            missing = "" if file_optional else _missing_file(config_path)
            by_hand = _names_the_store(overrides)
            if missing and not by_hand:
                warn(f"{missing}; using the defaults; --config names another")
            try:
                return command(config, *args, **kwargs)
            except click.ClickException as error:
                if missing and (not by_hand or _SETTING.search(error.message)):
                    note = f"{missing}, so the defaults were used; --config names another"
                    error.message = f"{error.message}\n{note}"  # type: ignore[misc]  # Final in click's class alone
                raise

        if recipe:
            return click.option(
                "--recipe",
                type=click.Choice(list(MEL_PRESETS)),
                help="Use the features of this mel; the same as --set audio.preset=NAME.",
            )(wrapper)
        return wrapper

    return decorate
