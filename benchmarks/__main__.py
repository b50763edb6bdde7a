"""Run the cases, all or those named, one after the other: nothing else should run meanwhile."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import signal
import sys

from benchmarks import cases, report


def main() -> None:
    names = [module.name for module in pkgutil.iter_modules(cases.__path__)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("case", nargs="*", help=f"of {', '.join(names)}; all when none is named")
    parser.add_argument("--repeats", type=int, help="how often; each case has a default")
    parser.add_argument(
        "--rows", type=int, help="a trial: so many rows instead of millions; not saved"
    )
    parser.add_argument("--no-save", action="store_true", help="leave docs/performance.md as it is")
    given = parser.parse_args()
    if unknown := set(given.case) - set(names):
        parser.error(f"no case {', '.join(sorted(unknown))}: there are {', '.join(names)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    broken = []
    for name in given.case or names:
        case = importlib.import_module(f"benchmarks.cases.{name}")
        machine = report.machine(case.PACKAGES)
        rows = [given.rows] if given.rows and hasattr(case, "ROWS") else []
        tables = case.tables(case.measure(given.repeats or case.REPEATS, *rows))
        report.show(name, machine, tables)
        if not given.no_save and not given.rows:
            report.save(name, machine, tables)
        if getattr(case, "MUST", False) and not report.all_met(tables):
            broken.append(name)
    if broken:
        sys.exit(f"not as it must be: {', '.join(broken)}")


if __name__ == "__main__":
    main()
