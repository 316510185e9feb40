"""Audio from Jellyfin.

`Authorization: MediaBrowser Token="..."` is what Jellyfin 10.8 to 12 accept (12 no longer takes `X-Emby-Token`); a
server that refuses it is asked once with `X-Emby-Token`, and what works is kept for the run.
`/Items/{id}/Download` gives the original file but needs the right to download; without it
`/Audio/{id}/stream?static=true` gives the same bytes. Facts: shared/facts/audiomuse.md, section 2.1.
"""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from typing import Any, Self

from student_clap.config.schema import IngestConfig, MediaServerConfig
from student_clap.ingest.errors import FetchError, SourceError
from student_clap.ingest.http import HttpClient
from student_clap.ingest.sources import Wanted

logger = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what may stand in a URL's path


class JellyfinSource:
    """A Jellyfin server. Use as a context manager.

    Raises:
        SourceError: on construction, if the URL or the token is not set.
    """

    section = "jellyfin"
    product = "Jellyfin"

    def __init__(self, server: MediaServerConfig, config: IngestConfig, stop: threading.Event) -> None:
        if not server.url:
            raise SourceError(f"{self.section}.url is not set; expected such as http://192.168.1.10:8096")
        if server.token is None:
            raise SourceError(f"{self.section}.token is not set; make an API key in the server's dashboard")
        token = server.token.get_secret_value()
        if not token.isprintable() or not token.isascii() or '"' in token or token != token.strip():
            raise SourceError(f"{self.section}.token has characters that no API key has; was it copied whole?")
        self._client = HttpClient(self.base_url(server.url), config, stop)
        self._header_styles = self.header_styles(token)
        self._client.token_headers = self._header_styles[0]
        self._checking = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()

    @staticmethod
    def base_url(url: str) -> str:
        """What every path is put behind."""
        return url

    @staticmethod
    def header_styles(token: str) -> list[dict[str, str]]:
        """Ways to present the token, the preferred first."""
        return [{"Authorization": f'MediaBrowser Token="{token}"'}, {"X-Emby-Token": token}]

    def check(self) -> None:
        """Ask the server who it is, with the token, and keep the headers that it accepts. Raises SourceError."""
        with self._checking:
            for headers in self._header_styles:
                if self._accepts(headers):
                    self._client.token_headers = headers
                    return
        raise SourceError(
            f"{self.product} at {self._client.address} refuses the token (401 Unauthorized); make an API key in its"
            f" dashboard and set {self.section}.token ({self.section.upper()}_TOKEN in .env)"
        )

    def fetch(self, wanted: Wanted) -> Path:
        """Download one track."""
        track_id = wanted.track_id
        if not _ID.fullmatch(track_id):
            raise FetchError(f"the track id {track_id!r} is none of {self.product}'s", permanent=True)
        try:
            try:
                return self._client.download(f"/Items/{track_id}/Download", wanted.stem)
            except FetchError as error:
                if error.status != 403:
                    raise
            return self._client.download(f"/Audio/{track_id}/stream?static=true", wanted.stem)
        except FetchError as error:
            if error.status == 401:
                # The token, or this one track? If the token, that ends the run.
                self.check()
                raise FetchError(
                    "the server refuses this track, though not the token (401)", permanent=True, status=401
                ) from None
            if error.status == 404:
                raise FetchError("it is gone from the media server (404)", permanent=True, status=404) from None
            if error.status == 403:
                raise FetchError(
                    "the server allows neither its download nor its stream (403)", permanent=True, status=403
                ) from None
            raise

    def _accepts(self, headers: dict[str, str]) -> bool:
        """Whether the server takes the token in `headers`. Raises SourceError where it is no such server."""
        hint = f"check {self.section}.url, and a reverse proxy's path in it"
        try:
            info: Any = self._client.get_json("/System/Info", headers)
        except FetchError as error:
            if error.status == 401:
                return False
            if error.status == 403:
                return True  # the token is known; this page is for administrators
            raise SourceError(
                f"{self.product} at {self._client.address} cannot be used: {error.reason}; {hint}"
            ) from None
        if not isinstance(info, dict) or "Version" not in info:
            raise SourceError(f"{self._client.address} answers, but not as {self.product} does; {hint}")
        logger.info("%s %s at %s", self.product, info["Version"], self._client.address)
        return True
