"""`student-clap ingest`."""

from __future__ import annotations

import click

from student_clap.config.load import load_config
from student_clap.config.options import config_options
from student_clap.config.schema import Config


@click.command()
@config_options()
@click.option(
    "--server", "server_name", metavar="NAME", help="Name or id of the media server, where there are several."
)
@click.option("--retry-failed", is_flag=True, help="Try downloads again that failed for good.")
@click.option("--verify", is_flag=True, help="Report what is there; fetch nothing.")
@click.option("--all", "all_failures", is_flag=True, help="With --verify: list every failure.")
def ingest(config: Config, *, server_name: str | None, retry_failed: bool, verify: bool, all_failures: bool) -> None:
    """Pull teacher vectors from AudioMuse-AI's database, and the audio they belong to.

    May be run again at any time: it fetches only what is missing.
    """
    if verify:
        from student_clap.ingest.verify import report

        click.echo(report(config, all_failures=all_failures))
        return
    from student_clap.ingest.stage import run_ingest

    # Only now is it known which sections must have their variables set: --verify needs none.
    given = click.get_current_context().params
    load_config(given["config_path"], given["overrides"], needs=frozenset({"database", config.ingest.source}))
    click.echo(run_ingest(config, server_name=server_name, retry_failed=retry_failed).line())
