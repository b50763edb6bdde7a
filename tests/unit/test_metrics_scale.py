"""The same metrics from threads here and from a Dask cluster, also when a worker is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from distributed import Client, LocalCluster

from thalweg import metrics
from thalweg.errors import InvalidInput
from thalweg.metrics import inputs, scale

PLACES, HOURS = 12, 400


def series(kind: str, seed: int) -> pa.Table:
    """Hourly values of all places, in order of time."""
    n = PLACES * HOURS
    times = np.datetime64("2020-01-01T00", "us") + (np.arange(n) // PLACES).astype("m8[h]")
    return pa.table(
        {
            "value_time": pa.array(times).cast(pa.timestamp("us", "UTC")),
            "value": np.random.default_rng(seed).gamma(2, 20, n),
            "location_id": [f"{kind}-{i % PLACES}" for i in range(n)],
            "unit_name": ["m^3/s"] * n,
            "variable_name": ["streamflow_hourly_inst"] * n,
            "configuration_name": [kind] * n,
            "reference_time": pa.nulls(n, pa.timestamp("us", "UTC")),
        }
    )


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Both series and their crosswalk, which make six pieces."""
    monkeypatch.setattr(inputs, "ROWS", 2 * PLACES * HOURS // 6)
    ids = [[f"{kind}-{i}" for i in range(PLACES)] for kind in ("usgs", "nwm30")]
    crosswalk = pa.table(ids, names=["primary_location_id", "secondary_location_id"])
    return series("usgs", 1), series("nwm30", 2), crosswalk


def test_a_killed_worker_changes_nothing(
    work: tuple[pa.Table, pa.Table, pa.Table], tmp_path: Path
) -> None:
    assert len(list(inputs.parts(*inputs.sources(*work), whole=False))) == 6
    here = metrics.evaluate(*work)
    assert here["primary_location_id"].to_pylist() == sorted(f"usgs-{i}" for i in range(PLACES))
    mark = tmp_path / "killed"

    def answer(part: inputs.Part) -> Any:
        """The first one takes its worker with it."""
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return len(part.crosswalk)

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        assert metrics.evaluate(*work, cluster=cluster).equals(here)
        counts = scale.run(answer, inputs.parts(*inputs.sources(*work), whole=False), client)
        assert mark.exists()
        assert counts == [2] * 6
        assert metrics.evaluate(*work, cluster=client).equals(here)


def test_what_is_no_cluster_is_said(work: tuple[pa.Table, pa.Table, pa.Table]) -> None:
    with pytest.raises(InvalidInput, match=r"cluster is str: expected thalweg\.compute"):
        metrics.evaluate(*work, cluster="dask")
