"""Foreign files cannot steer the terminal or the spreadsheet that shows them."""

import csv
import io
import json

from scoring.drawing.tables import Table, as_csv
from scoring.runs.log_reader import read_log
from scoring.runs.plain_text import plain


def test_control_characters_become_visible():
    assert plain({"a\x1b": ["\x1b[2J\x9b", 1.5, None, "line\nline\ttab é"]}) == {
        "a\\x1b": ["\\x1b[2J\\x9b", 1.5, None, "line\nline\ttab é"]
    }


def test_escapes_in_a_log_do_not_reach_what_prints_it(tmp_path):
    event = {"namespace": "", "time_ms": 1, "event_type": "POINT_IN_TIME", "metadata": {}}
    event |= {"key": "submission_org", "value": "\x1b]0;title\x07lab"}
    (tmp_path / "result.txt").write_text(f":::MLLOG {json.dumps(event)}\n")
    assert read_log(tmp_path / "result.txt").facts["submission_org"] == "\\x1b]0;title\\x07lab"


def test_a_spreadsheet_takes_no_cell_for_a_formula():
    cells = ["=1+1", "+1", "@SUM", "-cmd", "\tx", "-", "-3.5", "a=b", 2.5, None]
    table = Table("=t", [f"c{i}" for i in range(len(cells))], [cells])
    row = list(csv.reader(io.StringIO(as_csv([table]))))[1]
    assert row == ["'=t", "'=1+1", "'+1", "'@SUM", "'-cmd", "'\tx", "-", "-3.5", "a=b", "2.5", ""]
