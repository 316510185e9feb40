"""Audio from Emby: Jellyfin's endpoints below `/emby`, with `X-Emby-Token`. Facts: shared/facts/audiomuse.md, 2.2."""

from __future__ import annotations

from student_clap.ingest.sources.jellyfin import JellyfinSource


class EmbySource(JellyfinSource):
    """An Emby server. Use as a context manager."""

    section = "emby"
    product = "Emby"

    @staticmethod
    def base_url(url: str) -> str:
        """The URL with Emby's `/emby`, which many write themselves.

        >>> EmbySource.base_url("http://nas:8096"), EmbySource.base_url("http://nas:8096/emby")
        ('http://nas:8096/emby', 'http://nas:8096/emby')
        """
        return url if url.lower().endswith("/emby") else f"{url}/emby"

    @staticmethod
    def header_styles(token: str) -> list[dict[str, str]]:
        """Emby has one way."""
        return [{"X-Emby-Token": token}]

    @staticmethod
    def items(user_id: str) -> tuple[str, dict[str, str]]:
        """Path and query of the list of items."""
        return (f"/Users/{user_id}/Items" if user_id else "/Items"), {}
