"""TensorBoard's events of a run: `<run>/tensorboard/`, a scalar per metric and epoch.

The event file is written here, without TensorBoard: records of length, data and two checksums (TensorFlow's
tfrecord), each a protocol buffer of a few fields (tensorboard/compat/proto/event.proto).

Guarantee: after opening, the file says what metrics.jsonl says, so a run that goes on from an earlier checkpoint shows
no epoch twice; an epoch is on the file system when `epoch` returns. What cannot be written is said once and stops no
training: metrics.jsonl has it all. Cost: some 400 bytes per epoch.
"""

from __future__ import annotations

import json
import logging
import struct
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Self

import google_crc32c

from student_clap.train.runs.history import Metrics, figure, read_history

_log = logging.getLogger(__name__)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIDES = {"train": "train", "val": "held_out"}


class EventLog:
    """Opens a new event file in place of those that are there, with the epochs of the run's metrics.jsonl.

    Only the process that writes metrics.jsonl may have one.
    """

    def __init__(self, run_directory: Path) -> None:
        self.directory = run_directory / "tensorboard"
        self._file: BinaryIO | None = None
        try:
            self._open(run_directory)
        except OSError as error:
            self._give_up(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def epoch(self, metrics: Metrics) -> None:
        """Add an epoch: its line of metrics.jsonl."""
        try:
            self._add(metrics, time.time())
            self._flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file. Later epochs are dropped."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self, run_directory: Path) -> None:
        self.directory.mkdir(exist_ok=True)
        for path in self.directory.glob("events.out.tfevents.*"):
            path.unlink()
        now = time.time()
        self._file = (self.directory / f"events.out.tfevents.{now:.0f}.student-clap").open("wb")
        self._file.write(_record(_double(1, now) + _bytes(3, b"brain.Event:2")))
        # A TensorBoard that watches forgets what it read from the file before.
        self._file.write(_record(_double(1, now) + _integer(2, 0) + _bytes(7, _integer(1, 1))))
        then = _begun(run_directory, now)
        for metrics in read_history(run_directory / "metrics.jsonl").epochs:
            then = min(then + (figure(metrics, "seconds") or 0.0), now)
            self._add(metrics, then)
        self._flush()

    def _add(self, metrics: Metrics, wall_time: float) -> None:
        if self._file is None:
            return
        values = b"".join(
            _bytes(1, _bytes(1, tag(name).encode()) + _float(2, float(value)))
            for name, value in metrics.items()
            if name != "epoch"
        )
        event = _double(1, wall_time) + _integer(2, int(metrics["epoch"])) + _bytes(5, values)
        self._file.write(_record(event))

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def _give_up(self, error: OSError) -> None:
        _log.warning("%s: TensorBoard's events cannot be written (%s); the run goes on without", self.directory, error)
        with suppress(OSError):  # it tries once more to write
            self.close()


def tag(name: str) -> str:
    """Where TensorBoard shows a metric: what both sides have stands together.

    >>> tag("val_cosine")
    'cosine/held_out'
    """
    side, _, what = name.partition("_")
    if side in _SIDES and what:
        return f"{what}/{_SIDES[side]}"
    return f"run/{name}"


def _begun(run_directory: Path, now: float) -> float:
    """When the run began, seconds since 1970, as far as run.json says so."""
    try:
        begun = json.loads((run_directory / "run.json").read_text(encoding="utf-8"))["begun"]
        return min(datetime.fromisoformat(begun).timestamp(), now)
    except (OSError, ValueError, KeyError, TypeError):
        return now


# --- records and protocol buffers


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    """tfrecord's masked CRC-32C."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _integer(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _key(field, _FIXED64) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        packed = struct.pack("<f", float("inf") if value > 0 else float("-inf"))
    return _key(field, _FIXED32) + packed


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(value)) + value
