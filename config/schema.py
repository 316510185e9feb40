"""The settings: one frozen, strict pydantic model per section of config.yaml.

The sections and keys are those of the original student_clap README (database, jellyfin, audio, model, training), so
its config.yaml is read as it stands; the rest has defaults. Unknown keys, wrong types and impossible combinations are
refused. The docstring below a field is its description in the JSON schema and in docs/config.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, SecretStr, model_validator

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
from student_clap.config.presets import (
    MAX_BANDS,
    MAX_FRAMES,
    MAX_STRIP_BYTES,
    MAX_VIEWS,
    MEL_PRESETS,
    SEGMENT_SAMPLES,
    MelPreset,
)
from student_clap.config.quantities import HostOrSocket, LocalPath, MemorySize, StorePath, Walltime
from student_clap.config.runtime.text import readable_bytes
from student_clap.config.section import (
    HttpUrl,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    Source,
    Text,
    Unit,
)
from student_clap.config.servers import FolderConfig, LyrionConfig, MediaServerConfig, PlexConfig, SubsonicConfig

__all__ = [
    "EMBEDDING_DIM",
    "AudioConfig",
    "AudioMuseConfig",
    "AugmentationConfig",
    "Config",
    "DatabaseConfig",
    "FeaturizeConfig",
    "IngestConfig",
    "LoggingConfig",
    "LossConfig",
    "ModelConfig",
    "Section",
    "SplitConfig",
    "StoreConfig",
    "TableConfig",
    "TeacherConfig",
    "Text",
    "TrainingConfig",
]


class DatabaseConfig(Source):
    """AudioMuse-AI's PostgreSQL."""

    host: HostOrSocket = "localhost"
    """Host name, or the directory of a socket."""
    port: Annotated[int, Field(gt=0, lt=65536)] = 5432
    """TCP port."""
    database: str = "audiomusedb"
    """Name of the database. This is AudioMuse-AI's own default; some guides say `audiomuse`."""
    user: str = "audiomuse"
    """Database user; reading is enough."""
    password: SecretStr | None = None
    """Password of `user`; null: ~/.pgpass or the server's trust rules decide."""
    connect_timeout_s: PositiveInt = 30
    """Longest wait for a connection."""
    statement_timeout_s: Annotated[int, Field(gt=0, le=2_000_000)] = 600
    """Longest time of one query. This is AudioMuse-AI's own limit."""

    @property
    def is_named(self) -> bool:
        """Whether the configuration names a database, rather than none."""
        return bool({"host", "database", "user", "password"} & self.model_fields_set)


class AudioMuseConfig(Source):
    """AudioMuse-AI itself: its HTTP interface, for users who cannot reach its database, and its model folder."""

    url: HttpUrl = ""
    """Address of AudioMuse-AI, such as `http://nas:8000`."""
    token: SecretStr | None = None
    """Its API_TOKEN."""
    model_dir: LocalPath | None = None
    """The folder that it loads its models from, as this machine sees it: where `deploy` puts a model without `--to`,
    and where `doctor` and `status` look for the live one.
    """


class TableConfig(Source):
    """A file of track ids and vectors."""

    path: LocalPath | None = None
    """The file, .npz or .parquet."""
    tracks: LocalPath | None = None
    """A .csv file with track_id and any of title, artist, album, path; it fills in the columns that `path` lacks."""


class TeacherConfig(Section):
    """The model that made the vectors. A database does not name it, so the user declares it."""

    name: str = "unknown"
    """Name that is recorded in the store and in the exported ONNX, such as `dclap-epoch-36`."""
    model: LocalPath | None = None
    """The teacher's ONNX. Where it is set, `featurize` has it hear every segment."""
    hop_length_stft: Annotated[PositiveInt, Unit("samples")] = 480
    """Hop of the mel of a teacher that takes one; 320 made the vectors of AudioMuse-AI up to v0.8. A teacher that takes
    a waveform does not need it.
    """
    hop_s: PositiveFloat = 5.0
    """From the start of a segment to the next, for the vectors that `featurize` makes: production's 5 s, or a part of
    it, such as 2.5: more targets per track, each 1 KB and a run of the teacher.
    """
    views: Annotated[int, Field(ge=0, le=MAX_VIEWS)] = 0
    """Changed copies of each track that the teacher hears too: a minute from somewhere in it, at another speed and with
    other bands, in half of them with an earlier track beneath. What it says of them is learnt in the tracks' stead by
    turns (`augmentation.views`).
    """
    provider: str = "auto"
    """Where the teacher computes, by the name of onnxruntime's execution provider: cpu, cuda, ... auto: a GPU where
    onnxruntime can use one.
    """

    @property
    def declared_hop(self) -> int | None:
        """`hop_length_stft` where the user set it; else None, and the model's file may say."""
        return self.hop_length_stft if "hop_length_stft" in self.model_fields_set else None


class IngestConfig(Section):
    """Where vectors and audio come from, and how audio is fetched."""

    vectors: Annotated[str, Choice("student_clap.ingest.vectors.open")] = "database"
    """Source of the vectors. database: AudioMuse-AI's PostgreSQL; api: its HTTP interface; table: a file of ids and
    vectors; none: every track of `source` gets a row, and `featurize --teacher` makes the vectors (before: `teacher`).
    """
    source: Annotated[str, Choice("student_clap.config.servers")] = "jellyfin"
    """Source of the audio: a media server, whose section of this name has to be filled in, or a folder."""
    server: str | None = None
    """Name or id in AudioMuse-AI's `music_servers`; null: the default server."""
    map: tuple[str, ...] = ()
    """Paths of the server that this machine has too, such as `/music=/mnt/nas/music`: a file whose path on the server
    begins with the first is read from the second instead of being downloaded.
    """
    cache_dir: LocalPath = Path("data/audio")
    """Folder of downloaded audio."""
    max_cache: Annotated[ByteSize | None, Unit("bytes")] = None
    """Largest size of the downloads, such as `50GB`; audio that was featurized makes room first. null: no limit."""
    concurrency: Annotated[int, Field(gt=0, le=64)] = 4
    """Downloads at a time; a home server has few disks."""
    timeout_s: PositiveFloat = 60.0
    """Longest wait for a connection, and between two parts of an answer."""
    retries: Annotated[int, Field(ge=0, le=20)] = 5
    """Tries again after connection errors, 429 and 5xx."""
    backoff_s: NonNegativeFloat = 0.5
    """First wait before a retry; it doubles every time."""


class AudioConfig(Section):
    """Segments and mel. A preset gives the mel; a key next to it replaces the preset's value."""

    preset: Literal["audiomuse", "original", "clap"] = "audiomuse"
    """The mel by name: audiomuse (AudioMuse-AI today), original (the original README) or clap (the LAION teacher)."""
    sample_rate: Annotated[PositiveInt, Unit("Hz")] = 48_000
    """Sample rate; the teacher takes 48000 Hz only."""
    segment_length: Annotated[PositiveInt, Unit("samples")] = SEGMENT_SAMPLES
    """Length of a segment, 10 s."""
    hop_length: Annotated[PositiveInt, Unit("samples")] = SEGMENT_SAMPLES // 2
    """From the start of a segment to the next, 5 s."""
    n_mels: Annotated[Annotated[int, Field(gt=0, le=MAX_BANDS)] | None, Unit("bands")] = None
    """Mel bands; null: the preset's, as for the keys below."""
    n_fft: Annotated[PositiveInt | None, Unit("samples")] = None
    """Length of the STFT's window; even."""
    hop_length_stft: Annotated[PositiveInt | None, Unit("samples")] = None
    """Hop of the STFT; divides segment_length and hop_length."""
    fmin: Annotated[NonNegativeFloat | None, Unit("Hz")] = None
    """Lower end of the lowest band."""
    fmax: Annotated[PositiveFloat | None, Unit("Hz")] = None
    """Upper end of the highest band."""
    max_duration_s: PositiveFloat = 600.0
    """Longest part of a track that is used; production embeds no more than this."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.sample_rate != 48_000:
            raise ValueError(f"sample_rate is {self.sample_rate}; the teacher takes 48000 Hz only: remove the key")
        mel = self.mel
        for name in ("segment_length", "hop_length"):
            value = getattr(self, name)
            if value % mel.hop_samples:
                raise ValueError(
                    f"{name} {value} is not a multiple of hop_length_stft {mel.hop_samples}; choose one that is"
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
        if (frames := mel.frames(self.segment_length)) > MAX_FRAMES:
            raise ValueError(
                f"segment_length {self.segment_length} has {frames} frames at hop_length_stft {mel.hop_samples}; "
                f"expected at most {MAX_FRAMES}: choose a shorter segment_length"
            )
        self._check_size()
        return self

    def _check_size(self) -> None:
        """Raise ValueError where the features of the longest track are larger than the store takes."""
        mel = self.mel
        n_frames = mel.most_frames(
            max_samples=int(self.max_duration_s * self.sample_rate), segment=self.segment_length, hop=self.hop_length
        )
        if (n_bytes := n_frames * mel.n_mels) > MAX_STRIP_BYTES:
            raise ValueError(
                f"max_duration_s {self.max_duration_s:g} makes {readable_bytes(n_bytes)} of features of one track, at "
                f"n_mels {mel.n_mels}, hop_length {self.hop_length}, n_fft {mel.n_fft} and hop_length_stft "
                f"{mel.hop_samples}; expected at most {readable_bytes(MAX_STRIP_BYTES)}: choose a shorter "
                "max_duration_s (production embeds no more than 600 s)"
            )

    @property
    def mel(self) -> MelPreset:
        """The mel's parameters: each from its key, or from the preset where the key is not set."""
        base = MEL_PRESETS[self.preset]
        return MelPreset(
            n_mels=base.n_mels if self.n_mels is None else self.n_mels,
            n_fft=base.n_fft if self.n_fft is None else self.n_fft,
            hop_samples=base.hop_samples if self.hop_length_stft is None else self.hop_length_stft,
            fmin_hz=base.fmin_hz if self.fmin is None else self.fmin,
            fmax_hz=base.fmax_hz if self.fmax is None else self.fmax,
        )


class StoreConfig(Section):
    """The feature store."""

    path: StorePath = "data/features.zarr"
    """A directory, or `s3://BUCKET/NAME.zarr`."""
    local_cache: LocalPath | None = None
    """Folder of this machine through which a bucket's shards are read by train, evaluate, export and reembed, so that
    each is fetched once. Not used for a store in a directory. null: every reading asks the bucket.
    """
    local_cache_size: Annotated[ByteSize | None, Unit("bytes")] = None
    """Most that the folder takes, such as `20GB`; what has no room is read from the bucket. null: half of what is free
    on its disk.
    """


class FeaturizeConfig(Section):
    """The Dask cluster that makes the features: this machine, a scheduler that runs already, or batch jobs.

    The keys from `jobs` on are for batch systems. One that is null is left to ~/.config/dask/jobqueue.yaml, then to the
    batch system.
    """

    workers: PositiveInt | None = None
    """Worker processes on this machine; null: one per core."""
    scheduler: str | None = None
    """Address of a running scheduler; null: this machine alone."""
    scheduler_file: LocalPath | None = None
    """File to which `dask scheduler --scheduler-file` wrote its address."""
    wait_s: PositiveFloat = 300.0
    """Longest wait for the scheduler file to appear, and for a running scheduler to have workers."""
    tracks_per_task: Annotated[PositiveInt, Unit("tracks")] = 2
    """Tracks that a worker is given at a time."""
    memory_limit: MemorySize = "2GB"
    """Memory of a worker; a track of 600 s takes up to 0.6 GB."""
    cluster: Annotated[str, Choice("student_clap.featurize.cluster.registry")] = "local"
    """Where workers are started: on this machine, or by a batch system."""
    jobs: PositiveInt = 1
    """Batch jobs that run workers; one that ends is replaced while there is work."""
    cores_per_job: PositiveInt = 4
    """Cores of a job, with one worker process each."""
    memory_per_job: MemorySize | None = None
    """Memory of a job, such as `16GB`; null: memory_limit for each worker, and 1 GB for the process that starts them.
    """
    walltime: Walltime = "02:00:00"
    """Time limit of a job, as SLURM writes it (minutes, H:MM:SS, D-HH:MM:SS); workers retire shortly before."""
    queue: str | None = None
    """Queue, or partition, that jobs are submitted to."""
    account: str | None = None
    """Account, or project, that is charged."""
    interface: str | None = None
    """Network interface that workers and this machine share, such as `ib0`."""
    job_extra: tuple[str, ...] = ()
    """Further options for the batch system, one a line in the job's script, such as SLURM's `--constraint=avx2`."""
    job_prologue: tuple[str, ...] = ()
    """Shell lines before the workers start, such as `module load python`."""
    job_logs: LocalPath | None = None
    """Folder of the jobs' output, on the shared file system; null: `data/` and the batch system's name."""
    local_directory: str | None = None
    """Folder on a node's own disk for what workers put aside, such as `/scratch/$USER`, with the node's variables.

    null: the folder for temporary files.
    """

    @property
    def job_log_folder(self) -> Path:
        """Where jobs print to."""
        return self.job_logs or Path("data") / self.cluster

    @model_validator(mode="after")
    def _one_cluster(self) -> Self:
        given = [name for name in ("scheduler", "scheduler_file") if getattr(self, name) is not None]
        given += [f"cluster: {self.cluster}"] if self.cluster != "local" else []
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude one another; remove all but one")
        return self


class LoggingConfig(Section):
    """Log messages on stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is printed."""


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

    def hurried(self, limit_s: int) -> Self:
        """A copy for those who wait at a screen: database and media server have `limit_s` to answer, and one try."""
        database, ingest = self.database, self.ingest
        limits = {
            "connect_timeout_s": min(database.connect_timeout_s, limit_s),
            "statement_timeout_s": min(database.statement_timeout_s, limit_s),
        }
        changed = {
            "database": database.model_copy(update=limits),
            "ingest": ingest.model_copy(update={"timeout_s": min(ingest.timeout_s, float(limit_s)), "retries": 0}),
        }
        return self.model_copy(update=changed)

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
