"""The teacher at hand, `bench/corpus/teacher.onnx`: its name, and `ingest/teacher.py` under the name used here."""

from __future__ import annotations

from student_clap.featurize.teacher.model import Teacher as TeacherOnnx
from student_clap.featurize.teacher.model import Vectors

__all__ = ["TEACHER_NAME", "TeacherOnnx", "Vectors"]

TEACHER_NAME = "musicnn-corpus-teacher-1"
