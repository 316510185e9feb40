"""config.yaml + environment + --set: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.load import ConfigError, as_yaml, is_secret, load_config, masked
from student_clap.config.schema import Config
from student_clap.config.section import Source, allowed_types
from student_clap.config.servers import MEDIA_SERVERS
from student_clap.ingest.vectors.open import KINDS

# The original README's configuration, word for word.
ORIGINAL = """
database:
  host: ${DB_HOST}
  port: 5432
  database: ${DB_NAME}
  user: ${DB_USER}
  password: ${DB_PASSWORD}

jellyfin:
  url: ${JELLYFIN_URL}
  user_id: ${JELLYFIN_USER_ID}
  token: ${JELLYFIN_TOKEN}

audio:
  sample_rate: 48000
  segment_length: 480000      # 10 seconds
  hop_length: 240000          # 5 seconds (50% overlap)
  n_mels: 128                 # For student model
  n_fft: 1024
  hop_length_stft: 480
  fmin: 0
  fmax: 14000

model:
  architecture: "tinyclap"    # TinyCLAP-inspired
  embedding_dim: 512          # MUST be 512 for compatibility
  cnn_channels: [32, 64, 128]
  transformer_layers: 2
  attention_heads: 4
  hidden_dim: 256

training:
  batch_size: 16
  learning_rate: 1e-4
  epochs: 100
  warmup_epochs: 5
  optimizer: "adam"
  weight_decay: 1e-5
  grad_clip: 1.0

  # Loss weights
  mse_weight: 0.6
  cosine_weight: 0.4

  # Checkpointing
  save_every: 5
  early_stopping_patience: 10
"""
ENVIRONMENT = {
    "DB_HOST": "db.example",
    "DB_NAME": "audiomuse",
    "DB_USER": "reader",
    "DB_PASSWORD": "12345",
    "JELLYFIN_URL": "http://jellyfin.example:8096/",
    "JELLYFIN_USER_ID": "0123",
    "JELLYFIN_TOKEN": "secret-token",
}


@pytest.fixture
def write(tmp_path: Path):
    """Write a config.yaml and return its path."""

    def _write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return _write


def faults(path: Path | None, *overrides: str, **kwargs: object) -> list[str]:
    """The faults that loading raises."""
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides, **kwargs)
    assert error.value.exit_code == 1
    return error.value.faults


def test_the_original_readmes_config_is_read_as_it_stands(write):
    config = load_config(write(ORIGINAL), environment=ENVIRONMENT, needs=frozenset({"database", "jellyfin"}))
    assert config.database.host == "db.example"
    assert config.database.password.get_secret_value() == "12345"  # digits from the environment stay text
    assert config.jellyfin.user_id == "0123"
    assert config.jellyfin.url == "http://jellyfin.example:8096"
    assert config.training.learning_rate == 1e-4
    assert config.training.weight_decay == 1e-5
    assert config.model.cnn_channels == (32, 64, 128)
    assert (config.audio.mel.n_fft, config.audio.mel.n_mels) == (1024, 128)
    assert (config.training.mse_weight, config.training.cosine_weight) == (0.6, 0.4)


def test_the_template_that_init_writes_loads_and_means_the_defaults():
    template = Path(__file__).parents[2] / "config" / "templates" / "config.yaml"
    config = load_config(template, environment=ENVIRONMENT)
    defaults = load_config(None, environment={})
    assert config.training == defaults.training
    assert config.audio == defaults.audio
    assert config.split == defaults.split
    assert config.model == defaults.model


def test_numbers_from_the_environment_are_numbers(write):
    config = load_config(write("database:\n  port: ${PORT}\n"), environment={"PORT": "6000"})
    assert config.database.port == 6000


def test_a_missing_variable_of_a_source_is_an_error_only_where_the_source_is_needed(write):
    path = write(ORIGINAL)
    assert load_config(path, environment={}).database.host == "localhost"
    found = faults(path, needs=frozenset({"database"}), environment={})
    assert len(found) == 4
    assert found[0].startswith("database.host: the variable DB_HOST is not set; put `DB_HOST=...` into .env")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("store:\n  path: ${BIG_DISK}/features.zarr\n", "store.path"),
        ("ingest:\n  cache_dir: ${BIG_DISK}/audio\n", "ingest.cache_dir"),
        ("featurize:\n  scheduler: ${BIG_DISK}\n", "featurize.scheduler"),
        ("training:\n  runs_dir: ${BIG_DISK}\n", "training.runs_dir"),
        ("ingest:\n  map: ['/a=/b', '${BIG_DISK}=/mnt']\n", "ingest.map"),
        ("featurize:\n  job_prologue: ['cd ${BIG_DISK}']\n", "featurize.job_prologue"),
    ],
)
def test_a_missing_variable_is_an_error_in_what_is_no_source(write, text, key):
    path = write(text)
    (found,) = faults(path, environment={})
    assert found == (
        f"{key}: the variable BIG_DISK is not set; put `BIG_DISK=...` into .env or the environment, or write "
        "`${BIG_DISK:-...}` with what stands for it"
    )
    section, _, name = key.partition(".")
    assert "/big" in str(getattr(getattr(load_config(path, environment={"BIG_DISK": "/big"}), section), name))


def test_set_takes_the_place_of_a_missing_variable(write):
    path = write("store:\n  path: ${BIG_DISK}/features.zarr\n")
    assert load_config(path, ("store.path=/mine",), environment={}).store.path == "/mine"
    with pytest.raises(ConfigError, match=r"^--set:\n.*epochs"):
        load_config(path, ("store.path=/mine", "training.epochs=x"), environment={})


def test_the_sections_of_sources_are_those_that_are_asked():
    asked = {kind.section for kind in KINDS.values()} | {server.section for server in MEDIA_SERVERS.values()}
    sources = {name for name, field in Config.model_fields.items() if issubclass(field.annotation, Source)}
    assert sources == asked - {""}


def test_a_variable_may_have_a_default_which_stands_for_an_empty_one_too(write):
    path = write("database:\n  host: ${HOST:-fallback}\n  port: ${PORT:-5433}\n  user: me${MORE}\n")
    for empty in ({}, {"HOST": "", "PORT": ""}):
        database = load_config(path, environment={"MORE": "", **empty}, needs=frozenset({"database"})).database
        assert (database.host, database.port, database.user) == ("fallback", 5433, "me")


def test_two_dollars_stand_for_what_is_no_variable(write):
    path = write("featurize:\n  job_prologue: ['[ -n \"$${A:-}\" ] || cd $${B}/${C}', '$A $${', '$$${B}']\n")
    config = load_config(path, environment={"A": "a", "B": "b", "C": "c"})
    assert config.featurize.job_prologue == ('[ -n "${A:-}" ] || cd ${B}/c', "$A ${", "$${B}")
    path.write_text(as_yaml(config))
    assert load_config(path, environment={}) == config


def test_dotenv_beside_the_file_is_read_and_the_environment_wins(write, tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("DB_HOST=from-file\nDB_NAME='quoted name'\n")
    path = write("database:\n  host: ${DB_HOST}\n  database: ${DB_NAME}\n")
    monkeypatch.delenv("DB_HOST", raising=False)
    monkeypatch.delenv("DB_NAME", raising=False)
    assert load_config(path).database.host == "from-file"
    assert load_config(path).database.database == "quoted name"
    monkeypatch.setenv("DB_HOST", "from-environment")
    assert load_config(path).database.host == "from-environment"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainig:\n  epochs: 3\n", "trainig: unknown key; did you mean 'training'?"),
        ("training:\n  epoch: 3\n", "training.epoch: unknown key; did you mean 'epochs'?"),
        ("training:\n  epochs: three\n", "training.epochs: input should be a valid integer, got 'three' (str)"),
        ("training:\n  epochs: 3.5\n", "training.epochs: input should be a valid integer, got 3.5 (float)"),
        ("training:\n  epochs: '3'\n", "training.epochs: input should be a valid integer, got '3' (str)"),
        ("training:\n  epochs: 0\n", "training.epochs: input should be greater than 0, got 0 (int)"),
        ("training:\n  optimizer: sgd\n", "training.optimizer: input should be 'adam' or 'adamw', got 'sgd' (str)"),
        ("training:\n  lr: 1\n  learning_rate: 2\n", "training: learning_rate and lr are the same setting; remove one"),
        ("audio:\n  sample_rate: 44100\n", "audio: sample_rate is 44100; the teacher takes 48000 Hz only"),
        ("audio:\n  hop_length: 240001\n", "audio: hop_length 240001 is not a multiple of hop_length_stft 480"),
        ("audio:\n  n_mels: 1280\n", "audio.n_mels: input should be less than or equal to 1024, got 1280 (int)"),
        (
            "audio:\n  segment_length: 9600000\n  hop_length: 4800000\n",
            "audio: segment_length 9600000 has 20001 frames at hop_length_stft 480; expected at most 16384",
        ),
        (
            "audio:\n  max_duration_s: 86400\n",
            "audio: max_duration_s 86400 makes 1.1 GB of features of one track, at n_mels 128,",
        ),
        ("audio:\n  fmax: 30000\n", "audio: need fmin < fmax <= 24000 Hz, got 0 and 30000"),
        ("model:\n  embedding_dim: 256\n", "model: embedding_dim is 256; the text tower needs 512"),
        ("split:\n  fold: 10\n", "split: fold 10 is not one of 0..9"),
        ("split:\n  test_folds: [1, 10]\n", "split: test_folds has 10, which is not one of 0..9"),
        ("split:\n  fold: 3\n  test_folds: [3]\n", "split: test_folds has 3, which is the validation set"),
        ("split:\n  test_folds: [4, 5, 4]\n", "split: test_folds [4, 5, 4] names a part twice"),
        ("split:\n  folds: 2\n  test_folds: [1]\n", "split: no part is left to train on: 2 folds"),
        ("jellyfin:\n  url: jellyfin:8096\n", "jellyfin.url: must start with http:// or https://"),
        ("jellyfin:\n  url: http://me:pw@host\n", "jellyfin.url: must not carry a user or a password"),
        ("database:\n  port: 5432\n  port: 5433\n", "not valid YAML: line 3: the key 'port' stands twice; keep one"),
        ("database: [1, 2\n", "not valid YAML: line 2: "),
        ("- 1\n", "holds a list; expected sections such as `database:`"),
    ],
)
def test_bad_input_names_the_key_and_the_remedy(write, text, expected):
    found = faults(write(text))
    assert any(fault.startswith(expected) for fault in found), found


def test_every_fault_is_listed_at_once(write):
    assert len(faults(write("training:\n  epochs: 0\n  batch_size: -1\nmodell: {}\n"))) == 3


def test_set_replaces_one_key_by_either_name(write):
    path = write("training:\n  learning_rate: 1e-4\n")
    assert load_config(path, ("training.lr=3e-4",)).training.learning_rate == 3e-4
    assert load_config(path, ("training.learning_rate=2e-4", "training.lr=1")).training.learning_rate == 1.0
    assert load_config(path, ("model.cnn_channels=[8, 16, 32]",)).model.cnn_channels == (8, 16, 32)
    assert load_config(path, ("database.password=007",)).database.password.get_secret_value() == "007"
    assert load_config(path, ("training.segments_per_track=",)).training.segments_per_track is None


def test_set_is_checked_like_the_file(write):
    path = write("")
    assert faults(path, "training.lr=fast")[0].startswith("training.lr: input should be a valid number, got 'fast'")
    assert "is not of the form section.key=value" in faults(path, "epochs=3")[0]
    assert "unknown key" in faults(path, "training.speed=3")[0]
    assert "ingest.map: input should be a valid tuple, got '{'" in faults(path, "ingest.map={")[0]


def headed(path: Path, *overrides: str) -> str:
    """The first line of the error."""
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return error.value.message.partition("\n")[0]


def test_an_error_is_headed_by_where_the_value_was_given(write):
    assert headed(write(""), "training.lr=fast") == "--set:"
    assert headed(write(""), "audio.hop_length=240001") == "--set:"  # said of the section
    path = write("training:\n  epochs: 0\n")
    assert headed(path, "training.lr=1e-3") == f"{path}:"
    assert headed(path, "training.lr=fast") == f"{path} with --set:"
    assert load_config(path, ("training.epochs=1",)).training.epochs == 1  # a fault of the file, replaced


def test_fewer_epochs_than_the_warm_up_has_just_work(write):
    training = load_config(write(""), ("training.epochs=3",)).training
    assert training.warmup(steps_per_epoch=10) == 30
    assert load_config(write("")).training.warmup(steps_per_epoch=10) == 50
    assert load_config(write(""), ("training.warmup_steps=7",)).training.warmup(steps_per_epoch=10) == 7


def test_a_missing_file_says_how_to_write_one(tmp_path):
    assert faults(tmp_path / "none.yaml") == ["there is no such file; write one with `student-clap init`"]


def test_secrets_are_masked_in_the_dump_and_in_errors(write):
    config = load_config(write(ORIGINAL), environment=ENVIRONMENT)
    text = dump_yaml(masked(config)) + repr(config)
    assert "secret-token" not in text
    assert "12345" not in text
    assert masked(config)["jellyfin"]["token"] == "***"
    assert "77" not in faults(write("database:\n  password: 77\n"))[0]


def test_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_config(None, environment={}).training.epochs = 3


def test_an_env_file_that_is_not_utf_8_is_one_fault(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}", encoding="utf-8")
    (tmp_path / ".env").write_bytes(b"A=1\nFOO=caf\xe9\n")
    with pytest.raises(ConfigError, match=r"\.env:\n.*is not UTF-8; save the file in that encoding"):
        load_config(tmp_path / "config.yaml")


def test_every_secret_of_the_schema_is_known_by_its_name() -> None:
    secrets = [
        f"{section}.{key}"
        for section, field in Config.model_fields.items()
        for key, inner in field.annotation.model_fields.items()  # type: ignore[union-attr]  # every field is a section
        if SecretStr in allowed_types(inner.annotation)
    ]
    assert len(secrets) > 5
    assert all(is_secret(key) for key in secrets)
