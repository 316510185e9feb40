"""`python -m student_clap.export.doctor.torch_probe`: what torch can compute on, as a line of JSON.

In a process of its own, because torch takes seconds to load and a broken driver can end whoever loads it.
"""

from __future__ import annotations

import json


def main() -> None:
    """Print torch's version, what it was built for, and the GPUs that take a tensor."""
    import torch

    gpus = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            torch.ones(1, device=f"cuda:{number}").sum().item()
            gpus.append(torch.cuda.get_device_name(number))
    found = {"version": torch.__version__, "built_for": torch.version.cuda or torch.version.hip, "gpus": gpus}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
