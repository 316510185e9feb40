"""The outside world on 127.0.0.1, real protocols and all: AudioMuse-AI's PostgreSQL and a media server.

Shared by the tests, `make demo` and the benchmarks. Nothing here listens beyond this machine.
"""
