"""The chart, staged once for all tests of this folder; see `rendered.py`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import rendered
from rendered import OPTIONS, OURS

#: Run by the Python of the tools.
collect_ignore = ["programs"]


@pytest.fixture(scope="session")
def chart(tmp_path_factory):
    return rendered.staged(tmp_path_factory.mktemp("chart"))


@pytest.fixture(scope="session", params=rendered.PROFILES)
def profile(request):
    return rendered.PROFILES[request.param]


@pytest.fixture(scope="session")
def objects(chart, profile):
    """What helm makes of a profile."""
    return rendered.render(chart, profile, OURS, options=OPTIONS)


@pytest.fixture(scope="session")
def production(chart):
    return rendered.render(chart, rendered.PROFILES["production"], OURS, options=OPTIONS)


@pytest.fixture(scope="session")
def everything(chart, tmp_path_factory):
    """With all that is optional."""
    more = tmp_path_factory.mktemp("values") / "more.yaml"
    more.write_text(
        """\
catalogue: {kind: rest, server: {enabled: true, existingSecret: thalweg-iceberg}}
trino: {enabled: true}
upkeep: {arrivals: {enabled: true}, backup: {enabled: true, bucket: our-backups}}
ray:
  enabled: true
  jobs: {weekly: {schedule: "0 4 * * 0", command: thalweg run evaluate, workers: 4}}
aws: {efsId: fs-0123456789abcdef0}
jupyterhub: {singleuser: {storage: {dynamic: {storageClass: thalweg-homes}}}}
"""
    )
    return rendered.render(chart, rendered.PROFILES["production"], OURS, more, options=OPTIONS)
