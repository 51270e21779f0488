"""Work in processes beside this one."""

from __future__ import annotations

import os

import pytest

from tests.core import working
from thoughtlens.core import Beside, ConfigError, ResourceError


def done(beside: Beside) -> dict[str, object]:
    ended = {}
    while beside.names:
        ended |= {one.name: one.error or one.value for one in beside.ended()}
    return ended


def test_what_is_said_beside_is_said_here_in_whole_lines_under_its_name(capsys):
    with Beside(["tests.core.working"], 1) as beside:
        beside.start("one", working.speaks, "one: 3 rows")
        beside.start("two", working.speaks, "WARNING: few")
        assert done(beside) == {"one": "ONE: 3 ROWS", "two": "WARNING: FEW"}
    lines = capsys.readouterr().err.splitlines()
    assert sorted(lines) == ["one: 3 rows", "one: printed here", "two: WARNING: few", "two: printed here"]


def test_errors_come_back_as_they_were_and_one_that_was_killed_says_so():
    with Beside(["tests.core.working"], 1) as beside:
        beside.start("wrong", working.fails)
        beside.start("odd", working.fails_oddly)
        beside.start("killed", working.is_killed)
        ended = done(beside)
    assert isinstance(ended["wrong"], ConfigError) and str(ended["wrong"]) == "a setting is wrong"
    assert "working.py" in ended["wrong"].__notes__[0]  # where, for --debug
    assert isinstance(ended["odd"], RuntimeError) and str(ended["odd"]) == "Odd: strange"
    assert isinstance(ended["killed"], ResourceError)
    with pytest.raises(ResourceError, match=r"killed was ended .* by signal 9 .*--jobs 1"):
        raise ended["killed"]


@pytest.mark.parametrize(("needed", "beside_each_other"), [(40.0, True), (60.0, False)])
def test_work_waits_until_there_is_room_for_it(tmp_path, needed, beside_each_other):
    log = tmp_path / "log"
    with Beside(["tests.core.working"], 1) as beside:
        for name in ("one", "two"):
            beside.start(name, working.takes, needed, 100.0, log, name)
        assert done(beside) == {"one": None, "two": None}
    order = [line.split()[1] for line in log.read_text().splitlines()]
    alone = order == ["begins", "ends"] * 2
    assert sorted(order) == ["begins", "begins", "ends", "ends"] and (beside_each_other or alone)


def test_work_that_needs_more_than_there_is_goes_on_alone(tmp_path):
    with Beside(["tests.core.working"], 1) as beside:
        beside.start("large", working.takes, 200.0, 100.0, tmp_path / "log", "large")
        assert done(beside) == {"large": None}


def test_no_process_outlives_the_block(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Beside(["tests.core.working"], 3) as beside:
        beside.start("first", working.process)
        pid, folder, threads = done(beside)["first"]
        beside.start("waits", working.waits)
        others = [one.process.pid for one in beside._workers.values()]
    assert (folder, threads) == (str(tmp_path), "3") and pid != os.getpid()
    for other in [pid, *others]:
        with pytest.raises(ProcessLookupError):
            os.kill(other, 0)
