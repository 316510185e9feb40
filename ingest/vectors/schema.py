"""AudioMuse-AI's tables as an outside reader asks for them: their columns, and the ids that a server has for items.

Two generations: A (v0.8 to v2.6), in which `item_id` is the media server's id, and B (v3), in which it is a content id
`fp_...` and `track_server_map` leads to the ids of the servers in `music_servers`. v0.8.9 added the column
`score.album`, v0.9.3 `score.file_path`; v3 keeps paths in `track_server_map`.

Whatever reads these tables takes its rules from here: the order of the match tiers, and which rows belong to the
default server although no mapping says so.
"""

from __future__ import annotations

from typing import Literal, LiteralString, NamedTuple

NEEDED_TABLES = ("clap_embedding", "score")
SERVER_TABLES = ("track_server_map", "music_servers")  # generation B
TABLES = (*NEEDED_TABLES, *SERVER_TABLES)

# How AudioMuse-AI matched an item to a server's track, the surest first (v3.0).
MATCH_TIERS = (
    "fingerprint", "path", "tail", "exact_meta", "default", "norm_meta", "title_artist", "analysis",
)  # fmt: skip


class Column(NamedTuple):
    """A column that is read."""

    table: str
    name: str
    kind: Literal["text", "bytea"]
    optional: bool = False  # may be missing, in older versions


COLUMNS = (
    Column("clap_embedding", "item_id", "text"),
    Column("clap_embedding", "embedding", "bytea"),
    Column("score", "item_id", "text"),
    Column("score", "title", "text"),
    Column("score", "author", "text"),
    Column("score", "album", "text", optional=True),
    Column("score", "file_path", "text", optional=True),
)

# Tables that are there, in schemas that this user may not use: (table, schema). %s: names.
HIDDEN_SCHEMAS: LiteralString = """
    SELECT c.relname::text, n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = ANY(%s) AND NOT has_schema_privilege(n.oid, 'USAGE') ORDER BY 2, 1
"""

# Of every column of the relations named: relation, column, its type as people write it, the type below a domain, the
# category of types, and whether this user may read it. From pg_catalog, because information_schema leaves out
# materialized views. %s: names.
DESCRIBED_COLUMNS: LiteralString = """
    SELECT r.name, a.attname::text, format_type(a.atttypid, a.atttypmod),
        format_type(CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END, NULL), t.typcategory::text,
        has_column_privilege(a.attrelid, a.attnum, 'SELECT')
    FROM unnest(%s::text[]) AS r (name)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = to_regclass(r.name)
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE a.attnum > 0 AND NOT a.attisdropped"""
TEXT_CATEGORY = "S"  # of pg_type: text, varchar, char, name, citext

# --- The rows of `score` (as s) that belong to a server although no mapping says so: their item_id is its own track id.

# Without named servers, every row is the one server's; but a content id is not a track id.
OF_ONLY_SERVER: LiteralString = "left(s.item_id, 3) <> 'fp_'"
# With named servers, rows that AudioMuse-AI has not relabelled yet are the default one's (`base.default_server_id`).
# %(default)s: its id.
OF_DEFAULT_SERVER: LiteralString = (
    OF_ONLY_SERVER
    + """ AND NOT EXISTS (
        SELECT FROM track_server_map t
        WHERE t.server_id = %(default)s AND (t.item_id = s.item_id OR t.provider_track_id = s.item_id))"""
)

# --- The tracks of one server. {file_path}: the path that `score` knows.

# One row per item: the surest of its mappings on the server. %s: server id, tiers.
_MAPPED: LiteralString = """
    SELECT m.provider_track_id AS track_id, m.item_id, coalesce(m.file_path, {file_path}) AS file_path
    FROM (
        SELECT DISTINCT ON (item_id) item_id, provider_track_id, file_path
        FROM track_server_map WHERE server_id = %(server_id)s
        ORDER BY item_id, array_position(%(tiers)s::text[], match_tier) NULLS LAST, provider_track_id COLLATE "C"
    ) m JOIN score s USING (item_id)"""
_UNMAPPED: LiteralString = """
    SELECT s.item_id AS track_id, s.item_id, {file_path} AS file_path FROM score s WHERE """
# Ordered, so that two runs meet the tracks in the same order.
_TRACKS: LiteralString = """
    SELECT ids.track_id, ids.item_id, coalesce(s.title, ''), coalesce(s.author, ''), {album},
        coalesce(ids.file_path, ''), ce.embedding
    FROM ({ids}) ids JOIN clap_embedding ce USING (item_id) JOIN score s USING (item_id)
    ORDER BY ids.track_id COLLATE "C", ids.item_id COLLATE "C"
"""
_COUNT: LiteralString = "SELECT count(*) FROM ({ids}) ids JOIN clap_embedding USING (item_id)"


def track_ids_query(*, named: bool, default: bool, has_path: bool) -> LiteralString:
    """SQL for (track_id, item_id, file_path) of one server's tracks.

    Args:
        named: the servers have names (generation B, set up); else there is one server.
        default: it is the default server.
        has_path: `score` has the column `file_path`.
    """
    query: LiteralString = _MAPPED
    if not named:
        query = _UNMAPPED + OF_ONLY_SERVER
    elif default:
        query = _MAPPED + " UNION ALL " + _UNMAPPED + OF_DEFAULT_SERVER
    own: LiteralString = "s.file_path" if has_path else "NULL::text"
    return query.replace("{file_path}", own)


def tracks_query(ids: LiteralString, *, has_album: bool) -> LiteralString:
    """SQL for the columns of a SourceTrack, ordered by track id.

    Args:
        ids: of `track_ids_query`.
        has_album: `score` has the column `album`.
    """
    album: LiteralString = "coalesce(s.album, '')" if has_album else "''"
    return _TRACKS.replace("{album}", album).replace("{ids}", ids)


def count_query(ids: LiteralString) -> LiteralString:
    """SQL for the number of `clap_embedding`'s rows that `ids`, of `track_ids_query`, leads to."""
    return _COUNT.replace("{ids}", ids)
