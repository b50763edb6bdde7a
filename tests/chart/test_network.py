"""Who may speak to whom, by the network policies of all charts together.

A policy that forgets a pod starves it in silence: a default deny comes with the chart.
"""

import ipaddress
import json

import pytest
from rendered import REAL, by_kind, named
from test_manifests import ray_pods
from test_parts import hub  # noqa: F401  (a fixture)

pytestmark = pytest.mark.skipif(
    not REAL, reason="the parts' own charts are not here: THALWEG_CHARTS"
)

KUBERNETES, DATABASE, S3 = ("172.20.0.1", 443), ("10.0.3.4", 5432), ("52.216.0.1", 443)
IDENTITY, METADATA = ("169.254.170.23", 80), ("169.254.169.254", 80)
PAGES = ("dashboards", "operations", "schedules", "thalweg-dagster-webserver")

ALLOWED = [
    *[("proxy", (page, 8000)) for page in PAGES],
    *[("hub", (page, 8000)) for page in PAGES],
    *[(page, ("hub", 8081)) for page in PAGES],
    *[("lab", to) for to in (("hub", 8081), ("traefik-dask-gateway", 8000), ("schedules", 8000),
                             ("trino", 8080), ("iceberg", 8181), DATABASE, S3, IDENTITY)],
    *[("run", to) for to in (("traefik-dask-gateway", 8000), ("iceberg", 8181), DATABASE, S3,
                             IDENTITY)],
    *[("ray", to) for to in (("ray", 6379), ("iceberg", 8181), DATABASE, S3, IDENTITY)],
    *[("dask", to) for to in (("dask", 8786), ("iceberg", 8181), S3, IDENTITY)],
    *[(name, DATABASE) for name in ("migrate", "pipelines-code", "dagster-daemon", "hub",
                                    "thalweg-dagster-webserver", "dashboards", "iceberg")],
    ("hub", ("lab", 8888)), ("proxy", ("lab", 8888)), ("hub", ("proxy", 8001)),
    ("api-dask-gateway", ("hub", 8081)),
    ("dagster-daemon", ("pipelines-code", 4000)),
    ("thalweg-dagster-webserver", ("pipelines-code", 4000)),
    ("kuberay-operator", ("ray", 8265)),
    ("prometheus", ("hub", 8081)),
    ("thalweg-test", ("proxy", 8000)),
]  # fmt: skip
REFUSED = [
    *[("lab", (page, 8000)) for page in PAGES if page != "schedules"],
    *[("lab", to) for to in (("lab", 8888), ("pipelines-code", 4000), ("ray", 8265), ("dask", 8787),
                             ("thalweg-dagster-webserver", 3000), ("10.0.9.9", 22), KUBERNETES)],
    *[(name, METADATA) for name in ("lab", "run", "dask", "ray", "dashboards", "migrate", "hub",
                                    "proxy")],
    ("run", ("hub", 8081)), ("run", ("ray", 8265)), ("dask", ("lab", 8888)),
    ("dashboards", ("pipelines-code", 4000)), ("proxy", ("pipelines-code", 4000)),
    ("proxy", ("thalweg-dagster-webserver", 3000)),
    ("stranger", ("hub", 8081)), ("stranger", ("lab", 8888)), ("stranger", ("dashboards", 8000)),
]  # fmt: skip


@pytest.fixture(scope="module")
def pods(everything, hub):  # noqa: F811
    """Each kind of pod: its labels, its named ports, the namespace that it is in."""
    found = {}
    for each in by_kind(everything, "Deployment", "DaemonSet", "StatefulSet", "Job"):
        found[each["metadata"]["name"]] = described(each["spec"]["template"])
    found["thalweg-test"] = described(named(everything, "Pod", "thalweg-test"))
    code = named(everything, "Deployment", "pipelines-code")["spec"]["template"]["spec"]
    env = {e["name"]: e.get("value") for e in code["containers"][0]["env"]}
    run = json.loads(env["DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT"])["k8s"]["labels"]
    found["run"] = {"labels": run, "ports": {}, "namespace": "thalweg"}
    found["lab"] = described(hub["pods"]["rosa small"])
    ray = described({"metadata": {"labels": {"ray.io/is-ray-node": "yes"}}, "spec": {}})
    assert list(ray_pods(everything))
    dask = described(
        {"metadata": {"labels": {"app.kubernetes.io/name": "dask-gateway"}}, "spec": {}}
    )
    nobody = {"labels": {}, "ports": {}, "namespace": "elsewhere"}
    prometheus = nobody | {"namespace": "monitoring"}
    return found | {"ray": ray, "dask": dask, "stranger": nobody, "prometheus": prometheus}


def described(pod):
    ports = [p for c in pod["spec"].get("containers", ()) for p in c.get("ports") or ()]
    names = {p["name"]: p["containerPort"] for p in ports if "name" in p}
    return {"labels": pod["metadata"]["labels"], "ports": names, "namespace": "thalweg"}


def may(objects, source, target, port):
    """Whether a pod may speak to another, or to an address, as Kubernetes decides it."""
    policies = [each["spec"] for each in by_kind(objects, "NetworkPolicy")]
    out = passes(policies, "Egress", source, target, port, target)
    return out and (
        isinstance(target, str) or passes(policies, "Ingress", target, source, port, target)
    )


def passes(policies, way, pod, other, port, target):
    if pod["namespace"] != "thalweg":
        return True
    rules, peers = {"Egress": ("egress", "to"), "Ingress": ("ingress", "from")}[way]
    mine = [
        p for p in policies if way in p["policyTypes"] and chosen(p["podSelector"], pod["labels"])
    ]
    names = {} if isinstance(target, str) else target["ports"]
    return not mine or any(
        (not rule.get(peers) or any(is_peer(peer, other) for peer in rule[peers]))
        and (
            not rule.get("ports")
            or port in [names.get(p["port"], p["port"]) for p in rule["ports"]]
        )
        for policy in mine
        for rule in policy.get(rules) or ()
    )


def is_peer(peer, other):
    """A block of addresses is no way to a pod: not every network takes it for one."""
    if isinstance(other, str) or "ipBlock" in peer:
        return isinstance(other, str) and "ipBlock" in peer and within(peer["ipBlock"], other)
    space = peer.get("namespaceSelector")
    name = {"kubernetes.io/metadata.name": other["namespace"]}
    here = other["namespace"] == "thalweg" if space is None else chosen(space, name)
    return here and chosen(peer.get("podSelector") or {}, other["labels"])


def within(block, address):
    inside = lambda cidr: ipaddress.ip_address(address) in ipaddress.ip_network(cidr)  # noqa: E731
    return inside(block["cidr"]) and not any(map(inside, block.get("except", ())))


def chosen(selector, labels):
    assert not selector.get("matchExpressions"), "not known here"
    return (selector.get("matchLabels") or {}).items() <= labels.items()


@pytest.mark.parametrize(("source", "target"), ALLOWED)
def test_what_belongs_together_may_speak(everything, pods, source, target):
    other, port = target
    assert may(everything, pods[source], pods.get(other, other), port)


@pytest.mark.parametrize(("source", "target"), REFUSED)
def test_nothing_else_may(everything, pods, source, target):
    other, port = target
    assert not may(everything, pods[source], pods.get(other, other), port)


def test_whoever_asks_kubernetes_reaches_it(everything, pods):
    """All pods whose account has rights there, of whichever chart."""
    bindings = by_kind(everything, "RoleBinding", "ClusterRoleBinding")
    accounts = {s["name"] for b in bindings for s in b["subjects"] if s["kind"] == "ServiceAccount"}
    asking = [
        each["metadata"]["name"]
        for each in by_kind(everything, "Deployment", "Job", "DaemonSet")
        if each["spec"]["template"]["spec"].get("serviceAccountName") in accounts
    ]
    assert {"hub", "user-scheduler", "hook-image-awaiter", "dagster-daemon"} <= set(asking)
    starved = [name for name in asking if not may(everything, pods[name], *KUBERNETES)]
    assert starved == []
