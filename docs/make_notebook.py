"""Run docs/experiments.ipynb and write its outputs into it, from the store of `make demo`: `make notebook`.

What is written holds no times, no versions and no place of this machine. A test runs it on a store of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from student_clap.config.runtime.files import write_text_atomically

PAGE = Path(__file__).with_name("experiments.ipynb")
_KEPT = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
_TIMEOUT_S = 300  # of a cell


def executed(folder: Path, parameters: Mapping[str, object] | None = None) -> Any:
    """The notebook with the outputs of a run in `folder`.

    Args:
        folder: the kernel's current one.
        parameters: the names that the cell with the tag "parameters" sets; None: as it stands.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(PAGE, as_version=4)
    if parameters is not None:
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    client = NotebookClient(
        notebook,
        timeout=_TIMEOUT_S,
        kernel_name=_KEPT["kernelspec"]["name"],
        extra_arguments=["--log-level=ERROR"],  # it warns that its sockets are not encrypted; they are on 127.0.0.1
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.execute()
    return notebook


def text_of(notebook: Any) -> str:
    """The file: without what the kernel says of itself."""
    notebook.metadata = {**_KEPT, "language_info": {"name": "python"}}
    nbformat.validate(notebook)
    text: str = nbformat.writes(notebook)
    return text + "\n"


if __name__ == "__main__":
    found = executed(PAGE.parent)
    write_text_atomically(PAGE, text_of(found))
    sys.stdout.write(f"{PAGE.name} is written, {PAGE.stat().st_size / 1000:.0f} KB\n")
