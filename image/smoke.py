"""Import all that the image has: each module of the library, each package that it asks for.

python image/smoke.py
"""

import importlib
import pkgutil
import re
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

import thalweg

#: Packages of the group `cluster`, which the library's own list does not have.
CLUSTER = ("boto3", "dagster-k8s", "dagster-postgres")


def wanted():
    """Names of the library's modules, and of those that its dependencies bring."""
    for module in pkgutil.walk_packages(thalweg.__path__, "thalweg."):
        if not module.name.endswith(("__main__", "migrations.env")):
            yield module.name
    homes = {}
    for module, names in packages_distributions().items():
        for name in names:
            homes.setdefault(re.sub(r"[-_.]+", "-", name).lower(), []).append(module)
    for line in (*distribution("thalweg").requires, *CLUSTER):
        name = re.match(r"[\w.-]+", line)[0].lower()
        try:
            distribution(name)
        except PackageNotFoundError:
            continue  # a laptop's alone: the test of versions says which these are
        brought = [m for m in homes.get(name, ()) if m.isidentifier() and not m.startswith("_")]
        # Beside a module of its own name a package may bring plugins for what is not here.
        yield from {name.replace("-", "_")} & set(brought) or brought


def main():
    # The library first: it knows that ecCodes may not come before PROJ.
    modules = sorted(set(wanted()), key=lambda name: (not name.startswith("thalweg"), name))
    for module in modules:
        importlib.import_module(module)
    print(f"{len(modules)} modules imported")


if __name__ == "__main__":
    main()
