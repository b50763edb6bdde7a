"""The rendered Dask Gateway makes pods; run by the Python of the tools, prints JSON.

python dask_gateway.py CONFIG
"""

import asyncio
import json
import sys

from dask_gateway_server.backends.kubernetes import KubeBackend
from dask_gateway_server.backends.kubernetes.controller import KubeController
from dask_gateway_server.models import User
from traitlets.config import Config, PyFileConfigLoader


async def main(path):
    config = Config(PyFileConfigLoader(path).load_config())
    config.KubeBackend.gateway_instance = config.KubeController.gateway_instance = "thalweg"
    backend = KubeBackend(config=config)
    controller = KubeController(config=config)
    user = User("rosa", groups=["researchers"])
    _, cluster = await backend.process_cluster_options(user, {})
    pods = [
        controller.make_pod("thalweg", "abc", cluster, is_worker) for is_worker in (False, True)
    ]
    pods[1]["metadata"]["name"] = "dask-worker"
    print("RESULT" + json.dumps(pods))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
