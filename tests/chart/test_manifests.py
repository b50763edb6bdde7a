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
CUSTOM = ("IngressRoute", "Middleware", "RayCluster", "ServiceMonitor")
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


def test_own_pods_are_restricted(everything):
    """The restricted pod security standard, and a root file system that cannot be written."""
    own = [each for each in by_kind(everything, *WORKLOADS) if is_ours(each)]
    assert {
        "dashboards",
        "operations",
        "pipelines-code",
        "iceberg",
        "trino",
        "verify-raw",
        "arrivals",
        "migrate",
    } <= {each["metadata"]["name"] for each in own}
    (ray,) = by_kind(everything, "RayCluster")
    groups = [ray["spec"]["headGroupSpec"], *ray["spec"]["workerGroupSpecs"]]
    for spec in [*map(pod, own), *(group["template"]["spec"] for group in groups)]:
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False, "a service THALWEG_… would be no setting"
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]["memory"]
        volumes = spec.get("volumes", ())
        assert all({"emptyDir", "configMap", "secret"} & set(volume) for volume in volumes)


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


@pytest.mark.skipif(not REAL, reason="KubeRay's CRDs are not here: THALWEG_CHARTS")
def test_the_ray_cluster_keeps_to_its_crd(production, chart):
    crd = chart / "charts" / "kuberay-operator" / "crds" / "ray.io_rayclusters.yaml"
    versions = yaml.load(crd.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1"]
    (ray,) = by_kind(production, "RayCluster")
    jsonschema.validate(ray, closed(schema))
    ray = json.loads(json.dumps(ray)) | {"spec": ray["spec"] | {"rayVersoin": "2"}}
    with pytest.raises(jsonschema.ValidationError, match="rayVersoin"):
        jsonschema.validate(ray, closed(schema))


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
