"""What a user may set: one frozen, strict pydantic model per section of config.yaml.

The sections and keys are those of the original student_clap README (database, jellyfin, audio, model, training), so
its config.yaml is read as it stands; the rest has defaults. Unknown keys, wrong types and impossible combinations are
refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ByteSize, Field, SecretStr, model_validator

from student_clap.config.choices import Choice
from student_clap.config.learning import (
    EMBEDDING_DIM,
    LOSS_TERMS,
    AugmentationConfig,
    LossConfig,
    ModelConfig,
    SplitConfig,
    TrainingConfig,
)
from student_clap.config.presets import MEL_PRESETS, SEGMENT_SAMPLES, MelPreset
from student_clap.config.section import PositiveFloat, PositiveInt, Section, Text

__all__ = [
    "EMBEDDING_DIM",
    "AudioConfig",
    "AudioMuseConfig",
    "AugmentationConfig",
    "Config",
    "DatabaseConfig",
    "FeaturizeConfig",
    "FolderConfig",
    "IngestConfig",
    "LoggingConfig",
    "LossConfig",
    "LyrionConfig",
    "MediaServerConfig",
    "ModelConfig",
    "PlexConfig",
    "Section",
    "SplitConfig",
    "StoreConfig",
    "SubsonicConfig",
    "TableConfig",
    "TeacherConfig",
    "Text",
    "TrainingConfig",
]


def _http_url(value: str) -> str:
    if value and not re.match(r"https?://[^/\s]+", value):
        raise ValueError("must start with http:// or https:// and name a host")
    if "@" in value:  # in the path too: a password may have a slash
        raise ValueError("must not carry a user or a password; use the keys made for them")
    if "?" in value or "#" in value:
        raise ValueError("must end with the path; secrets go into the keys made for them")
    return value.rstrip("/")


HttpUrl = Annotated[str, AfterValidator(_http_url)]


class DatabaseConfig(Section):
    """AudioMuse-AI's PostgreSQL. `host` may be a socket directory."""

    host: str = "localhost"
    port: Annotated[int, Field(gt=0, lt=65536)] = 5432
    database: str = "audiomusedb"  # AudioMuse-AI's own default; some guides say `audiomuse`
    user: str = "audiomuse"
    password: SecretStr | None = None  # None: whatever ~/.pgpass or the server's trust rules say
    connect_timeout_s: PositiveInt = 30
    statement_timeout_s: PositiveInt = 600  # AudioMuse-AI's own limit


class MediaServerConfig(Section):
    """A Jellyfin or Emby server. The token is an API key from its dashboard."""

    url: HttpUrl = ""
    user_id: str = ""
    token: SecretStr | None = None


class SubsonicConfig(Section):
    """Navidrome or any other OpenSubsonic server: either an API key, or user and password."""

    url: HttpUrl = ""
    user: str = ""
    password: SecretStr | None = None
    api_key: SecretStr | None = None


class LyrionConfig(Section):
    """A Lyrion Music Server; user and password only where it asks for them."""

    url: HttpUrl = ""
    user: str = ""
    password: SecretStr | None = None


class PlexConfig(Section):
    """A Plex server. The token is an X-Plex-Token."""

    url: HttpUrl = ""
    token: SecretStr | None = None


class FolderConfig(Section):
    """A folder of audio that replaces downloads: files are found by track id (file stem) or by the database's path."""

    path: Path | None = None


class AudioMuseConfig(Section):
    """AudioMuse-AI's own HTTP interface, for those who cannot reach its database."""

    url: HttpUrl = ""
    token: SecretStr | None = None  # its API_TOKEN


class TableConfig(Section):
    """A file of track ids and vectors."""

    path: Path | None = None  # .npz or .parquet
    tracks: Path | None = None  # .csv with track_id and any of title, artist, album, path; fills in what `path` lacks


class TeacherConfig(Section):
    """Which model made the vectors. A database does not say, so the user declares it."""

    name: str = "unknown"
    model: Path | None = None  # the teacher's ONNX, for ingest.vectors: teacher
    # The mel of a teacher that takes one; a teacher that takes a waveform needs none of these.
    hop_length_stft: Annotated[int, Field(gt=0)] = 480  # samples; 320 made the vectors of AudioMuse-AI up to v0.8


class IngestConfig(Section):
    """Where vectors and audio come from, and how audio is fetched."""

    # database: AudioMuse-AI's PostgreSQL; api: its HTTP interface; teacher: the ONNX of teacher.model run over
    # folder.path; table: a file of ids and vectors.
    vectors: Literal["database", "api", "teacher", "table"] = "database"
    source: Literal["jellyfin", "emby", "navidrome", "lyrion", "plex", "folder"] = "jellyfin"
    server: str | None = None  # name or id in `music_servers`; None: the default server
    # "/music=/mnt/nas/music": a path of the server that begins so is read from this machine's folder instead
    map: tuple[str, ...] = ()
    cache_dir: Path = Path("data/audio")
    max_cache: ByteSize | None = None  # such as 50GB: most that downloads may take; featurized audio makes room first
    concurrency: Annotated[int, Field(gt=0, le=64)] = 4  # downloads at a time; a home server has few disks
    timeout_s: PositiveFloat = 60.0  # connect, and between two bytes
    retries: Annotated[int, Field(ge=0, le=20)] = 5  # after connection errors, 429 and 5xx
    backoff_s: Annotated[float, Field(ge=0)] = 0.5  # first wait; doubles every time


class AudioConfig(Section):
    """Segments and mel. A preset gives the mel; keys set beside it replace its values."""

    preset: Literal["audiomuse", "original", "clap"] = "audiomuse"
    sample_rate: PositiveInt = 48_000  # Hz
    segment_length: PositiveInt = SEGMENT_SAMPLES  # samples, 10 s
    hop_length: PositiveInt = SEGMENT_SAMPLES // 2  # samples, 5 s
    n_mels: Annotated[int | None, Field(gt=0)] = None
    n_fft: Annotated[int | None, Field(gt=0)] = None  # samples
    hop_length_stft: Annotated[int | None, Field(gt=0)] = None  # samples
    fmin: Annotated[float | None, Field(ge=0)] = None  # Hz
    fmax: Annotated[float | None, Field(gt=0)] = None  # Hz
    max_duration_s: PositiveFloat = 600.0  # production embeds no more than this

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.sample_rate != 48_000:
            raise ValueError(f"sample_rate is {self.sample_rate}; the teacher hears 48000 Hz only: remove the key")
        mel = self.mel
        for name in ("segment_length", "hop_length"):
            value = getattr(self, name)
            if value % mel.hop_samples:
                raise ValueError(
                    f"{name} {value} is no multiple of hop_length_stft {mel.hop_samples}; choose one that is"
                )
        if self.hop_length > self.segment_length:
            raise ValueError(f"hop_length {self.hop_length} is longer than segment_length {self.segment_length}")
        if self.segment_length <= mel.n_fft:
            raise ValueError(f"segment_length {self.segment_length} must be longer than n_fft {mel.n_fft}")
        if mel.n_fft % 2:
            raise ValueError(f"n_fft {mel.n_fft} is odd; use an even number")
        if not mel.fmin_hz < mel.fmax_hz <= self.sample_rate / 2:
            raise ValueError(f"need fmin < fmax <= {self.sample_rate // 2} Hz, got {mel.fmin_hz:g} and {mel.fmax_hz:g}")
        if self.max_duration_s * self.sample_rate < self.segment_length:
            raise ValueError(f"max_duration_s {self.max_duration_s:g} is shorter than one segment")
        return self

    @property
    def mel(self) -> MelPreset:
        """The mel's parameters: the preset's, with the keys set beside it."""
        base = MEL_PRESETS[self.preset]
        return MelPreset(
            n_mels=base.n_mels if self.n_mels is None else self.n_mels,
            n_fft=base.n_fft if self.n_fft is None else self.n_fft,
            hop_samples=base.hop_samples if self.hop_length_stft is None else self.hop_length_stft,
            fmin_hz=base.fmin_hz if self.fmin is None else self.fmin,
            fmax_hz=base.fmax_hz if self.fmax is None else self.fmax,
        )


class StoreConfig(Section):
    """Where the feature store lies: a directory or an object-store URL."""

    path: str = "data/features.zarr"


class FeaturizeConfig(Section):
    """The Dask cluster that makes the features: this machine, a scheduler that runs already, or batch jobs."""

    workers: Annotated[int | None, Field(gt=0)] = None  # processes of a LocalCluster; None: one per core
    scheduler: str | None = None  # address of a running scheduler; None: a LocalCluster
    scheduler_file: Path | None = None  # where `dask scheduler --scheduler-file` wrote its address
    wait_s: PositiveFloat = 300.0  # for the scheduler file to appear, and for a running scheduler to have workers
    tracks_per_task: PositiveInt = 2
    memory_limit: str = "2GB"  # per worker; a 600 s track needs 0.45 GB
    # This machine, or a batch system.
    cluster: Annotated[str, Choice("student_clap.featurize.cluster.registry")] = "local"
    # The rest is for batch systems. A key that is None is left to ~/.config/dask/jobqueue.yaml, then to the system.
    jobs: PositiveInt = 1  # batch jobs that run workers; one that ends is replaced while there is work
    cores_per_job: PositiveInt = 4  # one worker process each
    memory_per_job: str | None = None  # such as 16GB; None: memory_limit for each worker and 1 GB for what starts them
    walltime: str = "02:00:00"  # of a job, as sbatch writes it; workers retire shortly before
    queue: str | None = None  # partition
    account: str | None = None
    interface: str | None = None  # network interface that workers and this machine share, such as ib0
    job_extra: tuple[str, ...] = ()  # further #SBATCH options, such as --constraint=avx2
    job_prologue: tuple[str, ...] = ()  # shell lines before the workers start, such as `module load python`
    job_logs: Path = Path("data/slurm")  # what the jobs print; must be on the shared file system

    @model_validator(mode="after")
    def _one_cluster(self) -> Self:
        given = [name for name in ("scheduler", "scheduler_file") if getattr(self, name) is not None]
        given += [f"cluster: {self.cluster}"] if self.cluster != "local" else []
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude one another; remove all but one")
        return self


class LoggingConfig(Section):
    """How much is printed."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Config(Section):
    """The whole of config.yaml."""

    database: DatabaseConfig = DatabaseConfig()
    jellyfin: MediaServerConfig = MediaServerConfig()
    emby: MediaServerConfig = MediaServerConfig()
    navidrome: SubsonicConfig = SubsonicConfig()
    lyrion: LyrionConfig = LyrionConfig()
    plex: PlexConfig = PlexConfig()
    folder: FolderConfig = FolderConfig()
    audiomuse: AudioMuseConfig = AudioMuseConfig()
    table: TableConfig = TableConfig()
    teacher: TeacherConfig = TeacherConfig()
    ingest: IngestConfig = IngestConfig()
    audio: AudioConfig = AudioConfig()
    store: StoreConfig = StoreConfig()
    featurize: FeaturizeConfig = FeaturizeConfig()
    model: ModelConfig = ModelConfig()
    split: SplitConfig = SplitConfig()
    loss: LossConfig = LossConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig = TrainingConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _one_name_per_weight(self) -> Self:
        for name, old in (("mse", self.training.mse_weight), ("cosine", self.training.cosine_weight)):
            if old is not None and getattr(self.loss, name) is not None:
                raise ValueError(f"training.{name}_weight and loss.{name} are the same setting; remove one of them")
        _ = self.objective
        return self

    @property
    def objective(self) -> LossConfig:
        """`loss`, with the weights that the training section gives by their original names.

        Where those stand without a `loss` section they are the whole loss, as in the original README.
        """
        training, loss = self.training, self.loss
        old = {"mse": training.mse_weight, "cosine": training.cosine_weight}
        named = {name: weight for name, weight in old.items() if weight is not None}
        if not named:
            return loss
        rest = {} if "preset" in loss.model_fields_set else dict.fromkeys(LOSS_TERMS, 0.0)
        return LossConfig.model_validate({**rest, **loss.model_dump(exclude_unset=True), **named})
