"""The job of a run, made of the rendered configuration; run by the Python of the tools.

python dagster_run.py < {"launcher": …, "context": …, "tags": …, "image": …}
"""

import json
import sys
from types import SimpleNamespace

import kubernetes
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

given = json.load(sys.stdin)
launcher = given["launcher"]
OF_JOBS = ("dagster_home", "instance_config_map", "postgres_password_secret")
names = SimpleNamespace(**{name: launcher[name] for name in OF_JOBS})
others = ("load_incluster_config", "job_namespace", "job_image", *OF_JOBS)
base = {name: value for name, value in launcher.items() if name not in others}
whole = (
    K8sContainerContext.create_from_config({"k8s": base})
    .merge(K8sContainerContext.create_from_config(given["context"]))
    .merge(K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(given["tags"])))
)
job = construct_dagster_k8s_job(
    whole.get_k8s_job_config(given["image"], names),
    ["dagster", "api", "execute_run"],
    "run",
    whole.run_k8s_config,
)
print("RESULT" + json.dumps(kubernetes.client.ApiClient().sanitize_for_serialization(job)))
