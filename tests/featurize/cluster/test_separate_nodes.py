"""The commands of docs/kubernetes on nodes with file systems of their own, which share a bucket and a volume of audio.

A node is a process in a mount namespace. Its files lie at the same path as every other node's, which it does not see.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from loopback.daskcluster import DaskProcesses
from loopback.objectstore import ObjectServer
from loopback.processes import ENOUGH_S, kill_group
from student_clap.config.schema import AudioConfig
from student_clap.featurize.cluster.task import Job, Site, make_features
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.storage.open import open_storage

pytestmark = pytest.mark.slow

MANIFESTS = Path(__file__).resolve().parents[3] / "docs" / "kubernetes"
RECIPE = Recipe.from_config(AudioConfig())
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
# $NODE is the node's own. The volume is read-only at $AUDIO and hidden where it really lies.
BOOT = """
set -e
mount -t tmpfs node "$NODE"
mkdir -p "$NODE/tmp" "$NODE/config" "$AUDIO"
cp "$SETTINGS" "$NODE/config/config.yaml"
mount --bind "$VOLUME" "$AUDIO"
mount -o remount,bind,ro "$AUDIO"
mount -t tmpfs hidden "$VOLUME"
cd "$NODE/tmp"
exec env -i PATH="$PATH" HOME="$NODE/tmp" TMPDIR="$NODE/tmp" "$@"
"""


def can_mount() -> bool:
    command = [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def manifest(file: str, kind: str, name: str) -> dict[str, Any]:
    found = YAML(typ="safe").load_all(MANIFESTS / file)
    return next(it for it in found if (it["kind"], it["metadata"]["name"]) == (kind, name))


def container(file: str, kind: str, name: str) -> dict[str, Any]:
    return manifest(file, kind, name)["spec"]["template"]["spec"]["containers"][0]


class Nodes:
    """Nodes below `folder`, with the settings of the manifests and a Dask scheduler at `scheduler`."""

    def __init__(self, folder: Path, bucket: str, scheduler: str) -> None:
        self.volume, self.node = folder / "volume", folder / "node"
        for place in (self.volume, self.node):
            place.mkdir()
        self._folder, self._scheduler = folder, scheduler
        settings = manifest("config.yaml", "ConfigMap", "student-clap")["data"]["config.yaml"]
        settings = settings.replace(" /audio", f" {self.node}/audio").replace("s3://BUCKET/", f"s3://{bucket}/")
        (folder / "settings.yaml").write_text(settings)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, it: dict[str, Any], name: str, environment: dict[str, str], *more: str, audio: str = "audio"
    ) -> subprocess.Popen[bytes]:
        """Run a container's command on a new node, whose output becomes `name`.log.

        Args:
            it: the container.
            name: of the node.
            environment: what its ConfigMap and Secret give it.
            more: further arguments.
            audio: where the volume lies.
        """
        places = {
            "tcp://featurize-scheduler:8786": self._scheduler,
            "/etc/student-clap/config.yaml": f"{self.node}/config/config.yaml",
            "/tmp": f"{self.node}/tmp",  # noqa: S108
        }
        program = Path(sys.executable).with_name(it["command"][0])
        command = [str(program), *(places.get(argument, argument) for argument in it["args"]), *more]
        boot = {
            "NODE": str(self.node), "AUDIO": f"{self.node}/{audio}", "VOLUME": str(self.volume),
            "SETTINGS": str(self._folder / "settings.yaml"), "PATH": os.environ["PATH"],
        }  # fmt: skip
        own = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environment}
        with (self._folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [*UNSHARE, "sh", "-c", BOOT, name, *(f"{key}={value}" for key, value in own.items()), *command],
                stdout=log, stderr=log, env=boot, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def wait_for(self, name: str, words: str) -> str:
        """Wait for the line of a node's log that has `words`."""
        deadline = time.monotonic() + ENOUGH_S
        while True:
            lines = (self._folder / f"{name}.log").read_text().splitlines(keepends=True)
            if found := [line for line in lines if words in line and line.endswith("\n")]:
                return found[0]
            assert time.monotonic() < deadline, lines
            time.sleep(0.05)

    def end(self) -> None:
        for process in self._processes:
            kill_group(process)


def address_of(scheduler: subprocess.Popen[bytes], file: Path) -> str:
    """The address in a scheduler's file, once it is written."""
    while True:
        with suppress(FileNotFoundError, json.JSONDecodeError):
            return json.loads(file.read_text())["address"]
        assert scheduler.poll() is None
        time.sleep(0.05)


@contextmanager
def running_nodes(folder: Path, bucket: str) -> Iterator[Nodes]:
    with DaskProcesses(folder / "dask") as dask:
        nodes = Nodes(folder, bucket, address_of(dask.scheduler(), dask.scheduler_file))
        try:
            yield nodes
        finally:
            nodes.end()


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount in a namespace of its own")
def test_a_bucket_and_a_volume_are_all_that_workers_share_and_they_may_be_evicted(
    tmp_path: Path, bucket: str, object_server: ObjectServer, write_audio: Callable[..., Path], gates
) -> None:
    files = [write_audio(f"{n}.wav", 3.0 + n, seed=n) for n in range(3)]
    here, there = str(tmp_path / "here.zarr"), f"s3://{bucket}/features.zarr"
    for where in (here, there):
        with FeatureStore.create(where, "test") as store:
            store.append_tracks([Track("d", f.stem, audio=f.name, state=State.FETCHED) for f in files])
    with FeatureStore.open(here, "r+") as store:
        store.features(RECIPE)
        site = Site(store.address, store.uuid, store.n_tracks, RECIPE)
        lengths = [it.n_samples for it in make_features(site, [Job(n, str(f)) for n, f in enumerate(files)])]

    worker = container("cluster.yaml", "Deployment", "featurize-worker")
    environment = manifest("config.yaml", "ConfigMap", "student-clap-dask")["data"] | object_server.environment
    loopback = ("--host", "127.0.0.1")
    with running_nodes(tmp_path, bucket) as nodes:
        for file in files:
            file.rename(nodes.volume / file.name)
        gates.close(*files[1:])
        evicted = nodes.start(worker, "evicted", environment | gates.environment, *loopback)
        driver = nodes.start(
            container("featurize.yaml", "Job", "featurize"), "driver", object_server.environment,
            "--set", "featurize.tracks_per_task=1",
        )  # fmt: skip
        nodes.wait_for("evicted", "Registered to:")  # the driver gives up where there are none but unfit workers
        misplaced = nodes.start(worker, "misplaced", environment, *loopback, audio="music")
        assert (
            f" gets no tracks: {nodes.node}/audio/0.wav cannot be read: No such file or directory; audio has to lie"
            " here at the path that it has where the run was started: mount it there"
        ) in nodes.wait_for("driver", " gets no tracks: ")
        misplaced.terminate()
        shards = open_storage(f"{there}/features/{RECIPE.name}/mel/c")
        while not (shards / "0/0/0").exists():
            assert driver.poll() is None
            time.sleep(0.1)
        nodes.start(worker, "successor", environment, *loopback)
        nodes.wait_for("successor", "Registered to:")
        evicted.terminate()  # as a node that is drained does it: the first process alone, in the middle of a track
        code = driver.wait(ENOUGH_S)
        assert evicted.wait(ENOUGH_S) == 0
    said = (tmp_path / "driver.log").read_text()
    assert (code, "featurize: 3 tracks made" in said, "failed" in said) == (0, True, False), said

    with FeatureStore.open(there) as store:
        assert store.features(RECIPE).n_samples().tolist() == lengths
    for row in range(3):
        local = Path(here, "features", RECIPE.name, "mel", "c", str(row), "0", "0")
        assert (shards / f"{row}/0/0").read_bytes() == local.read_bytes()
