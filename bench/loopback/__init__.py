"""More of the outside world on 127.0.0.1 for tests and benchmarks: what the demo's world does not have.

The database, the media servers and the tunes are in `student_clap.export.demo`. Nothing here listens beyond this
machine.
"""
