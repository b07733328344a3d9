"""A place that cannot be written ends `stts eval` in one line, and costs nothing that was answered before."""

from __future__ import annotations

import json

import pytest

from stts_cli import cli
from tests.test_writing import no_file_larger_than


@pytest.mark.parametrize("flag", ["--output={0}/file", "--plot={0}/gone/x.png"])
def test_eval_ends_in_one_line_and_exit_3(tmp_path, flag, tiny_checkpoint, items_file, capsys):
    (tmp_path / "file").write_text("mine")
    words = ["eval", "--bench", str(items_file), "--model", str(tiny_checkpoint), "--frames", "2", "--workers", "0"]
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--max-new-tokens", "1", flag.format(tmp_path)])
    said = capsys.readouterr()
    assert (end.value.code, said.out, said.err.count("\n")) == (3, "", 1)
    assert ": cannot be written" in said.err


def test_eval_whose_disk_fills_up_goes_on_where_it_stopped(tmp_path, tiny_checkpoint, items_file, capsys):
    words = ["eval", "--bench", str(items_file), "--model", str(tiny_checkpoint), "--frames", "2", "--workers", "0"]
    words += ["--max-new-tokens", "1", "--json", "--output", str(tmp_path / "out")]
    with no_file_larger_than(2000), pytest.raises(SystemExit) as end:
        cli.main(words)
    said = capsys.readouterr()
    assert (end.value.code, said.out, said.err.count("\n")) == (3, "", 1)
    assert "samples.rank0.jsonl: cannot be written (File too large)." in said.err
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 0
    assert "answers were there already" in "".join(json.loads(capsys.readouterr().out)["notes"])
