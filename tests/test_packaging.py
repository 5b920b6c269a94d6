"""Packaging: bounds of dependencies, the lock file, and built distributions."""

from __future__ import annotations

import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import fastbn

pytest.importorskip("build")
pytest.importorskip("hatchling")
packaging = pytest.importorskip("packaging.requirements")
utils = pytest.importorskip("packaging.utils")

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = ROOT / "requirements"


def requirements(lines):
    """Return requirements by name, without the package's own extras."""
    parsed = [packaging.Requirement(line) for line in lines]
    return {utils.canonicalize_name(r.name): r for r in parsed if r.name != "fastbn"}


def direct():
    every = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    return requirements(every)


def lowest_version(requirement):
    """Return the lower bound as a pin; a few requirements also have an upper bound."""
    (bound,) = [bound for bound in requirement.specifier if bound.operator == ">="]
    return f"=={bound.version}"


def locked():
    """Return the entries of the lock file: requirement, list of hashes."""
    text = re.sub(r"^\s*#.*\n", "", (REQUIREMENTS / "dev.lock").read_text(), flags=re.MULTILINE)
    entries = []
    for line in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        entries.append((packaging.Requirement(requirement), hashes))
    return entries


def test_lowest_versions_are_the_lower_bounds():
    lines = (REQUIREMENTS / "lowest.txt").read_text().splitlines()
    lowest = requirements(line for line in lines if not line.startswith("#"))
    expected = {name: lowest_version(r) for name, r in direct().items()}
    assert {name: str(r.specifier) for name, r in lowest.items()} == expected
    assert all(re.fullmatch(r"==\d+(\.\d+)*", version) for version in expected.values())


def test_the_build_backend_has_one_bound():
    assert PYPROJECT["build-system"]["requires"] == [str(direct()["hatchling"])]


def test_the_lock_file_pins_all_that_is_installed():
    for requirement, hashes in locked():
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", found) for found in hashes), requirement
    here = {
        utils.canonicalize_name(r.name): str(r.specifier)[2:]
        for r, _ in locked()
        if r.marker is None or r.marker.evaluate()
    }
    for name, requirement in direct().items():
        if name != "torch":
            assert requirement.specifier.contains(here[name]), name


def test_the_lock_file_has_no_local_paths():
    text = (REQUIREMENTS / "dev.lock").read_text()
    assert "://" not in text
    assert "file:" not in text
    assert not re.search(r"(^|\s)(/|\.\.|~)", text)


def test_contributing_says_how_to_renew_the_lock_file():
    command = (REQUIREMENTS / "dev.lock").read_text().splitlines()[1].removeprefix("#").strip()
    command = command.replace("--output-file", "--upgrade --output-file")  # uv does not write it
    assert f"`{command}`" in (ROOT / "CONTRIBUTING.md").read_text()


def test_forks_run_the_command_of_the_readme():
    workflow = ROOT / ".github" / "workflows" / "tests.yml"
    if not workflow.exists():
        pytest.skip("not in a source distribution")
    readme = (ROOT / "README.md").read_text()
    _, command = re.findall(r"^```sh\n(.*)\n```$", readme, flags=re.MULTILINE)
    text = workflow.read_text()
    assert f"run: {command}\n" in text
    versions = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert f'python: "{versions[0]}"' in text
    assert f'python: "{versions[-1]}"' in text


def test_only_numba_has_an_upper_bound():
    bounded = {name for name, r in direct().items() if len(r.specifier) > 1}
    assert bounded == {"numba"}


def test_forks_try_the_numba_that_is_too_new():
    workflow = ROOT / ".github" / "workflows" / "newest-numba.yml"
    if not workflow.exists():
        pytest.skip("not in a source distribution")
    text = workflow.read_text()
    installed = text.index("pip install -e '.[all,dev]'")
    assert installed < text.index("pip install --upgrade --pre numba\n") < text.index("pytest ")
    assert "continue-on-error: true" in text


@pytest.fixture(scope="module")
def tracked():
    """Return the paths of tracked files."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository")
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [path for path in listed.split("\0") if path and (ROOT / path).is_file()]


def copy(tracked, folder, mode, time):
    for path in tracked:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
        target.chmod(mode | (ROOT / path).stat().st_mode & 0o100)
        os.utime(target, (time, time))


def built(folder, out):
    """Build the source distribution, and the wheel from it."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(folder)]
    environment = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def distributions(tracked, tmp_path_factory):
    """Build from a copy that contains files left behind by Python, numba and tools."""
    folder = tmp_path_factory.mktemp("build")
    copy(tracked, folder / "fastbn", 0o644, 1.6e9)
    left = ["kernels/__pycache__/a.cpython-311.pyc", "a.nbi", "a.1.nbc", ".mypy_cache/a.json"]
    for path in (folder / "fastbn" / "fastbn" / name for name in left):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left behind")
    return built(folder / "fastbn", folder / "dist")


def test_two_builds_are_the_same(tracked, distributions, tmp_path):
    copy(tracked, tmp_path / "elsewhere", 0o600, 1.7e9)
    for one, other in zip(distributions, built(tmp_path / "elsewhere", tmp_path), strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()


def test_the_wheel_is_the_package_and_its_licences(tracked, distributions):
    wheel = distributions[1]
    version = fastbn.__version__
    assert wheel.name == f"fastbn-{version}-py3-none-any.whl"  # no compiler
    info = f"fastbn-{version}.dist-info"
    licences = [f"{info}/licenses/{path}" for path in PROJECT["license-files"]]
    metadata = [f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")]
    package = [path for path in tracked if path.startswith("fastbn/")]
    with zipfile.ZipFile(wheel) as archive:
        assert sorted(archive.namelist()) == sorted(package + licences + metadata)
        for path in package:
            assert archive.read(path) == (ROOT / path).read_bytes()


def test_the_metadata(distributions):
    with zipfile.ZipFile(distributions[1]) as archive:
        name = f"fastbn-{fastbn.__version__}.dist-info/METADATA"
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Name"] == "fastbn"
    assert metadata["Version"] == fastbn.__version__
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == PROJECT["license-files"]
    assert set(metadata.get_all("Provides-Extra")) == set(EXTRAS)
    core = [line for line in metadata.get_all("Requires-Dist") if ";" not in line]
    assert {packaging.Requirement(line) for line in core} == {
        packaging.Requirement(line) for line in PROJECT["dependencies"]
    }
    assert len(core) == len(PROJECT["dependencies"])
    readme = metadata.get_payload(decode=True).decode()
    assert readme.strip() == (ROOT / "README.md").read_text().strip()


def test_the_source_distribution_is_what_pyproject_says(tracked, distributions):
    include = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    expected = [path for path in tracked if any(f"{path}/".startswith(f"{i}/") for i in include)]
    for folder in ("tests/", "scripts/reliability/", "requirements/", "asv_benchmarks/history/"):
        assert any(path.startswith(folder) for path in expected), folder
    with tarfile.open(distributions[0]) as archive:
        top = f"fastbn-{fastbn.__version__}/"
        assert all(name.startswith(top) for name in archive.getnames())
        found = [name.removeprefix(top) for name in archive.getnames()]
    always = ["PKG-INFO", "pyproject.toml", ".gitignore"]
    assert sorted(found) == sorted(expected + always)
