"""What Thalweg costs, measured: `make bench`, or `python -m benchmarks --help`.

Every module of `cases` measures one thing, prints its tables and writes them into
docs/performance.md. Only what a case has started itself is ended by it.
"""
