"""Create `.venv` from uv.lock: `python3 tools/env.py`. Needs Python 3.11 or newer, nothing else.

uv is taken from PATH, or fetched once into `.uv/`: with pip where there is pip, else straight from
the Python Package Index (a bare Debian python3 has neither pip nor venv).
"""

import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

UV = "0.13.8"
INDEX = "https://pypi.org/simple/uv/"
ROOT = Path(__file__).resolve().parents[1]
OWN = ROOT / ".uv"


def main():
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        sys.exit(f"Thalweg needs Python 3.11, 3.12 or 3.13; this is {platform.python_version()}")
    command = [find_uv(), "sync", "--frozen", "--no-python-downloads", "--python", sys.executable]
    environ = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    sys.exit(subprocess.run(command, cwd=ROOT, env=environ).returncode)


def find_uv():
    for path in (shutil.which("uv"), OWN / "bin" / "uv"):
        if path and Path(path).exists():
            return str(path)
    print(f"Fetching uv {UV}, which installs the rest")
    has_pip = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True)
    if has_pip.returncode == 0:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(OWN)]
        subprocess.run([*pip, f"uv=={UV}"], check=True)
    else:
        fetch_wheel()
    return str(OWN / "bin" / "uv")


def fetch_wheel():
    """Unpack the wheel of this machine, checked against the index's sha256."""
    machine = {"arm64": "arm64", "aarch64": "aarch64", "x86_64": "x86_64"}[platform.machine()]
    system = "macosx" if sys.platform == "darwin" else "manylinux"
    with urllib.request.urlopen(INDEX) as answer:
        links = re.findall(r'href="([^"#]+)#sha256=([0-9a-f]{64})"', answer.read().decode())
    url, sha256 = next(
        (urllib.parse.urljoin(INDEX, url), sha256)
        for url, sha256 in links
        if f"/uv-{UV}-" in url and system in url and machine in url
    )
    with urllib.request.urlopen(url) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != sha256:
        sys.exit(f"{url} came damaged: try again")
    archive = zipfile.ZipFile(io.BytesIO(content))
    program = next(n for n in archive.namelist() if n.endswith("/scripts/uv"))
    target = OWN / "bin" / "uv"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(archive.read(program))
    target.chmod(0o755)


if __name__ == "__main__":
    main()
