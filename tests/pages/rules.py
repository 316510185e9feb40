"""What of the pages' commands is not run and why, and what stands in the place of a reader's own names.

A rule that no command on a page needs any more makes a test fail: take it away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .reader import Command

# Patterns of what is not run, with the reason. A pattern is searched for in "PAGE: COMMAND".
NOT_RUN: Mapping[str, str] = {
    r"^docs/log\.md: ": "the log tells what was run once, with settings of then",
    r": make ": "takes minutes and its parts are tests; that the target exists is tested",
    r": python bench/| bench/recipes\.yaml": "measures for minutes, on the corpus; that it has these options is tested",
    r": student-clap bench ": "measures for half a minute; tests/export/bench has it",
    r"student_clap\.train\.launch": "two processes train; tests/known_issues/test_several_processes.py has them",
    r": python -m pytest": "this is pytest",
    r": pip install ": "asks a package index; that the extra exists is tested",
    r": git clone ": "there is no address",
    r": python3 -m venv ": "this environment takes its place",
    r"--provider cuda": "needs an NVIDIA GPU",
    r": sbatch | scancel |--cluster slurm": "needs SLURM; tests/featurize/cluster has the stage on an imitation",
    r": the same with | kill -9 COMMAND": "tells what was tried on a SLURM",
    r"--layout clap": "needs a student of the preset clap; tests/export/test_production_path.py has one",
    r": export AWS_": "needs a bucket of one's own; tests/store/test_s3_training.py has one on loopback",
    r"^docs/kubernetes\.md: ": "needs a Kubernetes; tests/test_kubernetes.py has the manifests",
    r"^docs/docker\.md: ": "needs Docker; tests/test_docker_page.py walks the page",
    r": student-clap demo| --run demo-\w+": "takes minutes; tests/export/demo has it",
    r": ssh ": "needs a second machine",
    r": tensorboard ": "serves until it is stopped",
}
# Spans that begin like commands and are none.
NO_COMMANDS = (
    "student-clap COMMAND --help",
    "make sure that ... is that folder",
    "student-clap featurize ended with exit code 0",
)
# Pages whose Python another test runs, or code like it.
PYTHON_ELSEWHERE: Mapping[str, str] = {
    "CONTRIBUTING.md": "tests/train/students/test_registry.py",
    "docs/experiments.md": "tests/test_experiments.py",
    "docs/store.md": "tests/store/test_docs.py",
}
# Where a page begins that is not about a library which has gone through all stages. One with `init` begins at nothing.
BEGINS = {
    "docs/ingest.md": "configured",
    "docs/cluster.md": "ingested",
    "docs/featurize.md": "ingested",
    "docs/store.md": "featurized",
    "docs/train.md": "featurized",
}
# Before which command a reader fills in config.yaml and .env. Elsewhere: after `init`, or with `nano` as the page says.
FILLED_IN = {"docs/first-run.md": "student-clap doctor"}
# What takes the place of a reader's own names, machines and time, in this order, once what may be left out is.
IN_PLACE: Mapping[str, str] = {
    r"^exec ": "",  # the shell is the page's, not a job's own
    r" \.\.\. ": " ",
    r"/path/to/AudioMuse-AI/model|~/AudioMuse-AI/model|(?<=--to )DIR": "~/app/model",
    r"^cd ~/distil": "mkdir -p ~/distil && cd ~/distil",
    r"/music=/mnt/nas(/music)?": "/=/",
    r"/shared/": "./",
    r"eth0": "lo",
    r"(--nworkers|--workers) \d+": r"\1 1",
    r"\bdask (scheduler|worker)(?!.*--interface)": r"dask \1 --interface lo",
    r"\bdask scheduler": "dask scheduler --port 0",
    r"^((?:\w+=\S+ )*dask (?:scheduler|worker).*)": r"in_background env \1",
    r"\bs\.json": "scheduler.json",
    r"--again 17": "--again 1",
    r"(?<= )(clap_audio_model|teacher|TEACHER|other|OTHER|better)\.onnx": "~/clap_audio_model.onnx",
    r"(?<=--teacher )(ONNX|model_epoch_36\.onnx)": "~/clap_audio_model.onnx",
    r"(?<= )(queries|clap_other_feature_text_embeddings)\.npz": "~/clap_other_feature_text_embeddings.npz",
    r"(?<= )(FILES\.\.\.|MUSIC/)": "~/music/",
    r"(?<=runs/)(NAME|old)\b|(?<=--run )NAME": "tinyclap-audiomuse",
    r"(?<=--server )NAME": "main",
    r"(?<=remove-teacher )NAME": "page-teacher",
    r"(?<=--track )ID": "9b84817331ce4f1248d16d658178a911",
    r"\bMODEL\b|\bsmall\.onnx": "runs/tinyclap-audiomuse/student.onnx",
    r"(?<=/)student-int8\.onnx": "student.onnx",
    r"\bFILE(\.yaml)?( POINT)+|\bFILE\.yaml": "rates.yaml",
    r"(?<=--html )FILE": "runs.html",
    r"(?<=--license )ID": "CC-BY-4.0",
    r"\$SLURM_ARRAY_TASK_ID": "0",
    r"\bDUMP_OR_FOLDER": "clap_embedding-dumps",
    r"\bepoch_0005": "epoch_0001",
    r"\bfirst louder": "tinyclap-audiomuse louder",
    r"(--quantize) int8(?! --for)": r"\1 fp16-weights",  # which is not refused where it brings no speed
    r"^(student-clap bench.*)": r"\1 --rounds 3",
    # A student of one epoch on ten tunes is no better than a constant.
    r"(student-clap (?:deploy|rollback|reembed --write-database)\b.*)": r"\1 --anyway",
}


def not_run(command: Command) -> str | None:
    """The pattern of NOT_RUN that keeps it from being run."""
    line = f"{command.page}: {command.text}"
    return next((pattern for pattern in NOT_RUN if re.search(pattern, line)), None)


def runnable(command: Command) -> str:
    """The line for the shell."""
    return _replaced(command)[0]


def session(page: str, commands: Sequence[Command]) -> list[str]:
    """The lines for the shell, with what a reader fills in."""
    lines = [runnable(command) for command in commands]
    texts = [command.text for command in commands]
    if page in FILLED_IN:
        place = texts.index(FILLED_IN[page])
        lines[place] = f"nano && {lines[place]}"
    elif "student-clap init" in texts and not any("nano" in text for text in texts):
        lines[texts.index("student-clap init")] += " && nano"
    return lines


def used(command: Command) -> set[str]:
    """The patterns of IN_PLACE that `command` has."""
    return _replaced(command)[1]


def _replaced(command: Command) -> tuple[str, set[str]]:
    if "\n" in command.text:  # a script is what it is
        return command.text, set()
    text, found = shortest(command.text), set()
    for pattern, replacement in IN_PLACE.items():
        text, count = re.subn(pattern, replacement, text)
        found |= {pattern} if count else set()
    return text, found


def shortest(text: str) -> str:
    """A line of usage without what may be left out, with the first of each alternatives: `[--to DIR]`, `int8|fp16`."""
    while (shorter := re.sub(r" *\[(?=[-A-Z ])[^\[\]]*\](\.\.\.)?", "", text)) != text:
        text = shorter
    return re.sub(r"(?<=[\w-])(\|[\w-]+)+", "", text)
