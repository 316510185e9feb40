"""Packages that only a part of the commands needs: which they are, and what to say where one is missing.

`pip install student-clap` brings what embed, check, bench, reembed and deploy need; the extra `train` the rest. A test
holds the list below to pyproject.toml.
"""

from __future__ import annotations

# Import names of what the extra brings.
TRAINING = frozenset({"dask", "distributed", "jinja2", "requests", "scipy", "sklearn", "torch", "urllib3"})
EXTRA = "train"


def why_missing(error: ModuleNotFoundError) -> str:
    """What to say where a package of the extra is missing; "" where it is another one.

    >>> why_missing(ModuleNotFoundError("No module named 'torch'", name="torch"))[:40]
    'this needs the package torch, which is n'
    >>> why_missing(ModuleNotFoundError("No module named 'student_clap.gone'", name="student_clap.gone"))
    ''
    """
    package = (error.name or "").partition(".")[0]
    if package not in TRAINING:
        return ""
    return (
        f"this needs the package {package}, which is not installed: pip install 'student-clap[{EXTRA}]' brings all"
        " that ingest, featurize, train, export and evaluate need"
    )
