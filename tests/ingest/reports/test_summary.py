"""What people see at the end of a run: the table and the closing line."""

from __future__ import annotations

from collections import Counter

from student_clap.ingest.fetch.fetch import FetchCounts
from student_clap.ingest.reports.summary import Summary
from student_clap.ingest.rows.catalogue import CatalogueCounts


def test_the_table_has_one_line_per_outcome() -> None:
    counts = FetchCounts(
        fetched=12_034,
        fetched_bytes=61_200_000_000,
        in_place=20,
        in_place_bytes=2_000_000,
        there=3000,
        failed_before=1,
        no_room=40,
        evicted=7,
        evicted_bytes=70_000_000,
        failures=Counter({"no audio": 2, "not on the server": 3}),
        passing=Counter({"timeout": 5}),
    )
    summary = Summary(CatalogueCounts(tracks=15_110, new=15_110, no_vector=4, bad_vector=6), counts)
    assert summary.table().splitlines() == [
        "  fetched                     12034  61.2 GB",
        "  used in place                  20   2.0 MB",
        "  already there                3000",
        "  left for want of room          40           run student-clap featurize, then ingest again",
        "  to be tried again: timeout      5           the next ingest tries again",
        "  failed: not on the server       3           ingest --retry-failed tries again",
        "  failed: no audio                2           ingest --retry-failed tries again",
        "  failed before                   1           ingest --retry-failed tries again",
        "  failed: unusable vector         6           let AudioMuse-AI analyse it again",
        "  without a vector                4           let AudioMuse-AI analyse it",
        "  removed to make room            7  70.0 MB  their features are made",
    ]
    assert summary.line() == (
        "ingest: 15110 tracks (15110 new, 0 updated, 0 gone), 12034 fetched (61.2 GB), 20 used in place,"
        " 3000 already there, 40 left for want of room, 5 to be tried again, 12 failed, 4 without a vector;"
        " run student-clap featurize, then ingest again; see student-clap ingest --verify"
    )


def test_what_makes_no_room_is_said_with_its_place() -> None:
    counts = FetchCounts(no_room=4, of_no_track={"/a/old": (120, 4_800_000_000), "/a/x": (1, 1000)})
    summary = Summary(CatalogueCounts(tracks=4), counts)
    assert summary.table().splitlines() == [
        "  left for want of room        4          run student-clap featurize, then ingest again",
        "  in the cache, of no track  120  4.8 GB  count and make no room: delete what nothing else needs of /a/old",
        "  in the cache, of no track    1  1.0 kB  count and make no room: delete what nothing else needs of /a/x",
    ]
    assert summary.line().endswith(
        "4 left for want of room, 0 failed; 4.8 GB of the cache belong to no track of the store, and make no room:"
        " delete what nothing else needs of /a/old and /a/x; run student-clap featurize, then ingest again"
    )


def test_an_empty_run_has_a_table_too() -> None:
    assert Summary(CatalogueCounts(), FetchCounts()).table() == "  nothing to do"
