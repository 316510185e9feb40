"""The worlds of other rooms' tests, for faults that only a whole world shows."""

from tests.ingest.conftest import make_world, observer, servers, tune_writer

__all__ = ["make_world", "observer", "servers", "tune_writer"]
