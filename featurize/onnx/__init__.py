"""A model file of any maker, teacher or student: reading its graph, which input it takes, running it. No store is
written here, and nothing is known of AudioMuse-AI's contract.

onnxruntime is loaded through here, without its telemetry: its builds of PyPI (seen in 1.32) would report to their maker
and keep a device id in the user's home. Who wants that sets ORT_DISABLE_TELEMETRY=0.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when onnxruntime is loaded
