"""Teacher vectors and audio in: AudioMuse-AI's database, media servers, a folder.

the stage        command -> stage: catalogue (vectors into rows), then audio -> plan, trial, fetch (files for rows)
vectors          vector_source, the interface; database, api, table (+ table_*), teacher_folder; server_choice
their content    vectors (parse, check), teacher (an ONNX), populations and probe (whose are they?)
audio            sources, the interface; folder, mapped (+ path_map); server, which jellyfin, emby, subsonic, lyrion
                 and plex share; credentials (--from-database)
one download     http -> retry, deadline, body, download, partial; container (is it audio?); answers (JSON)
the cache        cache (names), budget (room)
what is told     progress, summary, verify, errors, sizes
flat memory      row_index, seen_ids, file_paths; tags (of a folder's files)
"""
