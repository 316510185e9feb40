"""`student-clap` without the seconds of its imports: a process that has imported them and forks for each command.

A program of its own: `python warm.py SOCKET`. `CLIENT` is the text of a `student-clap` that asks it: the command gets
the client's arguments, directory, environment and three streams, and the client ends with the command's exit status.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback
import types
from contextlib import suppress

HEAVY = (
    *(
        "av",
        "dask",
        "distributed",
        "ducc0",
        "jinja2",
        "numcodecs",
        "onnx",
        "onnxruntime",
        "pandas",
        "psycopg2",
        "pyarrow",
    ),
    *(
        "pyarrow.parquet",
        "requests",
        "ruamel.yaml",
        "scipy.stats",
        "sklearn.decomposition",
        "sklearn.linear_model",
        "soundfile",
    ),
    *("soxr", "tabulate", "torch", "torch.utils.data", "tqdm", "zarr"),
    *("ingest.command", "featurize.command", "train.command", "export.command", "export.evaluate_command"),
)
CLIENT = """\
#!{python} -IS
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    server.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
    server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.makefile().read() or 70))
"""


def serve(path: str) -> None:
    """Listen, until killed."""
    for name in HEAVY:
        with suppress(ModuleNotFoundError):
            importlib.import_module(f"student_clap.{name}" if name.endswith("command") else name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            if not os.fork():
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _attend(client)
                os._exit(0)
            client.close()


def _attend(client: socket.socket) -> None:
    _, ancillary, _, _ = client.recvmsg(1, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i", ancillary[0][2])
    arguments, folder, environment = json.loads(client.makefile().read())
    pid = os.fork()
    if not pid:
        client.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _become(arguments, folder, environment)
    for stream in streams:
        os.close(stream)
    _, status = os.waitpid(pid, 0)
    client.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())


def _become(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be the command: as `python -m student_clap.config` would, in the client's place."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["student-clap", *arguments]
    sys.modules["__main__"] = types.ModuleType("__main__")
    status = 70
    try:
        runpy.run_module("student_clap.config", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  what a command ended with is shown by the page
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
