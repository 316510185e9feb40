import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_clap.ingest.vectors.base import EMBEDDING_BYTES, parse_vector


def as_bytes(values: np.ndarray) -> bytes:
    return values.astype("<f4").tobytes()


def with_value(value: float) -> bytes:
    values = np.ones(512, np.float32)
    values[17] = value
    return as_bytes(values)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e30))
def test_a_vector_is_normalised_whatever_its_length(seed: int, length: float) -> None:
    unit = np.random.default_rng(seed).standard_normal(512)
    unit /= np.linalg.norm(unit)
    vector = parse_vector(as_bytes(unit * length))
    assert vector.reason == ""
    assert vector.unit is not None
    assert vector.unit.dtype == np.float32
    np.testing.assert_allclose(vector.unit, unit, atol=1e-6)
    assert vector.norm == pytest.approx(length, rel=1e-5)


def test_a_vector_of_the_database_keeps_its_bits_on_a_second_pass() -> None:
    first = parse_vector(as_bytes(np.random.default_rng(0).standard_normal(512))).unit
    assert first is not None
    again = parse_vector(memoryview(first.tobytes())).unit
    assert again is not None
    np.testing.assert_allclose(again, first, atol=6e-8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (bytes(800), "800 bytes, expected 2048"),
        (bytes(EMBEDDING_BYTES - 1), "2047 bytes"),
        (bytes(2 * EMBEDDING_BYTES), "4096 bytes"),
        (with_value(np.nan), "1 values that are NaN"),
        (with_value(np.inf), "1 values that are NaN or infinite"),
        (bytes(EMBEDDING_BYTES), "all zeros"),
    ],
)
def test_an_unusable_vector_comes_with_its_reason(data: bytes, reason: str) -> None:
    vector = parse_vector(data)
    assert vector.unit is None
    assert reason in vector.reason


def test_bytes_are_read_as_little_endian() -> None:
    vector = parse_vector(b"\x00\x00\x80\x3f" + bytes(EMBEDDING_BYTES - 4))
    assert vector.unit is not None
    assert vector.unit[0] == 1.0
