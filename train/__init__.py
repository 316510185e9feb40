"""Students, losses, streaming batches, the loop.

What `train.data.dataset` offers is here too: `TrackDataset`, `SegmentDataset`, `EpochSampler`, `collate`, `split`.
torch is loaded when one of them is asked for.
"""

import getpass
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from student_clap.train.data.dataset import EpochSampler, SegmentDataset, TrackDataset, collate, split

try:
    getpass.getuser()
except (KeyError, OSError):  # a container's user who has no entry in /etc/passwd
    # Parts of torch ask for the name when they are imported, and fail without one.
    os.environ["USER"] = str(os.getuid())

__all__ = ["EpochSampler", "SegmentDataset", "TrackDataset", "collate", "split"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from student_clap.train.data import dataset

    return getattr(dataset, name)
