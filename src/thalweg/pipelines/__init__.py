"""Pipelines: notebooks with a specification, executed by Papermill and scheduled by Dagster.

`specification` is what a pipeline is; `run` executes one and leaves a record; `history` is the
record of all runs; `definitions` turns every specification into Dagster's assets, jobs and
schedules; `scheduler` is Dagster's home and command lines; `webserver` serves its UI.
"""
