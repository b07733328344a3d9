"""One list of rows behind the savings table of a terminal and of a notebook."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from stts_cli.report.savings import Row, as_html, as_table, counted_rows, savings_rows
from stts_cli.report.terminal import Screen
from tests.report.test_ask import make_arm


def rows_of(document):
    return savings_rows(document, document["arms"][0])


def cells_of(page):
    return [[cell.text or "" for cell in row] for row in ElementTree.fromstring(page)]


def test_rows_of_one_arm():
    rows = rows_of({"arms": [make_arm("pruned", 30, "red", 0.25, 0.25)]})
    assert rows == [
        Row("frames with a token", "4", "1", 0.25, "tokens"),
        Row("visual tokens", "100", "30", 0.3, "tokens"),
        Row("FLOPs, scorer", "0 ", "5.00 k", None, "FLOPs"),
        Row("FLOPs, total", "4.00 G", "1.00 G", 0.25, "FLOPs"),
        Row("time, ViT", "", "500.0 ms", None, "measured"),
        Row("time, LLM prefill", "", "500.0 ms", None, "measured"),
        Row("time, decode", "", "10.0 ms", None, "measured"),
        Row("time to first token", "", "1.50 s", None, "measured"),
        Row("peak memory", "", "3.00 GiB", None, "measured"),
    ]


def test_rows_of_two_arms_whatever_their_order():
    pruned, dense = make_arm("pruned", 30, "red", 0.25, 0.25), make_arm("dense", 100, "red", 2.0, 0.0)
    pruned["peak_bytes"] = dense["peak_bytes"] = None
    rows = {row.label: row.cells[1:] for row in rows_of({"arms": [pruned, dense]})}
    assert rows["time, ViT"] == ("2.00 s", "500.0 ms", "75.0%")
    assert rows["frames with a token"] == ("4", "1", "75.0%")
    assert "peak memory" not in rows
    assert "time, connector" not in rows


def test_a_dense_run_alone_fills_the_column_of_what_ran():
    rows = {row.label: row.cells[1:] for row in rows_of({"arms": [make_arm("dense", 100, "red", 2.0, 0.0)]})}
    assert rows["time, ViT"] == ("2.00 s", "2.00 s", "0.0%")


def test_table_and_html_hold_the_same_cells(capsys):
    rows = rows_of({"arms": [make_arm("pruned", 30, "<red> & co.", 0.25, 0.25)]})
    rows.append(Row("<b>&", "\x1b", "", None, "measured"))
    found = cells_of(as_html(rows))
    assert found[0] == ["", "dense", "pruned", "saved"]
    assert [tuple(cells) for cells in found[1:-1]] == [row.cells for row in rows[:-1]]
    assert found[-1] == ["<b>&", "\ufffd", "", ""]
    Screen().show(as_table(rows[:-1]))
    lines = capsys.readouterr().out.splitlines()
    blank = [k for k, line in enumerate(lines) if not line.strip(" ─")]
    assert len(blank) == 3, "one below the headings, and one between parts"
    for row in rows[:-1]:
        assert any(line.split() == " ".join(row.cells).split() for line in lines)


def test_counted_rows_need_no_run():
    savings = make_arm("pruned", 30, "red", 0.25, 0.25)["answers"][0]["savings"]
    assert [row.label for row in counted_rows(savings)] == ["visual tokens", "FLOPs, scorer", "FLOPs, total"]
