"""What helm makes of each profile is valid, hangs together, and is closed."""

import json
import shutil
import subprocess

import jsonschema
import pytest
import toolbox
import yaml
from rendered import CHART, OURS, PROFILES, REAL, ROOT, by_kind, named, render, run

WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet", "Job", "CronJob", "Pod")
#: Kinds that no release of Kubernetes has.
CUSTOM = ("IngressRoute", "Middleware", "RayCluster", "RayCronJob", "ServiceMonitor")
#: Secrets that an institution makes, or the operator.
GIVEN = {"thalweg-database", "thalweg-login", "thalweg-iceberg"}


def pod(each):
    spec = each["spec"]
    if each["kind"] == "Pod":
        return spec
    spec = spec["jobTemplate"]["spec"] if each["kind"] == "CronJob" else spec
    return spec["template"]["spec"]


def is_ours(each):
    return each["metadata"].get("labels", {}).get("helm.sh/chart", "").startswith("thalweg-")


def containers(spec):
    return [*(spec.get("initContainers") or ()), *spec["containers"]]


def valid(objects, folder):
    """What kubernetes-validate finds wrong."""
    file = folder / "objects.yaml"
    file.write_text("\n---\n".join(map(json.dumps, objects)))
    validate = toolbox.python().with_name("kubernetes-validate")
    command = [toolbox.python(), validate, "--strict", "--quiet", file]
    done = subprocess.run(command, capture_output=True, text=True)
    said = (done.stdout + done.stderr).splitlines()
    return [line for line in said if not any(f"kind {kind} " in line for kind in CUSTOM)]


def test_helm_lint_finds_nothing(chart, profile):
    done = run("lint", "--strict", chart, "-f", profile, "-f", OURS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_object_is_valid(objects, tmp_path):
    assert valid(objects, tmp_path) == []


def test_with_all_that_is_optional_each_object_is_valid(everything, tmp_path):
    assert valid(everything, tmp_path) == []


def test_the_validation_finds_what_is_wrong(objects, tmp_path):
    spoilt = json.loads(json.dumps(named(objects, "Deployment", "dashboards")))
    spoilt["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    assert "imagePullPolice" in " ".join(valid([spoilt], tmp_path))


def test_no_two_objects_have_one_name(everything):
    names = [(each["kind"], each["metadata"]["name"]) for each in everything]
    assert len(names) == len(set(names))


def restricted(spec):
    """The restricted pod security standard, and a root file system that cannot be written."""
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "a service THALWEG_… would be no setting"
    for container in containers(spec):
        assert CLOSED.items() <= container["securityContext"].items()
        written = [
            m["mountPath"] for m in container.get("volumeMounts", ()) if not m.get("readOnly")
        ]
        assert "/tmp" in written or container["image"].startswith(OTHERS), "no place to write to"
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]
    for volume in spec.get("volumes", ()):
        kinds = {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}
        assert kinds & set(volume), volume


CLOSED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
#: Images of others that write nothing.
OTHERS = ("quay.io/lakekeeper/",)


def ray_pods(objects):
    """The pods of each Ray cluster, also of those that jobs make."""
    clusters = [each["spec"] for each in by_kind(objects, "RayCluster")]
    jobs = by_kind(objects, "RayCronJob")
    clusters += [each["spec"]["jobTemplate"]["rayClusterSpec"] for each in jobs]
    for cluster in clusters:
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            yield group["template"]["spec"]


def test_own_pods_are_restricted(everything):
    own = [each for each in by_kind(everything, *WORKLOADS) if is_ours(each)]
    assert {
        "dashboards",
        "operations",
        "pipelines-code",
        "iceberg",
        "trino",
        "verify-raw",
        "arrivals",
        "backup",
        "migrate",
        "thalweg-test",
    } <= {each["metadata"]["name"] for each in own}
    rays = list(ray_pods(everything))
    assert len(rays) == 4
    for spec in [*map(pod, own), *rays]:
        restricted(spec)


@pytest.mark.skipif(not REAL, reason="Dagster's own chart is not here: THALWEG_CHARTS")
def test_dagsters_pods_are_restricted(everything):
    for name in ("dagster-daemon", "thalweg-dagster-webserver"):
        spec = pod(named(everything, "Deployment", name))
        assert spec["securityContext"]["runAsNonRoot"]
        for container in containers(spec):
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_one_image_for_all(everything):
    ours = {
        container["image"]
        for each in by_kind(everything, *WORKLOADS)
        for container in containers(pod(each))
        if "thalweg" in container["image"]
    }
    assert ours == {"ghcr.io/thalweg/thalweg:0.1.0"}


def test_what_runs_before_an_upgrade_names_nothing_that_it_brings(everything):
    """The config maps are then those of the version before, which has not each file of this one."""
    for each in by_kind(everything, "Job", "Pod"):
        if is_ours(each) and "pre-upgrade" in each["metadata"]["annotations"]["helm.sh/hook"]:
            volumes = pod(each)["volumes"]
            assert {kind for volume in volumes for kind in volume} == {"name", "emptyDir"}


def test_a_folder_fits_into_its_config_map(objects):
    for each in by_kind(objects, "ConfigMap"):
        assert len(json.dumps(each["data"], ensure_ascii=False).encode()) < 2**20


def test_a_persons_server_outlives_a_file_that_has_gone(production):
    """The hub reads the names of files when it starts; an upgrade may take one away."""
    cluster = json.loads(named(production, "ConfigMap", "thalweg-cluster")["data"]["cluster.json"])
    maps = [volume["configMap"] for volume in cluster["volumes"].values() if "configMap" in volume]
    assert len(maps) == 5
    assert all(each["optional"] for each in maps)


def test_pages_are_left_one_at_a_time_when_a_node_is_emptied(everything):
    budgets = {
        each["metadata"]["name"]: each for each in by_kind(everything, "PodDisruptionBudget")
    }
    for name in ("dashboards", "operations", "schedules"):
        assert budgets[name]["spec"]["maxUnavailable"] == 1
        chosen = budgets[name]["spec"]["selector"]["matchLabels"].items()
        made = named(everything, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        assert chosen <= made.items()


@pytest.mark.skipif(not REAL, reason="z2jh is not here: THALWEG_CHARTS")
def test_the_image_is_on_each_node_before_people_come(production):
    for name in ("hook-image-puller", "continuous-image-puller"):
        puller = named(production, "DaemonSet", name)
        assert "ghcr.io/thalweg/thalweg:0.1.0" in {c["image"] for c in containers(pod(puller))}


def test_what_pods_name_is_there(everything):
    there = {
        kind: {each["metadata"]["name"] for each in by_kind(everything, kind)}
        for kind in ("ConfigMap", "Secret", "ServiceAccount")
    }
    known = GIVEN if REAL else GIVEN | {"hub"}
    maps = there["ConfigMap"] if REAL else there["ConfigMap"] | {"dagster-instance"}
    for each in by_kind(everything, *WORKLOADS):
        if not is_ours(each):
            continue
        spec = pod(each)
        assert spec["serviceAccountName"] in there["ServiceAccount"]
        for volume in spec.get("volumes", ()):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
                keys(everything, volume["configMap"])
            if "secret" in volume:
                assert volume["secret"]["secretName"] in there["Secret"] | known
        for container in containers(spec):
            mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
            assert mounted <= {volume["name"] for volume in spec.get("volumes", ())}


def keys(objects, volume):
    """Each key that a volume takes of a ConfigMap is in it."""
    found = [o for o in by_kind(objects, "ConfigMap") if o["metadata"]["name"] == volume["name"]]
    for item in volume.get("items", ()) if found else ():
        assert item["key"] in found[0]["data"]


def test_services_find_their_pods(everything):
    pods = [
        (each["spec"]["template"]["metadata"]["labels"], pod(each))
        for each in by_kind(everything, "Deployment")
    ]
    for service in by_kind(everything, "Service"):
        if is_ours(service) and (REAL or service["metadata"]["name"] != "pipelines"):
            selector = service["spec"]["selector"].items()
            chosen = [spec for labels, spec in pods if selector <= labels.items()]
            assert len(chosen) == 1, service["metadata"]["name"]
            ports = [p for c in chosen[0]["containers"] for p in c.get("ports", ())]
            for port in service["spec"]["ports"]:
                assert port["targetPort"] in {p["name"] for p in ports} | {
                    p["containerPort"] for p in ports
                }
            # Kubernetes would tell it to pods as THALWEG_…, and those are settings.
            assert not service["metadata"]["name"].startswith("thalweg")


def test_everything_is_denied_that_is_not_allowed(objects):
    deny = named(objects, "NetworkPolicy", "thalweg-default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    pages = named(objects, "NetworkPolicy", "thalweg-pages")["spec"]
    sources = [s["podSelector"]["matchLabels"]["component"] for s in pages["ingress"][0]["from"]]
    assert sources == ["proxy", "hub"]


@pytest.mark.skipif(not REAL, reason="the parts' own charts are not here: THALWEG_CHARTS")
def test_policies_choose_pods_that_there_are(everything):
    """A label that a part's chart no longer sets would silently open or close nothing."""
    made = [{"app": "jupyterhub", "component": "singleuser-server"}, {"ray.io/is-ray-node": "yes"}]
    made += [{"thalweg.io/run": "true"}, {"app.kubernetes.io/name": "thalweg-test"}]  # made later
    made += [
        each["spec"]["template"]["metadata"].get("labels", {})
        for each in by_kind(everything, "Deployment", "Job", "StatefulSet")
    ]
    for policy in by_kind(everything, "NetworkPolicy"):
        if is_ours(policy):
            for chosen in selectors(policy["spec"]):
                wanted = chosen.get("matchLabels", {}).items()
                assert any(wanted <= labels.items() for labels in made), (
                    policy["metadata"]["name"],
                    chosen,
                )


def selectors(spec):
    if isinstance(spec, dict):
        if "podSelector" in spec:
            yield spec["podSelector"]
        for value in spec.values():
            yield from selectors(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from selectors(value)


def test_the_top_folders_are_in_the_config_maps_to_the_byte(objects):
    for folder in ("catalogs", "pipelines", "dashboards", "notebooks", "hub-config/singleuser"):
        name = folder.rpartition("/")[2]
        there = named(objects, "ConfigMap", f"thalweg-{name}")["data"]
        files = {
            str(path.relative_to(ROOT / folder)).replace("/", "__"): path.read_text()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)
        }
        assert there == files
    hub = named(objects, "ConfigMap", "thalweg-hub-config")["data"]
    assert hub["services.yaml"] == (ROOT / "hub-config" / "services.yaml").read_text()
    assert {"sections.py", "cluster.py", "groups.yaml", "profiles.yaml"} <= set(hub)


def test_no_file_of_the_chart_is_a_copy():
    """The folders under files/ are links: helm follows them, and there is nothing to drift."""
    for link in (CHART / "files").iterdir():
        assert link.is_symlink()
        assert link.resolve() == ROOT / link.name


def test_pods_start_anew_where_a_file_has_changed_and_only_there(chart, tmp_path):
    def checksums(of):
        made = render(of, PROFILES["small"], OURS)
        return {
            each["spec"]["template"]["metadata"]["annotations"]["checksum/files"]
            for each in by_kind(made, "Deployment")
            if is_ours(each)
        }

    same, other = tmp_path / "same", tmp_path / "other"
    shutil.copytree(chart, same)
    shutil.copytree(chart, other)
    notebook = other / "files" / "pipelines" / "evaluate" / "notebook.ipynb"
    notebook.write_text(notebook.read_text() + "\n")
    assert len(checksums(chart)) == 1
    assert checksums(chart) == checksums(same)
    assert checksums(chart) != checksums(other)


def test_a_package_has_the_files(chart, tmp_path):
    done = run("package", chart, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("thalweg-*.tgz")
    shown = run(
        "template", "thalweg", package, "-n", "thalweg", "-f", PROFILES["small"], "-f", OURS
    )
    there = [each for each in yaml.safe_load_all(shown.stdout) if each]
    main = named(there, "ConfigMap", "thalweg-catalogs")["data"]["main.yaml"]
    assert main == (ROOT / "catalogs" / "main.yaml").read_text()


@pytest.fixture(scope="module")
def crds(chart):
    """The schema of each of KubeRay's kinds."""
    found = {}
    for file in (chart / "charts" / "kuberay-operator" / "crds").glob("*.yaml"):
        spec = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]
        (schema,) = [v["schema"] for v in spec["versions"] if v["name"] == "v1"]
        found[spec["names"]["kind"]] = closed(schema["openAPIV3Schema"])
    return found


@pytest.mark.skipif(not REAL, reason="KubeRay's CRDs are not here: THALWEG_CHARTS")
def test_ray_clusters_and_jobs_keep_to_their_crds(everything, crds):
    (ray,) = by_kind(everything, "RayCluster")
    jsonschema.validate(ray, crds["RayCluster"])
    ray = json.loads(json.dumps(ray)) | {"spec": ray["spec"] | {"rayVersoin": "2"}}
    with pytest.raises(jsonschema.ValidationError, match="rayVersoin"):
        jsonschema.validate(ray, crds["RayCluster"])
    (job,) = by_kind(everything, "RayCronJob")
    jsonschema.validate(job, crds["RayCronJob"])
    jsonschema.validate(
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "now"}}
        | {"spec": job["spec"]["jobTemplate"]},
        crds["RayJob"],
    )


def test_a_ray_job_has_a_cluster_of_its_own_that_goes_with_it(everything):
    (job,) = by_kind(everything, "RayCronJob")
    spec = job["spec"]["jobTemplate"]
    assert (job["spec"]["schedule"], spec["entrypoint"]) == ("0 4 * * 0", "thalweg run evaluate")
    assert spec["shutdownAfterJobFinishes"]
    assert spec["activeDeadlineSeconds"] == 86400
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["maxReplicas"] == 4
    head, worker = (
        group["template"]["spec"]["containers"][0] for group in (cluster["headGroupSpec"], workers)
    )
    assert "THALWEG_DATABASE_URL" in {each["name"] for each in head["env"]}, "it keeps the record"
    assert "THALWEG_DATABASE_URL" not in {each["name"] for each in worker["env"]}
    assert head["image"] == worker["image"] == "ghcr.io/thalweg/thalweg:0.1.0"


@pytest.mark.skipif(not REAL, reason="KubeRay is not here: THALWEG_CHARTS")
def test_kuberay_makes_jobs_by_the_clock(everything):
    operator = pod(named(everything, "Deployment", "kuberay-operator"))
    assert "RayCronJob=true" in " ".join(operator["containers"][0]["args"])


def closed(schema):
    """The schema, with no key that it does not name: Kubernetes would drop those in silence."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    opened = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not opened:
        if schema["properties"].keys() != {"apiVersion", "kind", "metadata", "spec", "status"}:
            made.setdefault("additionalProperties", False)
        if schema["properties"].get("metadata") == {"type": "object"}:
            made["properties"]["metadata"] = {}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def test_prometheus_reads_the_hub_with_a_token(production):
    (monitor,) = by_kind(production, "ServiceMonitor")
    assert monitor["spec"]["endpoints"][0]["authorization"]["credentials"]["name"] == "hub"
