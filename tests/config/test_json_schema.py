"""`student-clap config --schema` and docs/config.md: every key, with its type, unit, default and meaning."""

from __future__ import annotations

import importlib.util
import json
import operator
import re
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import load_yaml
from student_clap.config.json_schema import editor_schema, section_schema, sections
from student_clap.config.load import masked
from student_clap.config.schema import Config
from student_clap.config.servers import MEDIA_SERVERS

ROOT = Path(__file__).parents[2]


_TYPES = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip
_LIMITS = {
    "minimum": operator.ge, "maximum": operator.le, "exclusiveMinimum": operator.gt, "exclusiveMaximum": operator.lt,
}  # fmt: skip


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Whether a schema accepts a value, by those words of JSON schema that ours uses."""
    kinds = schema.get("type", list(_TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return (
        any(isinstance(value, _TYPES[kind]) for kind in kinds)
        and (not isinstance(value, bool) or "boolean" in kinds)
        and value in schema.get("enum", [value])
        and ("pattern" not in schema or re.search(schema["pattern"], value) is not None)
        and all(compare(value, schema[word]) for word, compare in _LIMITS.items() if word in schema)
        and ("anyOf" not in schema or any(accepts(option, value) for option in schema["anyOf"]))
        and (not isinstance(value, list) or all(accepts(schema.get("items", {}), item) for item in value))
        and (
            not isinstance(value, dict)
            or "properties" not in schema
            or all(key in schema["properties"] and accepts(schema["properties"][key], value[key]) for key in value)
        )
    )


def test_the_command_prints_the_schema_whatever_the_configuration_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("nonsense: [")
    done = CliRunner().invoke(main, ["config", "--schema"])
    assert done.exit_code == 0, done.output
    schema = json.loads(done.output)
    assert list(schema["properties"]) == list(Config.model_fields)
    port = schema["properties"]["database"]["properties"]["port"]
    assert port["default"] == 5432
    assert {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 65536} in port["anyOf"]


def test_every_key_has_a_description_and_a_default():
    bare = [
        f"{name}.{key}"
        for name, model in sections().items()
        for key, value in section_schema(model)["properties"].items()
        if not value.get("description") or "default" not in value
    ]
    assert bare == []


def test_names_come_from_their_registries():
    source = editor_schema()["properties"]["ingest"]["properties"]["source"]
    assert source["anyOf"][0]["enum"] == list(MEDIA_SERVERS)


def test_the_schema_accepts_what_is_read_and_refuses_unknown_keys():
    schema = editor_schema()
    template = load_yaml((ROOT / "config" / "templates" / "config.yaml").read_text(encoding="utf-8"))
    assert accepts(schema, template)
    assert accepts(schema, json.loads(json.dumps(masked(Config()))))
    assert accepts(schema, {"training": {"lr": 0.1, "epochs": "${EPOCHS}"}, "loss": None})
    assert not accepts(schema, {"trainig": {}})
    assert not accepts(schema, {"training": {"epoch": 1}})
    assert not accepts(schema, {"training": {"epochs": "three"}})
    assert not accepts(schema, {"ingest": {"source": "winamp"}})


def page_maker() -> Any:
    """docs/make_config_page.py as a module."""
    spec = importlib.util.spec_from_file_location("make_config_page", ROOT / "docs" / "make_config_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_the_schema_s():
    maker = page_maker()
    assert maker.PAGE.read_text(encoding="utf-8") == maker.page(), "run: make page"


def test_the_page_names_every_key_and_no_secret_s_default():
    text = page_maker().page()
    for name, model in sections().items():
        begin = text.index(f"## {name}\n")
        section = text[begin : text.find("\n## ", begin)]
        for key in model.model_fields:
            assert f"| `{key}`" in section
    assert text.count("secret or null") > 5
    assert all("`null`" not in line.split("|")[4] for line in text.splitlines() if "secret or null" in line)
