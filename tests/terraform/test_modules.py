"""Format, validity, `terraform test` with a mocked AWS, and checkov's findings.

`make terraform-test`. Works on a copy, so that nothing is left in the clone. Terraform takes the
provider from where its CLI configuration says (`TF_CLI_CONFIG_FILE`), else from the registry.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from thalweg.pipelines import scheduler
from thalweg.warehouse.schema import NAMESPACE

CLONE = Path(__file__).resolve().parents[2]
TERRAFORM = CLONE / "terraform"
CHECKOV = Path(os.environ.get("THALWEG_CHECKOV", CLONE / ".cache" / "checkov" / "bin" / "checkov"))
ROOTS = ["bootstrap", *(f"environments/{name}" for name in ("dev", "staging", "prod"))]
TESTED = sorted(str(path.parent.relative_to(TERRAFORM)) for path in TERRAFORM.rglob("tests"))


def terraform(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["terraform", f"-chdir={folder}", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, f"terraform {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copied(target: Path) -> Path:
    ignored = shutil.ignore_patterns(".terraform", "*.tfstate*", "*.tfvars", "backend.hcl")
    shutil.copytree(TERRAFORM, target / "terraform", ignore=ignored)
    shutil.copytree(CLONE / "hub-config", target / "hub-config")
    return target / "terraform"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def mocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without generated secrets: Terraform 1.11 cannot mock ephemeral values."""
    copy = copied(tmp_path_factory.mktemp("mocked"))
    (copy / "modules/secrets/generated.tf").unlink()
    return copy


def test_formatted() -> None:
    terraform(TERRAFORM, "fmt", "-check", "-recursive", "-diff")


@pytest.mark.parametrize("root", ROOTS)
def test_valid_with_the_locked_provider(copy: Path, root: str) -> None:
    terraform(copy / root, "init", "-backend=false", "-input=false", "-lockfile=readonly")
    answer = json.loads(terraform(copy / root, "validate", "-json"))
    assert answer["valid"], answer["diagnostics"]
    assert not answer["diagnostics"]


@pytest.mark.parametrize("folder", TESTED)
def test_with_a_mocked_aws(mocked: Path, folder: str) -> None:
    terraform(mocked / folder, "init", "-backend=false", "-input=false")
    said = terraform(mocked / folder, "test", "-no-color")
    assert "0 failed" in said
    assert "Success! 0 passed" not in said


def test_every_module_is_tested() -> None:
    modules = {f"modules/{path.name}" for path in (TERRAFORM / "modules").iterdir()}
    assert modules <= set(TESTED)


def test_environments_differ_in_their_main_file_alone() -> None:
    for name in ("variables.tf", "outputs.tf", "terraform.tfvars.example", ".terraform.lock.hcl"):
        assert len({(TERRAFORM / root / name).read_text() for root in ROOTS[1:]}) == 1, name


def test_names_are_those_of_the_library() -> None:
    hub = (TERRAFORM / "modules/hub/main.tf").read_text()
    assert f'catalogue = "{NAMESPACE}"' in hub
    assert '"thalweg-runs"' in Path(scheduler.__file__).read_text()
    assert 'service_account = "thalweg-runs"' in hub


def test_checkov_finds_nothing_unexplained(copy: Path) -> None:
    assert CHECKOV.exists(), f"no {CHECKOV}: run `make terraform-test`"
    done = subprocess.run(
        [str(CHECKOV), "--skip-download", "--compact", "--framework", "terraform",
         "--output", "json", "--directory", str(copy)],
        capture_output=True, text=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    failed = [
        f"{one['check_id']} {one['resource']}: {one['check_name']}"
        for one in report["results"]["failed_checks"]
    ]
    assert not failed
    assert report["summary"]["passed"] > 200
    assert report["summary"]["parsing_errors"] == 0
    for one in report["results"]["skipped_checks"]:
        assert len(one["check_result"]["suppress_comment"]) > 20, one["check_id"]
