"""Which local file a server's path leads to, and that none leads out of the mapped folder."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.ingest.http.errors import SourceError
from student_clap.ingest.sources.path_map import LocalFiles, parse_maps, parse_server_path


def lead(maps: list[str], text: str) -> Path | None:
    """The file that `text` leads to."""
    path = parse_server_path(text)
    for path_map in parse_maps(maps) if path is not None else ():
        rest = path_map.rest_of(path)  # type: ignore[arg-type]
        if rest is not None:
            return LocalFiles().find(path_map, path, rest)  # type: ignore[arg-type]
    return None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("nas/Artist/Album/01.flac", "nas/new/02.flac", "new/02.flac", "secret.flac", "etc/passwd"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return tmp_path


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("/music", "/music/Artist/Album/01.flac"),
        ("/music/", "/music//Artist/./Album/01.flac"),
        ("music", "music/Artist/Album/01.flac"),
        (".", "Artist/Album/01.flac"),
        ("./", "./Artist\\Album\\01.flac"),
        ("/", "/Artist/Album/01.flac"),
        ("D:\\Music", "D:\\Music\\Artist\\Album\\01.flac"),
        ("D:\\Music\\", "d:/MUSIC/Artist\\Album/01.flac"),
        ("D:/Music", "D:\\Music\\ARTIST\\album\\01.FLAC"),
        ("D:", "D:\\Artist\\Album\\01.flac"),
        ("\\\\NAS\\music", "//nas/music/Artist/Album/01.flac"),
        ("smb://nas/music", "\\\\nas\\Music\\Artist\\Album\\01.flac"),
        ("file:///music", "/music/Artist/Album/01.flac"),
        ("/music", "file:///music/Artist/%41lbum/01.flac"),
        ("/music", "file://localhost/music/Artist/Album/01.flac"),
        ("file:///D:/Music", "D:\\Music\\Artist\\Album\\01.flac"),
        ("/müsic", unicodedata.normalize("NFD", "/müsic/Artist/Album/01.flac")),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_spellings_of_one_path(folder: Path, prefix: str, text: str, slash: str) -> None:
    assert lead([f"{prefix}={folder}/nas{slash}"], text) == folder / "nas/Artist/Album/01.flac"


@pytest.mark.parametrize(
    "text",
    [
        "/music2/Artist/Album/01.flac",
        "/Music/Artist/Album/01.flac",
        "music/Artist/Album/01.flac",
        "/music",
        "/music/",
        "/music/Artist",
        "/music/artist/Album/01.flac",
        "D:\\music\\Artist\\Album\\01.flac",
        "",
    ],
)
def test_what_is_not_below_the_prefix(folder: Path, text: str) -> None:
    assert lead([f"/music={folder}/nas"], text) is None


def test_the_longest_prefix_wins(folder: Path) -> None:
    maps = [f"/music={folder}/nas", f"/music/new={folder}/new"]
    for given in (maps, maps[::-1]):
        assert lead(given, "/music/new/02.flac") == folder / "new/02.flac"
        assert lead(given, "/music/Artist/Album/01.flac") == folder / "nas/Artist/Album/01.flac"


@pytest.mark.parametrize(
    "text",
    [
        "/music/../secret.flac",
        "/music/Artist/../../secret.flac",
        "/music\\..\\secret.flac",
        "/music/%2e%2e/secret.flac",
        "file:///music/%2e%2e/secret.flac",
        "file:///music/..%5csecret.flac",
        "/music/..",
        "/music/{folder}/secret.flac",
        "/music//etc/passwd",
        "/music/\0/secret.flac",
        "/music/secret.flac\0.mp3",
        "/music/" + "a" * 5000,
        "/music/" + "../" * 50 + "etc/passwd",
        "../secret.flac",
        "{folder}/secret.flac",
    ],
)
def test_no_path_leads_out_of_the_folder(folder: Path, text: str) -> None:
    for maps in ([f"/music={folder}/nas"], [f".={folder}/nas", f"/music={folder}/nas/new"]):
        assert lead(maps, text.replace("{folder}", str(folder))) is None


def test_a_link_in_the_users_own_folder_is_followed(folder: Path) -> None:
    (folder / "nas/link").symlink_to(folder / "new")
    assert lead([f"/music={folder}/nas"], "/music/link/02.flac") == folder / "nas/link/02.flac"


@pytest.mark.parametrize(("here", "there"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_accents_are_one_letter_however_they_are_written(tmp_path: Path, here: str, there: str) -> None:
    local = tmp_path / unicodedata.normalize(here, "Björk/Jóga.flac")  # type: ignore[arg-type]
    local.parent.mkdir()
    local.write_bytes(b"")
    server = unicodedata.normalize(there, "/müsic/Björk/Jóga.flac")  # type: ignore[arg-type]
    assert lead([f"/müsic={tmp_path}"], server) == local


def test_where_two_names_have_one_spelling_there_is_no_guess(tmp_path: Path) -> None:
    for name in ("a.flac", "A.flac"):
        (tmp_path / name).write_bytes(name.encode())
    assert lead([f"D:\\m={tmp_path}"], "D:\\m\\A.FLAC") is None
    assert lead([f"D:\\m={tmp_path}"], "D:\\m\\A.flac") == tmp_path / "A.flac"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/music", "expected SERVER=LOCAL, such as /music=/mnt/nas/music"),
        ("=/mnt", "expected SERVER=LOCAL"),
        ("/music=", "expected SERVER=LOCAL"),
        ("", "expected SERVER=LOCAL"),
        ("/music/../x=/mnt", "may not hold `..`"),
    ],
)
def test_a_malformed_map_is_told(text: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason) as caught:
        parse_maps(["/a=/b", text])
    assert repr(text) in caught.value.message


def test_one_prefix_cannot_lead_to_two_folders() -> None:
    assert len(parse_maps(["/m=/a", "/m/=/a/"])) == 2
    with pytest.raises(SourceError, match="names two folders for '/m/': /a and /b"):
        parse_maps(["/m=/a", "/m/=/b"])


def test_a_local_folder_may_be_relative_or_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert [m.local for m in parse_maps(["/a=music/x/..", "/b=~/music"])] == [
        tmp_path / "music",
        tmp_path / "home/music",
    ]


def test_the_home_of_a_user_who_is_not_there() -> None:
    with pytest.raises(
        SourceError, match=r"ingest\.map '/a=~nobody-here/music': ~nobody-here is not the home folder of"
    ):
        parse_maps(["/a=~nobody-here/music"])


def test_a_map_beside_a_folder_is_refused() -> None:
    result = CliRunner().invoke(main, ["ingest", "--set", "ingest.source=folder", "--map", "/music=/mnt/music"])
    assert result.exit_code == 1
    assert "ingest.source is `folder`" in result.output
