"""The options the stages share: --config, --set, --recipe, and how messages reach the screen."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from student_clap.config.load import is_secret, load_config
from student_clap.config.presets import MEL_PRESETS
from student_clap.config.runtime.screen import log_to_stderr


def config_options(*needs: str, recipe: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a click command so that it gets ``config: Config`` as its first argument.

    Args:
        needs: sections whose environment variables must be set for this stage.
        recipe: whether the command uses one recipe's features, which --recipe then chooses.

    The command raises ConfigError, before it begins, where the configuration cannot be used.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option(
            "--config",
            "config_path",
            type=click.Path(path_type=Path, dir_okay=False),
            help="YAML file.  [default: config.yaml]",
        )
        @click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Replace one setting; may be repeated.",
        )
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
            return command(config, *args, **kwargs)

        if recipe:
            return click.option(
                "--recipe",
                type=click.Choice(list(MEL_PRESETS)),
                help="Use the features of this mel; the same as --set audio.preset=NAME.",
            )(wrapper)
        return wrapper

    return decorate
