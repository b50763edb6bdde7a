"""The tables of the benchmarks say what the figures say. Nothing is measured here."""

import importlib
import pkgutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import cases, known, report  # noqa: E402
from benchmarks.cases import (  # noqa: E402
    backfill,
    commits,
    faults,
    load,
    memory,
    nightly,
    points,
    queue,
    read,
    run,
    scheduler,
    start,
)
from thalweg.pipelines import specification  # noqa: E402
from thalweg.settings import load as load_settings  # noqa: E402
from thalweg.warehouse import Upkeep  # noqa: E402


def row(table: report.Table, about: str) -> list[str]:
    (found,) = [line for line in table.lines if line[0] == about]
    return list(found)


def test_start_beside_plain_jupyterhub():
    ours = [
        start.Start(10, 8, hub_began=4, healthy=h, steps={"Databases": 2.0}) for h in (50, 40, 46)
    ]
    plain = [start.Start(4, 7)] * 3
    first = [start.Start(9, 8, hub_began=4, healthy=20, data=50)] * 3
    aims, times, steps = start.tables(
        {start.PLAIN: plain, start.EMPTY: first, start.PLAIN_AGAIN: plain, start.AGAIN: ours}
    )
    again = "Thalweg, again"
    since_hub = row(aims, f"{again}: login page / plain's, since JupyterHub began")
    assert since_hub[1:] == ["1.5", "1.5", "yes"]
    since_command = row(aims, f"{again}: login page / plain's, since the command")
    assert since_command[1:] == ["1.5", "2.5", "**no**"]
    assert row(aims, f"{again}: all services healthy")[1:] == ["45 s", "46 s", "**no**"]
    assert row(times, again)[1:] == [
        "10.0 (10.0 to 10.0)", "6.0 (6.0 to 6.0)", "46.0 (40.0 to 50.0)", "", "8.0 (8.0 to 8.0)",
    ]  # fmt: skip
    assert row(times, "plain JupyterHub, again")[3:5] == ["", ""]
    assert row(steps, "Databases") == ["Databases", "", "2.0 (2.0 to 2.0)"]


def test_memory_is_summed_and_held_against_its_limit():
    aims, parts = memory.tables(
        {
            "Thalweg": memory.Memory(
                {"hub": 1_400_000_000, "proxy": 200_000_000}, {"Lab": 5_000_000}
            ),
            "plain JupyterHub": memory.Memory({"hub": 100_000_000}, {"hub": 100_000_000}),
        }
    )
    assert row(aims, "idle, nothing visited")[1:] == ["1.5 GB", "1.6 GB", "**no**"]
    assert row(parts, "hub") == ["hub", "1400", "", "100", "100"]
    assert row(parts, "Lab") == ["Lab", "", "5", "", ""]
    assert row(parts, "**all**")[1:] == ["**1600**", "**5**", "**100**", "**100**"]


def test_overhead_of_a_run():
    aims, times = run.tables({run.PAPERMILL: [2, 2, 9], run.OURS: [1.5, 2.5, 2.3]})
    assert aims.lines[0][1:] == ["10 %", "15 %", "**no**"]
    assert row(times, run.OURS)[1:] == ["3", "2.3 (1.5 to 2.5)", "1.15"]


def test_loads_are_held_against_the_bare_append_and_teehr():
    seconds = {load.BARE: [1.0, 1.0, 2.0], load.FIRST: [1.4, 1.6, 1.6], load.AGAIN: [0.5]}
    aims, times, memory = load.tables({load.SMALL: load.Load(1_752_000, seconds, 2_000_000_000)})
    assert row(aims, "1.75 million: Thalweg / PyIceberg alone")[1:] == ["2", "1.6", "yes"]
    teehr = row(aims, "1.75 million: Thalweg, tenth of TEEHR's time")
    assert teehr[1:] == ["2.43 s", "1.6 s", "yes"]
    assert row(times, "1.75 million: Thalweg, the same again")[1:] == ["1", "0.5", "0.50"]
    assert row(times, "1.75 million: TEEHR 0.8, not in this turn")[1:] == ["", "24.3", ""]
    assert row(memory, "1.75 million")[1:] == ["2.0"]


def test_a_part_of_a_large_table_is_read_by_name():
    seconds = {read.BARE: [0.1, 0.2], read.BY_NAME: [0.18], read.SQL: [0.3]}
    aims, times = read.tables(read.Reads(17_520_000, seconds))
    assert times.title == "8,784 rows (one reach, one year) of 17.52 million"
    assert row(aims, "by catalogue name / PyIceberg alone")[1:] == ["1.1", "1.2", "**no**"]
    assert row(times, read.SQL)[1:] == ["1", "300.0", "2.00"]


def test_reads_after_many_commits():
    states = (commits.ONE, commits.MANY, commits.JOINED, commits.ENDED)
    reads = dict(zip(states, ([0.1], [0.9], [0.3], [0.2]), strict=True))
    joined = Upkeep("t", 20, 2, 9_000_000, 1_000_000, 21, 22, 0, (), 0, dry_run=False)
    ended = Upkeep("t", 2, 2, 1_000_000, 1_000_000, 22, 2, 20, ("a", "b"), 8_000_000, dry_run=False)
    aims, table, cost, done = commits.tables(
        commits.Commits([0.1] * 10 + [0.3] * 10, reads, reads, [4.0, 2.0], [joined, ended])
    )
    assert aims.lines[0][1:] == ["2", "2", "yes"]
    assert row(table, "20 hourly commits")[1:] == ["900.0", "900.0", "9.00"]
    assert row(cost, "the last 2")[1:] == ["300.0 (300.0 to 300.0)"]
    assert row(done, commits.JOINED)[1:] == ["4.0", "20 to 2", "9.0 to 1.0", "0", "0", "0.0"]
    assert row(done, commits.ENDED)[1:] == ["2.0", "2 to 2", "1.0 to 1.0", "20", "2", "8.0"]


def test_series_from_the_repository_and_from_grib():
    grib = {points.GRIB: [9.0], points.INDEXED: [2.0], points.CODES: [0.4, 0.5, 0.9]}
    one = {points.OURS: [0.2, 0.25, 0.9], points.SELECTED: [0.1]} | grib
    aims, times, made = points.tables(points.Points(8_760, {1: one, 100: one}, [30.0], 29_000_000))
    assert aims.lines[0][1:] == ["1", "0.5", "yes"]
    assert row(times, f"1 point: {points.CODES}")[1:] == ["3", "500.0 (400.0 to 900.0)", "2.0"]
    assert row(times, f"100 points: {points.GRIB}")[1:] == ["1", "9000.0", "36.0"]
    assert list(made.lines[0]) == ["8,760", "29", "30.0"]


def test_tables_are_written_between_their_marks_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- measured: run -->\nold\n<!-- end of run -->\n"
        "<!-- measured: start -->\nstays\n<!-- end of start -->\n"
    )
    table = report.Table("Times", ("what", "seconds"), [["this \\1", "2.0"]])
    report.save("run", "A machine.", [table], page)
    report.save("run", "A machine.", [table], page)
    assert page.read_text() == (
        "before\n<!-- measured: run -->\n\nA machine.\n\n**Times**\n\n"
        "| what | seconds |\n| :--- | ---: |\n| this \\1 | 2.0 |\n\n<!-- end of run -->\n"
        "<!-- measured: start -->\nstays\n<!-- end of start -->\n"
    )
    with pytest.raises(LookupError, match="measured: memory"):
        report.save("memory", "A machine.", [table], page)


def test_the_page_has_a_place_for_every_case():
    text = (ROOT / "docs" / "performance.md").read_text()
    for module in pkgutil.iter_modules(cases.__path__):
        case = importlib.import_module(f"benchmarks.cases.{module.name}")
        assert callable(case.measure)
        assert [text.count(mark.format(module.name)) for mark in report.MARKS] == [1, 1]


def test_tables_are_printed(capsys):
    report.show("run", "A machine.", [report.Table("Times", ("what",), [["**all**"]])])
    printed = capsys.readouterr().out
    assert "A machine." in printed
    assert "all" in printed
    assert "**" not in printed


def test_a_night_is_held_against_everything():
    seconds = {nightly.ALL: [10.0], nightly.DAY: [1.0, 3.0, 2.0], nightly.NONE: [0.1]}
    rows = {nightly.ALL: 3_500_000, nightly.DAY: 4_800, nightly.NONE: 0}
    aims, times, memory = nightly.tables({1_750_000: nightly.Kept(seconds, rows, 500_000_000)})
    of = f"1.75 million: {nightly.DAY} / {nightly.ALL}"
    assert row(aims, of)[1:] == ["0.25", "0.2", "yes"]
    assert row(times, f"1.75 million: {nightly.DAY}")[1:] == ["4,800", "2.0 (1.0 to 3.0)", "0.200"]
    assert memory.lines == [["1.75 million", "0.5"]]


def test_a_queue_is_held_against_bare_papermill():
    ways = {
        queue.BARE: queue.Queue(300, 0, 400_000_000),
        queue.BACKFILL: queue.Queue(360, 0, 500_000_000),
        queue.DAGSTER: queue.Queue(900, 2, 900_000_000),
    }
    aims, times = queue.tables(ways)
    assert row(aims, f"{queue.DAGSTER}: runs lost")[1:] == ["0", "2", "**no**"]
    assert row(times, queue.BACKFILL)[1:] == ["6.0", "1.20", "0", "500"]
    assert not report.all_met([aims, times])


def test_a_backfill_that_was_interrupted():
    found = backfill.Backfill(10, 4, (8.0, 1.0, 30.0), 300_000_000, 0, 0, 0, 0)
    aims, times = backfill.tables(found)
    assert report.all_met([aims, times])
    assert row(times, "until Ctrl-C")[1:] == ["4", "0.1", "2.00"]
    assert row(times, "the same command again")[1:] == ["6", "0.5", "5.00"]


def test_the_scheduler_stands_beside_another():
    ours, memory = {scheduler.OURS: [9.0, 10.0, 12.0]}, {scheduler.OURS: [200_000_000]}
    aims, idle, runs = scheduler.tables(
        scheduler.Schedulers(ours, memory, {scheduler.PAPERMILL: [2.0]}, "no network")
    )
    assert aims.lines[0][1:] == ["45 s", "10 s", "yes"]
    assert row(idle, scheduler.OURS)[1:] == ["10.0 (9.0 to 12.0)", "200.0"]
    assert row(idle, "jupyter-scheduler: not measured, no network")
    assert row(runs, scheduler.PAPERMILL)[1:] == ["1", "2.0"]


def test_one_lost_row_breaks_the_table_of_faults():
    killed = dict.fromkeys(faults.VICTIMS, 25)
    found = faults.Faults(100, Counter(killed), Counter(killed), Counter(succeeded=100), 130)
    assert report.all_met(faults.tables(found))
    aims, kills, runs = faults.tables(replace(found, rows_lost=1))
    assert not report.all_met([aims, kills, runs])
    assert row(aims, "rows lost")[1:] == ["0", "1", "**no**"]
    assert row(kills, faults.STORE)[1:] == ["25", "25"]


def test_known_rows_are_told_from_wrong_ones(tmp_path):
    settings = known.home(tmp_path, load_settings({}, data_dir=tmp_path), 30, "daily")
    pipeline = specification.get(known.NAME, settings)
    assert pipeline.partition_keys() == known.keys(30, "daily")
    times = [pipeline.values(partition=key)["time"] for key in known.keys(30, "daily")]
    assert times == [time.isoformat() for time in known.expected(30, "daily")]
