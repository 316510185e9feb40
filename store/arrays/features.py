"""One recipe's features: a strip of one-byte codes per track, one shard per track.

Guarantee: a strip is written before it is committed, in one object that appears whole; each inner chunk carries a
crc32c. Tasks may write strips of different rows at once; only the stage's driver commits them.
Cost: see `shard`; stores whose shards are of another make are read and written through zarr.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from student_clap.config.runtime.text import reason
from student_clap.store.arrays.feature_arrays import DECODER, NOT_MADE, STRIPS, quiet
from student_clap.store.arrays.metadata import read_document
from student_clap.store.arrays.shard import ShardFormat
from student_clap.store.arrays.tracks import (
    array,
    read_column,
    read_strings,
    update_column,
)
from student_clap.store.arrays.windows import window_index
from student_clap.store.layout.codes import MISSING, copy_runs, dequantise_columns
from student_clap.store.layout.frame_order import from_recipe_attribute, stored_runs
from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.runs import Run, n_columns, runs_of
from student_clap.store.layout.strip import StripLayout, frame_index, strip_frames, strip_layout, used_columns
from student_clap.store.storage.base import Storage
from student_clap.store.storage.errors import CorruptShardError, MissingFeaturesError, StoreError

_PART = 2  # of a strip not more than 1 / _PART is read in parts; of more, all of the file is


class Features:
    """The features of one recipe. Obtain it from `FeatureStore.features`."""

    def __init__(self, group: zarr.Group, recipe: Recipe, n_tracks: int, storage: Storage) -> None:
        self._group = group
        self._shards = storage / STRIPS / "c"
        self._format = ShardFormat.of(read_document(storage / STRIPS))
        _, self._order = from_recipe_attribute(read_document(storage)["attributes"]["recipe"])
        self.recipe = recipe
        self._n_tracks = n_tracks

    def n_samples(self) -> npt.NDArray[np.int64]:
        """[track] samples at 48 kHz after the cap; 0 no features yet, -1 failed. Raises CorruptColumnError."""
        return read_column(array(self._group, "n_samples"), 0, self._n_tracks)

    def errors(self, begin: int = 0, end: int | None = None) -> list[str]:
        """Rows [begin, end): why a track has no features, "" if it has or was not tried. Raises CorruptColumnError."""
        end = self._n_tracks if end is None else min(end, self._n_tracks)
        return read_strings(array(self._group, "error"), begin, end)

    def made(self) -> npt.NDArray[np.bool_]:
        """[track] whether the features are complete."""
        return self.n_samples() > 0

    def decoders(self) -> npt.NDArray[np.uint8]:
        """[track] by which version of the decoding rule (see `DECODER`) a track was made; 0 where it is not recorded.

        Raises:
            CorruptColumnError: a chunk of the column is damaged or gone.
        """
        if "decoder" not in self._group:
            return np.zeros(self._n_tracks, np.uint8)
        return read_column(array(self._group, "decoder"), 0, self._n_tracks)

    def decoded_by_an_older_rule(self) -> npt.NDArray[np.bool_]:
        """[track] whether its features are complete, but were decoded by a rule below `DECODER`."""
        return self.made() & (self.decoders() < DECODER)

    def stored_bytes(self) -> int:
        """Bytes of the shards that count."""
        sizes = self._shards.row_sizes()
        return sum(sizes.get(row, 0) for row in np.flatnonzero(self.made()).tolist())

    def _shard(self, row: int) -> Storage:
        return self._shards / f"{row}/0/0"

    @property
    def shards(self) -> Storage:
        """The folder that the shards lie in."""
        return self._shards

    def shard_rows(self) -> set[int]:
        """Rows that have a shard, committed or not."""
        return set(self._shards.row_sizes())

    def delete_shard(self, row: int) -> None:
        """Remove the shard of `row`, and the temporary files that a killed writer left next to it."""
        self._shard(row).unlink()
        self._shard(row).parent.sweep()

    def write_strip(self, row: int, codes: npt.NDArray[np.uint8], n_samples: int) -> None:
        """Write the shard of `row`; `commit` makes it count.

        Args:
            row: the track's row.
            codes: [mel, frame] as `strip_layout(n_samples, recipe)` orders them, 1..255.
            n_samples: of the audio they were made from.

        Raises:
            StoreError: the shape does not fit `n_samples`, or a code is the fill value.
        """
        expected = (self.recipe.n_mels, strip_frames(n_samples, self.recipe))
        if codes.shape != expected or codes.dtype != np.uint8:
            raise StoreError(
                f"row {row}: strip is {codes.dtype} {codes.shape}; {n_samples} samples need uint8 {expected}"
            )
        if codes.min() == MISSING:
            raise StoreError(f"row {row}: the strip holds the code {MISSING}, which means missing")
        shard = self._shard(row)
        shard.parent.sweep()
        stored = self._in_order(codes, strip_layout(n_samples, self.recipe))
        if self._format is not None:
            shard.write(self._format.encode(stored))
            return
        mel = self._mel
        whole = np.full((1, *mel.shape[1:]), MISSING, np.uint8)
        whole[0, :, : codes.shape[1]] = stored
        mel[row : row + 1] = whole

    def commit(self, rows: list[int], n_samples: list[int], errors: list[str]) -> None:
        """Record the outcome of `rows`. The driver alone calls this.

        Args:
            rows: the tracks' rows.
            n_samples: per row, at 48 kHz after the cap; NOT_MADE or FAILED where there are no features.
            errors: per row, why it failed; "" where it did not.

        Raises:
            CorruptColumnError: a chunk of the table is damaged.
            StoreError: it cannot be written.
        """
        at = np.asarray(rows, np.int64)
        update_column(array(self._group, "error"), at, np.array(errors, dtype=np.dtypes.StringDType()))
        samples = np.asarray(n_samples, np.int64)
        update_column(array(self._group, "decoder"), at, np.where(samples == NOT_MADE, 0, DECODER).astype(np.uint8))
        update_column(array(self._group, "n_samples"), at, samples)

    def strip(self, row: int, n_samples: int | None = None) -> npt.NDArray[np.uint8]:
        """The strip of `row`, [mel, frame] codes 1..255.

        Args:
            row: the track's row.
            n_samples: the row's value of `n_samples()`, if the caller has it at hand.

        Raises:
            MissingFeaturesError: the track is not made, or its shard is gone or incomplete.
            CorruptShardError: the shard fails its checksum.
        """
        if n_samples is None:
            n_samples = self._n_samples_of(row)
        return self._codes(row, n_samples, None)

    def columns(
        self, row: int, n_samples: int, index: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Those columns of the strip of `row` that `index` names; only the chunks that hold them are read.

        Args:
            row: the track's row.
            n_samples: the row's value of `n_samples()`.
            index: [segment, frame] columns of the strip, as `frame_index` and `window_index` give them.

        Returns:
            [mel, frame] codes 1..255, in the order of the strip, and [segment, frame] the index into them. Raises as
            `strip` does; damage in other chunks is not seen.
        """
        columns, within = used_columns(index)
        return self._codes(row, n_samples, runs_of(columns)), within

    def fill(self, row: int, n_samples: int, runs: Sequence[Run], out: npt.NDArray[np.uint8]) -> None:
        """As `columns`, of runs of columns, rising and apart, into `out`, [mel, frame], which a failure spoils."""
        self._codes(row, n_samples, runs, out)

    def _codes(
        self, row: int, n_samples: int, runs: Sequence[Run] | None, out: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """[mel, frame] codes of some runs of columns of a strip; None: of all. Raises as `strip` does."""
        try:
            return self._stored_codes(row, n_samples, runs, out)
        except (CorruptShardError, MissingFeaturesError):
            if n_samples <= 0 or not self._shard(row).forget():
                raise
            return self._stored_codes(row, n_samples, runs, out)

    def _stored_codes(
        self, row: int, n_samples: int, runs: Sequence[Run] | None, out: npt.NDArray[np.uint8] | None
    ) -> npt.NDArray[np.uint8]:
        """As `_codes`, from a copy of the shard too that may be older than the table."""
        if n_samples <= 0:
            raise MissingFeaturesError(f"row {row} has no {self.recipe.name} features; run `student-clap featurize`")
        layout = strip_layout(n_samples, self.recipe)
        wanted = [(0, layout.n_frames)] if runs is None else runs
        codes = np.empty((self.recipe.n_mels, n_columns(wanted)), np.uint8) if out is None else out
        try:
            self._read(row, layout, wanted, codes)
        except (ValueError, RuntimeError) as error:
            if runs is None:
                raise self._damaged(row, error) from error
            # The shard may have been replaced between two reads; if it is damaged, this says so.
            copy_runs(self._stored_codes(row, n_samples, None, None), runs, codes)
        if codes.size and codes.min() == MISSING:
            raise MissingFeaturesError(
                f"row {row} is committed, but its {self.recipe.name} shard is gone or incomplete; "
                "`student-clap store repair --deep`, then `student-clap featurize`, makes it again"
            )
        return codes

    def test_shard(self, row: int) -> None:
        """Test the shard of a row of which it is not known how many samples it has.

        Raises:
            MissingFeaturesError: there is none.
            CorruptShardError: it fails its checksum.
        """
        try:
            if self._format is None:
                np.asarray(self._mel[row])
            else:
                self._format.test(self._shard(row).read_bytes())
        except FileNotFoundError as error:
            raise MissingFeaturesError(f"row {row} has no {self.recipe.name} shard") from error
        except (ValueError, RuntimeError) as error:
            raise self._damaged(row, error) from error

    def _damaged(self, row: int, error: Exception) -> CorruptShardError:
        return CorruptShardError(
            f"row {row}: the {self.recipe.name} shard is damaged ({reason(error)}); "
            "`student-clap store repair --deep`, then `student-clap featurize`, makes it again"
        )

    def _read(self, row: int, layout: StripLayout, runs: Sequence[Run], out: npt.NDArray[np.uint8]) -> None:
        """Fill `out`, MISSING where there are no codes. Raises ValueError, RuntimeError where they are damaged."""
        n_frames = layout.n_frames
        stored = stored_runs(layout, self.recipe, self._order, runs)
        if self._format is None:
            copy_runs(np.asarray(self._mel[row, :, :n_frames]), stored, out)
            return
        shard = self._shard(row)
        try:
            if out.shape[1] * _PART <= n_frames:
                self._format.decode_parts(shard.read_parts, n_frames, stored, out)
            else:
                self._format.decode(shard.read_bytes(), n_frames, stored, out)
        except FileNotFoundError:
            out.fill(MISSING)

    def _in_order(self, codes: npt.NDArray[np.uint8], layout: StripLayout) -> npt.NDArray[np.uint8]:
        """A strip as it is stored, [mel, frame]."""
        stored = np.empty_like(codes)
        begin = 0
        for first, end in stored_runs(layout, self.recipe, self._order, [(0, layout.n_frames)]):
            stored[:, first:end] = codes[:, begin : begin + end - first]
            begin += end - first
        return stored

    @property
    def _mel(self) -> zarr.Array[Any]:
        with quiet():
            return array(self._group, STRIPS)

    def _n_samples_of(self, row: int) -> int:
        return int(read_column(array(self._group, "n_samples"), row, row + 1)[0])

    def segments(self, row: int) -> npt.NDArray[np.float32]:
        """The segments of `row` as production would make them, [segment, mel, frame] dB, within half a step.

        Raises MissingFeaturesError and CorruptShardError as `strip` does.
        """
        n_samples = self._n_samples_of(row)
        return self.decibels(self.strip(row, n_samples), n_samples)

    def windows(self, row: int, *, length_s: float, hop_s: float) -> npt.NDArray[np.float32]:
        """Segments of another length or hop, [window, mel, frame] dB; `arrays.windows` defines them exactly.

        Raises:
            StoreError: the strip has no such windows; or as `strip` does.
        """
        n_samples = self._n_samples_of(row)
        codes = self.strip(row, n_samples)
        return dequantise_columns(
            codes, window_index(n_samples, self.recipe, length_s=length_s, hop_s=hop_s), self.recipe
        )

    def decibels(self, codes: npt.NDArray[np.uint8], n_samples: int) -> npt.NDArray[np.float32]:
        """The segments of a strip that was read, [segment, mel, frame] dB."""
        return dequantise_columns(codes, frame_index(n_samples, self.recipe), self.recipe)
