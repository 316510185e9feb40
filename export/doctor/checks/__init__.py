"""One small file per check, which ends with `CHECK = Check(...)`; the doctor takes every file of this folder."""
