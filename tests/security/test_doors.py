"""What could run code, or be bombed, is called in one place each: whoever adds a second reader is told here."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("config", "store", "ingest", "featurize", "train", "export")
# What is called -> the modules that may.
DOORS = {
    "json.loads": {"config/formats/json_text.py"},
    "json.load": set(),
    "np.load": {"config/formats/npz.py"},
    "torch.load": {"train/runs/checkpoint.py", "train/students/pretrained.py"},
    "onnx.load": {"featurize/onnx/graph.py", "export/graph/writer.py"},  # the latter reads what it has just traced
    "onnx.load_model_from_string": {"config/formats/onnx_metadata.py"},  # which knows of no folder to look into
    "zipfile.ZipFile": {"config/formats/npz.py", "train/runs/checkpoint.py"},
    "onnxruntime.InferenceSession": {"featurize/onnx/session.py"},
    "YAML": {"config/formats/yaml12.py"},
    "Environment": {"config/pages/page.py"},  # jinja2's, with autoescape
    "requests.Session": set(),
    "Markup": {
        "config/pages/chart.py",
        "config/pages/page.py",
        "export/report/charts.py",
        "export/report/page.py",
        "train/comparison/page.py",
    },  # of our own drawings, whose texts are escaped
    "urllib.request.urlopen": {"featurize/cluster/connection.py"},  # the dashboard of the user's own scheduler
}
NEVER = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "eval", "exec", "compile",
    "os.system", "os.popen", "yaml.load", "tarfile.open", "shutil.unpack_archive", "torch.hub.load", "torch.jit.load",
    "onnx.hub.load", "joblib.load", "extractall", "xml.etree.ElementTree.parse",
    "xml.etree.ElementTree.fromstring",
}  # fmt: skip


@functools.cache
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call of a module, with the name that is called as it is written."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [(ast.unparse(node.func), node) for node in nodes if isinstance(node, ast.Call)]


def modules() -> list[Path]:
    """Those of the package, but for the world of its own that `demo` talks to."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return [path for path in paths if ROOT / "export" / "demo" not in path.parents]


@pytest.mark.parametrize("door", DOORS)
def test_each_door_stands_where_it_is_said_to_stand(door: str) -> None:
    found = {str(path.relative_to(ROOT)) for path in modules() for name, _ in calls(path) if name == door}
    assert found == DOORS[door]


def test_nothing_calls_what_runs_foreign_code() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno} {name}"
        for path in modules()
        for name, call in calls(path)
        if name in NEVER or name.rpartition(".")[2] == "extractall"
    ]
    assert found == []


def test_the_doors_are_locked() -> None:
    for path in modules():
        for name, call in calls(path):
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name == "torch.load":
                assert said["weights_only"] == "True"
            if name == "np.load":
                assert said["allow_pickle"] == "False"
            if name == "Environment":
                assert said["autoescape"] == "True"
            if name == "YAML":
                assert said["typ"] == "'safe'"
            assert said.get("shell", "False") == "False", f"{path}: {name}"
