"""Which questions are asked: the whole benchmark, a fair part of it, or an error that says what is missing."""

import json
import zipfile

import pytest

from stts_cli.errors import InputError
from stts_cli.evaluation.gather import gather


def test_missing_videos_are_listed_and_refused_unless_allowed(items_file):
    (items_file.parent / "two.mp4").unlink()
    with pytest.raises(InputError, match=r"1 of 2 videos are missing \(.*two\.mp4\); .*--allow-missing"):
        gather(str(items_file))
    questions = gather(str(items_file), allow_missing=True)
    assert [item.id for item in questions.items] == ["one-0", "one-1"]
    assert (questions.num_missing, len(questions.missing)) == (2, 1)
    (items_file.parent / "one.mp4").unlink()
    archives = [items_file.parent / f"videos_chunked_{number}.zip" for number in (1, 2)]
    for path in archives:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("one.mp4", b"0" * 100)
    with pytest.raises(InputError, match=r"2 of 2 videos .*unpack videos_chunked_1\.zip and 1 others there"):
        gather(str(items_file), allow_missing=True)
    archives[1].write_bytes(archives[1].read_bytes()[:90])
    with pytest.raises(InputError, match=r"videos_chunked_2\.zip: is not a whole zip .*half downloaded"):
        gather(str(items_file))


def test_a_part_is_spread_over_the_benchmark_and_keeps_videos_whole(items_file):
    rows = [{"video": f"{index // 2}.mp4", "question": "?", "id": str(index)} for index in range(40)]
    items_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (items_file.parent / row["video"]).touch()

    def chosen(**how):
        return gather(str(items_file), **how).items

    assert [item.id for item in chosen()] == [row["id"] for row in rows]
    assert [item.video for item in chosen(videos=4)] == [f"{n}.mp4" for n in (0, 0, 5, 5, 10, 10, 15, 15)]
    assert [item.id for item in chosen(limit=3)] == ["0", "1", "2"]
    assert [item.id for item in chosen(videos=4, limit=3)] == ["0", "1", "10"]
    assert chosen(videos=100) == chosen()


def test_a_folder_may_hold_several_benchmarks(tmp_path):
    row = {"video": "x", "question": "?", "options": ["A. a", "B. b"], "answer": "B", "qa_type": "t", "source": "s"}
    path = tmp_path / "videoevalpro/test-0.json"
    path.parent.mkdir()
    path.write_text(json.dumps([row]))
    with pytest.raises(InputError, match=r"none of \*\*/data/test-\*\.parquet"):
        gather("videoevalpro", data_dir=tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        gather("videoevalpro", data_dir=tmp_path / "nowhere")


def test_shapes_by_videos_or_by_questions():
    assert len(gather("shapes", limit=7).items) == 7
    assert len({item.video for item in gather("shapes", videos=3).items}) == 3
    assert gather("shapes_long", videos=1, split="validation").items[0].id.startswith("shapes_long/validation/0/")


def test_a_download_with_archives_becomes_questions_about_real_clips(tmp_path, monkeypatch, write_video):
    import io
    import tarfile

    import huggingface_hub

    from stts_cli.media.reader import read_source
    from stts_cli.media.source import ReadRequest

    row = {"video": "x.mp4", "question": "?", "answer": "B", "options": ["A. a", "B. b"], "qa_type": "t", "source": "s"}
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (the eval extra) reads parquet")
    writer = pytest.importorskip("pyarrow.parquet")
    snapshot = tmp_path / "snapshot"
    for folder in ("data", "videos"):
        (snapshot / folder).mkdir(parents=True)
    writer.write_table(pyarrow.Table.from_pylist([row]), snapshot / "data/test-00000-of-00001.parquet")
    box = io.BytesIO()
    with tarfile.open(fileobj=box, mode="w:gz") as archive:
        archive.add(write_video("inside.mp4", num_frames=20), "videos_filtered/x.mp4")
    for number, start in enumerate(range(0, len(box.getvalue()), 400)):
        (snapshot / f"videos/videos_part_{number:03d}.tar.gz").write_bytes(box.getvalue()[start : start + 400])
    assert number > 1, "cut into parts"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **settings: str(snapshot))
    said = []
    (item,) = gather("videoevalpro", progress=said.append).items
    assert said == ["videoevalpro: fetching from the hub"]
    assert len(read_source(ReadRequest(item.source, 4, 2.0, (24, 24))).frames) == 4
