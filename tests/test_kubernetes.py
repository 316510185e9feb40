"""The manifests of docs/kubernetes: Kubernetes' own schema, the real commands' options, and what has to agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import dask
import kubernetes_validate
import pytest
from dotenv import dotenv_values
from pydantic import ByteSize, TypeAdapter
from ruamel.yaml import YAML

from student_clap.config.cli import main
from student_clap.config.load import load_config
from student_clap.config.runtime.machine import WORKER_MALLOC_ENVIRONMENT
from student_clap.config.schema import Config, IngestConfig
from student_clap.store.storage import bucket

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "kubernetes"
MANIFESTS = {path.name: list(YAML(typ="safe").load_all(path)) for path in sorted(FOLDER.glob("*.yaml"))}
BY_NAME = {(it["kind"], it["metadata"]["name"]): it for manifests in MANIFESTS.values() for it in manifests}
SETTINGS = BY_NAME["ConfigMap", "student-clap"]["data"]["config.yaml"]
INGEST = IngestConfig.model_validate(YAML(typ="safe").load(SETTINGS)["ingest"])
SECRETS = {"student-clap-sources": "sources.env", "student-clap-bucket": "bucket.env"}
EVERY_SECTION = frozenset(Config.model_fields)
OF_NUMERIC_LIBRARIES = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}


def secret(name: str) -> dict[str, str]:
    return {key: value or "" for key, value in dotenv_values(FOLDER / SECRETS[name]).items()}


def pod_specs(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every description of pods in a manifest."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Pod":
        yield spec
    elif manifest["kind"] == "DaskCluster":
        yield from (spec["scheduler"]["spec"], spec["worker"]["spec"])
    elif "template" in spec:
        yield spec["template"]["spec"]


PODS = [(name, pod) for name, manifests in MANIFESTS.items() for it in manifests for pod in pod_specs(it)]
CONTAINERS = [
    pytest.param(pod, container, id=f"{name}-{container['name']}")
    for name, pod in PODS
    for container in (*pod.get("initContainers", ()), *pod["containers"])
]
DASK = {name: [pod["containers"][0] for file, pod in PODS if file == name] for name in MANIFESTS if "cluster" in name}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_what_kubernetes_takes(name: str) -> None:
    assert MANIFESTS[name]
    for manifest in MANIFESTS[name]:
        if manifest["apiVersion"] != "kubernetes.dask.org/v1":  # the operator's own
            kubernetes_validate.validate(manifest, "1.30", strict=True)


def test_the_page_s_own_manifests_are_too_and_it_names_every_file() -> None:
    page = FOLDER.with_suffix(".md").read_text(encoding="utf-8")
    blocks = [list(YAML(typ="safe").load_all(block)) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    volumes, (settings,) = blocks
    for manifest in volumes:
        kubernetes_validate.validate(manifest, "1.30", strict=True)
    assert Config.model_validate(settings).folder.path == Path("/audio")
    assert [path.name for path in FOLDER.iterdir() if f"(kubernetes/{path.name})" not in page] == []


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_a_command_line_is_one_that_the_command_takes(pod, container, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert container["image"] == "IMAGE"  # not a name that a registry might have
    program, arguments = container["command"], list(container["args"])
    if program == ["dask"]:
        from distributed.cli import dask_scheduler, dask_worker

        command: click.Command | None = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}[arguments[0]]
    elif program == ["student-clap"]:
        command = main.get_command(click.Context(main), arguments[0])
    else:
        assert program == ["sleep"]
        return
    assert command is not None
    given = command.make_context(arguments[0], arguments[1:]).params
    if program == ["dask"]:
        return
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    file = given["config_path"]
    assert mounts[str(file.parent)]["name"] == "config"
    (tmp_path / "config.yaml").write_text(SETTINGS)
    config = load_config(Path("config.yaml"), given["overrides"], environment=environment(container))
    for path in written(arguments[0], config):
        assert not mounts[str(path)].get("readOnly"), path
    if arguments[0] == "featurize":
        scheduler = BY_NAME["Service", "featurize-scheduler"]
        assert given["scheduler"] == f"tcp://{scheduler['metadata']['name']}:{scheduler['spec']['ports'][0]['port']}"


def environment(container: dict[str, Any]) -> dict[str, str]:
    """What a container's process finds, as far as it comes from Secrets."""
    names = [source["secretRef"]["name"] for source in container.get("envFrom", ()) if "secretRef" in source]
    return {key: value for name in names for key, value in secret(name).items()}


def written(stage: str, config: Config) -> list[Path]:
    """The folders that a stage writes into; the store is in a bucket."""
    folders = {"ingest": [config.ingest.cache_dir], "featurize": []}.get(stage, [config.training.runs_dir])
    return folders + ([config.store.local_cache] if config.store.local_cache else [])


def test_secrets_are_those_that_are_read(tmp_path) -> None:
    (tmp_path / "config.yaml").write_text(SETTINGS)
    sources = secret("student-clap-sources")
    assert set(sources) == set(re.findall(r"\$\{(\w+)\}", SETTINGS))
    config = load_config(tmp_path / "config.yaml", needs=EVERY_SECTION, environment=sources)
    assert config.database.password is not None
    assert config.jellyfin.url == sources["JELLYFIN_URL"]
    load_config(tmp_path / "config.yaml", needs=frozenset({"audio", "store", "training"}), environment={})
    assert set(secret("student-clap-bucket")) <= set(re.findall(r"AWS_\w+", bucket.__doc__ or ""))
    readers = {
        container["args"][0]
        for _, pod in PODS
        for container in pod["containers"]
        if "DB_HOST" in environment(container)
    }
    assert readers == {"ingest", "3600"}  # a worker needs no database


def test_dask_s_environment_is_read_by_dask_and_the_c_library() -> None:
    data = BY_NAME["ConfigMap", "student-clap-dask"]["data"]
    rest = {key: value for key, value in data.items() if not key.startswith("DASK_")}
    assert rest == {**dict.fromkeys(OF_NUMERIC_LIBRARIES, "1"), **WORKER_MALLOC_ENVIRONMENT}
    for key in data.keys() - rest.keys():
        dask.config.get(key.removeprefix("DASK_").lower().replace("__", ".").replace("_", "-"))  # KeyError: no setting


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_what_a_pod_names_is_there(pod, container) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
    for volume in volumes.values():
        assert "persistentVolumeClaim" not in volume or (
            ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in BY_NAME
        )
        assert "configMap" not in volume or ("ConfigMap", volume["configMap"]["name"]) in BY_NAME
    for source in container.get("envFrom", ()):
        if "secretRef" in source:
            assert source["secretRef"]["name"] in SECRETS
        else:
            assert ("ConfigMap", source["configMapRef"]["name"]) in BY_NAME
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    home = {variable["name"]: variable.get("value") for variable in container["env"]}["HOME"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert home in mounts
    assert "/tmp" in mounts  # noqa: S108  where Python puts temporary files
    assert container["workingDir"] in mounts


def test_audio_has_the_same_path_in_all_pods_and_workers_only_read_it() -> None:
    places = {
        (mount["name"], mount["mountPath"], mount.get("readOnly", False), container["args"][0])
        for _, pod in PODS
        for container in pod["containers"]
        for mount in container["volumeMounts"]
        if mount["name"] == "audio"
    }
    assert {stage for *_, read_only, stage in places if read_only} == {"featurize", "worker"}
    assert "ingest" in {stage for *_, stage in places}
    assert {path for _, path, *_ in places} == {str(INGEST.cache_dir)}


def test_sizes_fit_into_one_another() -> None:
    claim = BY_NAME["PersistentVolumeClaim", "audio"]["spec"]["resources"]["requests"]["storage"]
    max_cache = INGEST.max_cache
    assert max_cache is not None
    assert max_cache < n_bytes(claim)
    (train,) = (pod for name, pod in PODS if name == "train.yaml")
    (cache,) = (volume for volume in train["volumes"] if volume["name"] == "cache")
    (size,) = (argument for argument in train["containers"][0]["args"] if "local_cache_size" in argument)
    assert n_bytes(size.partition("=")[2]) < n_bytes(cache["emptyDir"]["sizeLimit"])
    for containers in DASK.values():
        (worker,) = (container for container in containers if container["args"][0] == "worker")
        limit = n_bytes(worker["args"][worker["args"].index("--memory-limit") + 1])
        assert limit < n_bytes(worker["resources"]["limits"]["memory"])  # Dask's limit, not the kernel's, is met first


def n_bytes(text: str) -> int:
    """Of Kubernetes' 200Gi, 2500Mi, or ours."""
    return int(TypeAdapter(ByteSize).validate_python(re.sub(r"([KMGT]i)$", r"\1B", text)))


def test_the_operator_s_cluster_is_the_plain_one() -> None:
    plain, operated = ({it["args"][0]: it for it in DASK[name]} for name in ("cluster.yaml", "daskcluster.yaml"))
    of_the_operator = {"--name", "$(DASK_WORKER_NAME)"}
    arguments = [argument for argument in operated["worker"]["args"] if argument not in of_the_operator]
    assert {**operated["worker"], "args": arguments} == plain["worker"]
    cluster = BY_NAME["DaskCluster", "featurize"]
    assert f"{cluster['metadata']['name']}-scheduler" == BY_NAME["Service", "featurize-scheduler"]["metadata"]["name"]
    assert cluster["spec"]["scheduler"]["service"]["ports"][0] == {
        "protocol": "TCP", **BY_NAME["Service", "featurize-scheduler"]["spec"]["ports"][0],
    }  # fmt: skip


def test_every_pod_is_behind_the_network_policy() -> None:
    labels = BY_NAME["NetworkPolicy", "student-clap"]["spec"]["podSelector"]["matchLabels"].items()
    for (kind, name), it in BY_NAME.items():
        spec = it.get("spec", {})
        if kind == "DaskCluster":
            templates = [spec["worker"], spec["scheduler"]]
        else:
            templates = [it] if kind == "Pod" else [spec["template"]] if "template" in spec else []
        for template in templates:
            assert labels <= template["metadata"]["labels"].items(), name
    service = BY_NAME["Service", "featurize-scheduler"]["spec"]["selector"].items()
    assert service <= BY_NAME["Deployment", "featurize-scheduler"]["spec"]["template"]["metadata"]["labels"].items()
