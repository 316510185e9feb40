"""The same models in an older onnxruntime: do they load there, and do they answer as in the one installed here?

The older one is installed by pip into a virtual environment of its own (AudioMuse-AI's image for processors without
AVX2 has 1.19.2, which wants Python 3.12 at most). The input is a segment of noise; the same bytes go to both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import onnxruntime

# Runs in either environment: nothing but NumPy and onnxruntime is there.
_ANSWER = """
import sys
import numpy as np
import onnxruntime
answers = {}
for number, path in enumerate(sys.argv[2:]):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given, generator = session.get_inputs()[0], np.random.default_rng(number)
    if len(given.shape) == 2:
        data = generator.normal(0, 0.1, (1, 480000))
    else:
        shape = [1 if not isinstance(n, int) else n for n in given.shape[:2]]
        shape += [1001 if not isinstance(n, int) else n for n in given.shape[2:]]
        data = np.clip(generator.normal(-40, 15, shape), -100, 40)
    answers[str(number)] = session.run(None, {given.name: data.astype(np.float32)})[0]
np.savez(sys.argv[1], **answers)
"""


def main() -> int:
    """Compare and print. Returns 1 where an answer differs by more than 1e-5."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--version", default="1.19.2", help="the older one  [default: %(default)s]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        venv.create(work / "v", with_pip=True)
        older = work / "v" / "bin" / "python"
        subprocess.run(
            [older, "-m", "pip", "install", "-q", f"onnxruntime=={options.version}", "numpy"], check=True, cwd=work
        )
        answers = []
        for python in (older, Path(sys.executable)):
            out = work / f"{len(answers)}.npz"
            subprocess.run([python, "-c", _ANSWER, out, *options.models], check=True)
            with np.load(out) as loaded:
                answers.append([loaded[str(number)] for number in range(len(options.models))])
    print(f"| model | largest difference, {options.version} to {onnxruntime.__version__} |\n|---|--:|")
    differences = [float(np.abs(a - b).max()) for a, b in zip(*answers, strict=True)]
    for model, difference in zip(options.models, differences, strict=True):
        print(f"| {model.name} | {difference:.1e} |")
    return int(max(differences) > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
