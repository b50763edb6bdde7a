"""An upgrade from the version before changes nothing that Kubernetes cannot, and loses nothing.

`released.json` is what was installed: the values that an institution gave, and of each object its
name and what of it can never change. `make chart-record` writes it anew at each release; until
there is one, it is of the commit that it names.
"""

import json
import os
import subprocess

import pytest
import yaml
from cluster import cluster
from rendered import CHART, OPTIONS, PROFILES, REAL, ROOT, by_kind, identities, named, render
from toolbox import helm

RELEASED = json.loads((ROOT / "tests" / "chart" / "released.json").read_text())
#: Objects of the version before that are gone, each with its reason.
GONE = {
    "RayCluster/ray": "production has jobs with clusters of their own: one that waits costs",
    "NetworkPolicy/thalweg-ray": "the same",
    "NetworkPolicy/thalweg-pipelines": "Dagster's pages are behind a login as the others are",
    "Secret/thalweg-dask-token": "who has a cluster could open the pages of others with it",
}
UPGRADE = ("--is-upgrade", *OPTIONS)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The values that an institution has given to the version before."""
    file = tmp_path_factory.mktemp("values") / "theirs.yaml"
    file.write_text(yaml.safe_dump(RELEASED["values"]))
    return file


def was(profile):
    """What was installed; of the charts of the parts only where they are here."""
    objects = RELEASED["objects"][profile.stem]
    return {key: each for key, each in objects.items() if REAL or each["is_ours"]}


def test_names_stay_and_what_cannot_change_does_not(chart, profile, theirs):
    now = identities(render(chart, profile, theirs, options=UPGRADE))
    before = was(profile)
    assert len(before) > 20
    assert before.keys() - now.keys() - GONE.keys() == set()
    changed = {key: (each, now[key]) for key, each in before.items() if key in now}
    assert {k: both for k, both in changed.items() if both[0] != both[1]} == {}


def test_what_cannot_change_is_seen(production):
    """The test above would see each of these."""
    before = identities(production)
    spoilt = json.loads(json.dumps(production))
    named(spoilt, "Deployment", "dashboards")["spec"]["selector"]["matchLabels"]["x"] = "y"
    if REAL:
        (home,) = by_kind(spoilt, "PersistentVolumeClaim") or [None]
        if home:
            home["spec"]["accessModes"] = ["ReadWriteMany"]
    after = identities(spoilt)
    assert "Deployment/dashboards" in {key for key in before if before[key] != after[key]}


def test_jobs_are_made_anew(production):
    """A job's pod cannot change: each is a hook, deleted before the next is made."""
    for job in by_kind(production, "Job"):
        notes = job["metadata"]["annotations"]
        assert notes["helm.sh/hook"], job["metadata"]["name"]
        assert "before-hook-creation" in notes.get(
            "helm.sh/hook-delete-policy", "before-hook-creation"
        )


def secrets(objects):
    return {each["metadata"]["name"]: each["data"] for each in by_kind(objects, "Secret")}


@pytest.mark.skipif(not REAL, reason="the parts make the secrets: THALWEG_CHARTS")
def test_secrets_are_kept(chart, theirs, tmp_path):
    """By a render that may look into a cluster where the version before is."""
    profile = PROFILES["small"]
    first = render(chart, profile, theirs, options=OPTIONS)
    with cluster(first, tmp_path) as config:
        command = [helm(), "template", "thalweg", chart, "-n", "thalweg", "--dry-run=server",
                   "--disable-openapi-validation",
                   "--is-upgrade", "-f", profile, "-f", theirs]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"KUBECONFIG": str(config)}
        )
    assert done.returncode == 0, done.stderr
    kept = secrets([each for each in yaml.safe_load_all(done.stdout) if each])
    made = secrets(first)
    assert ("hub" in made) == bool(REAL)
    for name, data in made.items():
        keys = [key for key in data if key != "values.yaml"]  # which repeats them
        assert {key: kept[name][key] for key in keys} == {key: data[key] for key in keys}, name
    blind = secrets(render(chart, profile, theirs, options=UPGRADE))
    assert blind["hub"] != made["hub"], "a render without a cluster"


def test_the_record_is_of_a_version_before():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert RELEASED["version"] <= chart["version"]
    assert set(RELEASED["objects"]) == set(PROFILES)
