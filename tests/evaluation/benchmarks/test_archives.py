"""Archives are unpacked whole or not at all, and never beside their folder; downloads say what is wrong."""

import errno
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from stts_cli.data.files import cache_folder
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.evaluation.benchmarks import archives
from stts_cli.evaluation.benchmarks.archives import unpack_all
from stts_cli.evaluation.benchmarks.hub import fetch
from stts_cli.evaluation.benchmarks.registry import get_benchmark

CONTENT = {"videos/a.mp4": b"a" * 3000, "videos/deep/b.mp4": b"b" * 70000}


def zipped(path: Path, members=CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tar_bytes(members=CONTENT, mode="w:gz") -> bytes:
    box = io.BytesIO()
    with tarfile.open(fileobj=box, mode=mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return box.getvalue()


def parts(folder: Path, pattern: str, data: bytes, count: int = 3) -> list[Path]:
    size = -(-len(data) // count)
    paths = []
    for index in range(count):
        path = folder / pattern.format(index, "abc"[index])
        path.write_bytes(data[index * size : (index + 1) * size])
        paths.append(path)
    return paths


def unpacked(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".unpacked" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("pattern", "mode"),
    [("videos.tar.part.a{1}", "w:"), ("videos_part_{0}.tar.gz", "w:gz"), ("test_video.tar.gz.part-{0}", "w:gz")],
)
def test_split_tars_are_joined(tmp_path, pattern, mode):
    paths = parts(tmp_path, pattern, tar_bytes(mode=mode))
    unpack_all(reversed(paths), tmp_path / "out")
    assert unpacked(tmp_path / "out") == CONTENT
    (tmp_path / "out/videos/a.mp4").unlink()
    unpack_all(paths, tmp_path / "out")
    assert "videos/a.mp4" not in unpacked(tmp_path / "out"), "an archive that is done is not opened again"


def test_zips_go_on_where_they_stopped(tmp_path):
    first, second = zipped(tmp_path / "1.zip"), zipped(tmp_path / "2.zip", {"videos/c.mp4": b"c"})
    (tmp_path / "out/videos").mkdir(parents=True)
    (tmp_path / "out/videos/a.mp4").write_bytes(b"half")
    unpack_all([first, second], tmp_path / "out")
    assert unpacked(tmp_path / "out") == {**CONTENT, "videos/c.mp4": b"c"}


@pytest.mark.parametrize("name", ["../evil.mp4", "/evil.mp4", "videos/../../evil.mp4", "..\\evil.mp4", "C:\\evil.mp4"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_nothing_leaves_the_folder(tmp_path, name, kind):
    if kind == "zip":
        path = zipped(tmp_path / "in/x.zip", {name: b"evil"})
    else:
        path = tmp_path / "x.tar"
        path.write_bytes(tar_bytes({name: b"evil"}, "w:"))
    with pytest.raises(InputError, match="would be written outside"):
        unpack_all([path], tmp_path / "in/out")
    assert not list(tmp_path.rglob("evil*"))


def test_links_are_refused(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("videos")
        link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
        archive.addfile(link)
    with pytest.raises(InputError, match="is a link"):
        unpack_all([path], tmp_path / "out")
    zip_path = tmp_path / "x.zip"
    with zipfile.ZipFile(zip_path, "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    unpack_all([zip_path], tmp_path / "out")
    assert not (tmp_path / "out/link").is_symlink(), "its text at most"
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out/videos").symlink_to(outside)
    with pytest.raises(InputError, match="would be written outside"):
        unpack_all([zipped(tmp_path / "y.zip")], tmp_path / "out")


def test_half_an_archive_is_named(tmp_path):
    path = zipped(tmp_path / "videos.zip")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"videos\.zip: is not a whole zip .*half downloaded"):
        unpack_all([path], tmp_path / "out")
    paths = parts(tmp_path, "videos_part_{0}.tar.gz", tar_bytes())
    with pytest.raises(InputError, match=r"videos_part_0.*: is not a whole tar .*a part missing"):
        unpack_all(paths[:-1], tmp_path / "out")
    assert all(data == CONTENT[name] for name, data in unpacked(tmp_path / "out").items()), "no half video"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that knows the repositories put into the dict: a folder, or the error it answers with."""
    known: dict[str, object] = {}
    asked = []

    def snapshot_download(name, **settings):
        asked.append((name, settings))
        answer = known.get(name)
        if answer is None:
            raise _answered(RepositoryNotFoundError, "404")
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    known["asked"] = asked
    return known


def _answered(kind, text):
    """Make an error of the hub without the response it wants."""
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    return error


def test_the_second_repository_is_used_and_its_zips_are_unpacked(hub, tmp_path):
    zipped(tmp_path / "snapshot/videos.zip")
    hub["lmms-lab/NExTQA"] = tmp_path / "snapshot"
    roots = fetch(get_benchmark("nextqa"), "test")
    assert roots == (tmp_path / "snapshot", cache_folder("benchmarks", "nextqa"))
    assert unpacked(roots[1]) == CONTENT
    assert [name for name, _ in hub["asked"]] == ["lmms-eval/NExTQA", "lmms-lab/NExTQA"]
    assert hub["asked"][0][1]["allow_patterns"] == ["MC/test-*.parquet", "videos.zip"]
    with pytest.raises(InputError, match="--split validation: is not in the repository of nextqa"):
        fetch(get_benchmark("nextqa"), "validation")
    with pytest.raises(
        InputError, match="nextqa: none of me/mine is on the hub; give another id with --hf-repo, or get it: "
    ):
        fetch(get_benchmark("nextqa"), "test", "me/mine")


def test_what_is_wrong_with_the_hub_is_said(hub, monkeypatch):
    hub["OpenGVLab/MVBench"] = _answered(GatedRepoError, "401")
    with pytest.raises(
        InputError, match=r"gated; accept its terms at https://huggingface.co/datasets/OpenGVLab/MVBench"
    ):
        fetch(get_benchmark("mvbench"), "test")
    hub["me/mine"] = hub["OpenGVLab/MVBench"]
    with pytest.raises(
        InputError, match=r"me/mine: is gated; accept its terms at https://huggingface.co/datasets/me/mine"
    ):
        fetch(get_benchmark("mvbench"), "test", "me/mine")
    hub["TIGER-Lab/VideoEval-Pro"] = LocalEntryNotFoundError("no answer")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(EnvironmentFailure, match=r"VideoEval-Pro \(no answer\); go online, or get it: "):
        fetch(get_benchmark("videoevalpro"), "test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        EnvironmentFailure, match=r"HF_HUB_OFFLINE is set and the cache does not hold it\); go online w"
    ):
        fetch(get_benchmark("videoevalpro"), "test")


def test_a_disk_that_is_full_is_no_damaged_archive(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(archives.shutil, "copyfileobj", lambda *given: (_ for _ in ()).throw(full))
    for path in (zipped(tmp_path / "x.zip"), *parts(tmp_path, "y_part_{0}.tar.gz", tar_bytes(), count=1)):
        with pytest.raises(
            EnvironmentFailure, match=rf"{path.name} cannot be unpacked there \(No space left .*make room"
        ):
            unpack_all([path], tmp_path / "out")
    assert unpacked(tmp_path / "out") == {}


def test_a_repository_of_the_users_own_is_asked_for_any_table_of_its_main_branch(hub, tmp_path):
    hub["me/mine"] = hub["OpenGVLab/MVBench"] = tmp_path
    for repo in ("me/mine", None):
        fetch(get_benchmark("mvbench"), "test", repo)
    assert [settings["revision"] for _, settings in hub["asked"]] == [None, "video"]
    fetch(get_benchmark("nextqa"), "validation", "me/mine")
    assert hub["asked"][-1][1]["allow_patterns"][:2] == ["**/*.parquet", "**/*.json"]


def test_of_several_failures_of_the_network_the_first_is_named(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub["lmms-eval/NExTQA"], hub["lmms-lab/NExTQA"] = LocalEntryNotFoundError("one"), LocalEntryNotFoundError("two")
    with pytest.raises(EnvironmentFailure, match=r"from lmms-eval/NExTQA or lmms-lab/NExTQA \(one\)"):
        fetch(get_benchmark("nextqa"), "test")


def test_a_cache_that_holds_the_second_repository_is_enough(hub, tmp_path):
    zipped(tmp_path / "snapshot/videos.zip")
    hub["lmms-eval/NExTQA"] = LocalEntryNotFoundError("not in the cache")
    hub["lmms-lab/NExTQA"] = tmp_path / "snapshot"
    assert fetch(get_benchmark("nextqa"), "test")[0] == tmp_path / "snapshot"
