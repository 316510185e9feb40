"""The commands of docs/docker.md, in order, on a tree and a database like the app's.

`docker` is a stand-in that copies folders; `docker compose run student-clap` is our command in the page's work folder,
with the folders of the tree in the place of those of the container. An editor fills in what a user would.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.cli import main
from student_clap.config.formats.fill_in import filled
from student_clap.export import evaluate_command
from student_clap.export.demo.schema import set_app_config
from student_clap.export.demo.world import LoopbackWorld, WorldTrack
from student_clap.export.model.app_settings import APP_DEFAULTS
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.teacher.model import Teacher

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
LIVE = "model_epoch_36.onnx"
OURS = "docker compose run --rm student-clap "
# A small library and a few seconds of training, as a user would write them into config.yaml.
CHOSEN = {
    "teacher.name": "dclap-epoch-36",
    "split.method": "sorted",
    "split.folds": 4,
    "model.cnn_channels": [8, 8, 16],
    "model.transformer_layers": 1,
    "model.hidden_dim": 32,
    "training.batch_size": 4,
    "training.segments_per_track": 2,
    "training.learning_rate": 3e-3,
    "training.epochs": 20,
    "training.warmup_epochs": 1,
    "training.early_stopping_patience": 0,
    "featurize.workers": 1,
}
# docker as far as the page uses it: $IMAGE is the image's /app/model, the current folder that of the compose file.
DOCKER = r"""#!/bin/bash -e
case "$*" in
  "cp audiomuse-ai-flask-app:/app/model/. model/") cp -a "$IMAGE/." model/ ;;
  "exec "*" sha256sum /app/model/"*) grep -q model:/app/model docker-compose.override.yaml; sha256sum "${4#/app/}" ;;
  "compose build student-clap" | "compose pull" | "compose up -d") ;;
  "compose restart audiomuse-ai-flask audiomuse-ai-worker") ;;
  *) echo "no such command is known here: docker $*" >&2; exit 64 ;;
esac
"""


def commands(page: str) -> list[str]:
    """The lines of its indented blocks."""
    return [line.strip() for line in re.findall(r"(?m)^    (\S.*)$", re.sub(r"(?ms)^```.*?^```$", "", page))]


def yaml_blocks(page: str) -> list[str]:
    """Its pieces of docker-compose.override.yaml."""
    return re.findall(r"(?ms)^```yaml\n(services:.*?)^```$", page)


def coloured_noise(rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """[sample] noise of a spectrum of its own: eight levels up to 70 dB apart, over octaves. Easy to learn."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    octave = np.log2(np.arange(1, len(spectrum) + 1) / n_samples * 48_000 + 60)
    level_db = np.interp(octave, np.linspace(6, 14, 8), rng.uniform(-70, 0, 8))
    sound = np.fft.irfft(spectrum * 10 ** (level_db / 20), n_samples)
    return sound / np.abs(sound).max() * 0.5


class Home:
    """The folder of the app's compose file, its image, and the world around it."""

    def __init__(self, folder: Path, world: LoopbackWorld, image: Path) -> None:
        self.folder, self.world, self.image = folder, world, image
        programs = folder.parent / "bin"
        programs.mkdir()
        (programs / "docker").write_text(DOCKER, encoding="utf-8")
        (programs / "git").write_text('#!/bin/sh\nmkdir "$3"\n', encoding="utf-8")
        (programs / "nano").write_text("#!/bin/sh\ntest -f $1\n", encoding="utf-8")
        for program in programs.iterdir():
            program.chmod(0o755)
        self.path = f"{programs}:/usr/bin:/bin"

    @property
    def distil(self) -> Path:
        return self.folder / "distil"

    def run(self, line: str, monkeypatch: pytest.MonkeyPatch) -> str:
        """Run a line of the page; it must succeed. Returns what it printed."""
        if line.startswith(OURS):
            return self._ours(line.removeprefix(OURS).split(), monkeypatch)
        line = line.replace("<this repository>", str(ROOT))
        shell = ["bash", "-ec", line]
        environment = {"PATH": self.path, "IMAGE": str(self.image), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(shell, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        if line == "nano distil/.env":
            self._fill_in()
        return done.stdout

    def _ours(self, words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
        music = str(self.folder / "music")
        model = str(self.folder / "model")
        places = {"/model": model, "/media/music": music, "/music": music, "/work": str(self.distil)}
        words = [re.sub(rf"(?<![^=])({'|'.join(places)})\b", lambda m: places[m[1]], word) for word in words]
        monkeypatch.chdir(self.distil)
        done = CliRunner().invoke(main, words, input="y\n")
        assert done.exit_code == 0, f"{words}\n{done.output}{done.exception!r}"
        return done.output

    def _fill_in(self) -> None:
        """What the user's editor does: the servers' names and a small library's settings."""
        lines = "".join(f"{name}={value}\n" for name, value in self.world.environment().items())
        (self.distil / ".env").write_text(lines, encoding="utf-8")
        config = self.distil / "config.yaml"
        chosen = CHOSEN | {"database.port": self.world.database.port, "audiomuse.model_dir": self.folder / "model"}
        config.write_text(filled(config.read_text(encoding="utf-8"), chosen), encoding="utf-8")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """32 short tracks by 8 artists, which the image's model has heard."""
    folder = tmp_path_factory.mktemp("docker")
    image, music = folder / "image", folder / "home" / "music"
    image.mkdir()
    music.mkdir(parents=True)
    write_mel_teacher(image / LIVE, "dclap", external=True, flux=0)
    (image / "clap_text_model.onnx").write_bytes(b"text model")
    rng = np.random.default_rng(5)
    labels = {name: rng.standard_normal(512).astype(np.float32) for name in ("happy", "sad", "party", "relaxed")}
    np.savez(image / "clap_other_feature_text_embeddings.npz", **labels)
    teacher, tracks = Teacher(image / LIVE), []
    for number in range(32):
        path = music / f"{number:02}.wav"
        soundfile.write(path, coloured_noise(rng, 48_000 * 11), 48_000)
        vector, _ = teacher.embed(decode(path, teacher.max_samples))
        tracks.append(WorldTrack(f"{number:032x}", f"Tone {number}", f"Artist {number % 8}", "Tones", path, vector))
    with LoopbackWorld(tracks) as world:
        set_app_config(world.database, APP_DEFAULTS)
        yield Home(folder / "home", world, image)


def vectors(home: Home) -> dict[str, bytes]:
    """The rows of the app's table."""
    with closing(home.world.database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT item_id, embedding FROM clap_embedding")
        return {item: bytes(vector) for item, vector in cursor.fetchall()}


def test_the_page_is_walked_from_end_to_end(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_command, "BENCH_ROUNDS", 1)
    (home.folder / "docker-compose.override.yaml").write_text("".join(yaml_blocks(PAGE)), encoding="utf-8")
    live = home.folder / "model" / LIVE
    before, said, after = vectors(home), {}, {}
    for line in commands(PAGE):
        said[line] = home.run(line, monkeypatch)
        if line.endswith("reembed --write-database"):
            after = vectors(home)
            assert live.read_bytes() == (home.distil / "runs/tinyclap-audiomuse/student.onnx").read_bytes()
    assert "same model" in next(text for line, text in said.items() if "--probe" in line)
    assert "32 heard by the teacher" in next(text for line, text in said.items() if "featurize --teacher" in line)
    assert len({text.split()[0] for line, text in said.items() if "sha256sum" in line}) == 1
    assert before.keys() == after.keys()
    assert all(before[item] != after[item] for item in before)
    # The page ends where it began.
    assert vectors(home) == before
    assert live.read_bytes() == (home.image / LIVE).read_bytes()


def test_the_override_file_is_one_that_compose_reads() -> None:
    merged: dict[str, dict[str, object]] = {}
    for block in yaml_blocks(PAGE):
        for name, service in yaml.safe_load(block)["services"].items():
            merged.setdefault(name, {}).update(service)
    assert (ROOT / merged["student-clap"]["build"]["dockerfile"]).is_file()
    assert merged["audiomuse-ai-flask"] == merged["audiomuse-ai-worker"] == {"volumes": ["./model:/app/model"]}
