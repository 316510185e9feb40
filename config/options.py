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
from student_clap.config.runtime.log_file import copied_to
from student_clap.config.runtime.screen import log_to_stderr, quieter_or_louder, stdout_for_json, warn
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


def _loudness(context: click.Context, option: click.Parameter, given: bool) -> None:  # noqa: FBT001  click's
    if not given:
        return
    root, name = context.find_root(), f"{__name__}.loudness"
    if name in root.meta:
        raise click.UsageError("--quiet and --verbose exclude one another")
    root.meta[name] = option.name
    root.with_resource(quieter_or_louder(1 if option.name == "verbose" else -1))


def _log_file(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        context.find_root().with_resource(copied_to(path))
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}; name another file") from None


def _json(context: click.Context, _option: click.Parameter, given: bool) -> bool:  # noqa: FBT001  click's
    if given:
        context.find_root().with_resource(stdout_for_json())
    return given


# The command gets `as_json`; whatever else it prints goes to stderr then.
json_option = click.option(
    "--json", "as_json", is_flag=True, callback=_json, help="Print one JSON object on stdout, and all else on stderr."
)


def message_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a click command with --quiet, --verbose and --log-file, which act by themselves."""
    options = (
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=_loudness,
            help="Show no bars, and of the messages only warnings and errors.",
        ),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_loudness,
            help="Show every message, whatever logging.level says.",
        ),
        click.option(
            "--log-file",
            metavar="FILE",
            type=UserPath(path_type=Path, dir_okay=False),
            expose_value=False,
            callback=_log_file,
            help="Append what is printed to FILE too, with the time; bars are left out.",
        ),
    )
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


def config_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a click command with --config and --set, which it gets as `config_path` and `overrides`.

    It takes the options of `message_options` too.
    """
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
    return path(settings(message_options(command)))


def config_options(
    *, recipe: bool = False, file_optional: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a click command so that it gets ``config: Config`` as its first argument.

    Args:
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
            config = load_config(config_path, overrides)
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
