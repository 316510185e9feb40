"""The closing line of a run: what was made, what was not and why."""

from __future__ import annotations

from student_clap.featurize.driver import Plan, Totals
from student_clap.store.arrays.features import Features


def closing_line(found: Plan, totals: Totals, features: Features, fetch: str, stopped_by: str = "") -> str:
    """One line.

    Args:
        found: what the run began with.
        totals: what it did.
        features: the recipe's.
        fetch: the command that fetches audio again.
        stopped_by: what broke the run off.
    """
    made = f"{totals.made} tracks made"
    if totals.made:
        minutes = totals.audio_s / 60
        made += (
            f" ({minutes:.1f} min of audio in {totals.wall_s:.1f} s, "
            f"{totals.audio_s / max(totals.wall_s, 1e-9):.0f} x real time, "
            f"{1e3 * totals.cpu_s / minutes:.0f} ms of CPU per minute)"
        )
    parts = [made, f"{found.made} there already"]
    for number, what in (
        (totals.failed, "failed"),
        (found.failed, "failed before (--retry-failed tries again)"),
        (found.lost, f"without their audio file (`{fetch}` fetches it again)"),
        (totals.unreadable, "whose audio cannot be read (the next run tries again)"),
        (found.waiting, "waiting for audio"),
    ):
        if number:
            parts.append(f"{number} {what}")
    minutes = float(features.n_samples().clip(0).sum()) / features.recipe.sample_rate / 60
    if minutes:
        size_mb = features.stored_bytes() / 1e6
        parts.append(f"store {size_mb:.1f} MB, {size_mb / minutes:.3f} MB per minute")
    if stopped_by:
        to_go = len(found.jobs) - totals.made - totals.failed
        parts.append(f"stopped by {stopped_by} with {to_go} to go; run it again")
    return f"featurize: {', '.join(parts)}"
