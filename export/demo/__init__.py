"""The demo, and the world that it runs in: tunes, AudioMuse-AI's database and a media server on this machine.

The tests and the benchmarks use the same world. Nothing here listens beyond 127.0.0.1.
"""
