"""Numba's internals: the probe finds what is missing, and fastbn works without it."""

from __future__ import annotations

import ast
import hashlib
import os
import pathlib
import pkgutil
import subprocess
import sys
import textwrap

import pytest
from cases import JIT_DISABLED
from kept import kept_folder
from own_process import python_process, run_python

import fastbn
from fastbn.jit import numba_probe

SOURCES = pathlib.Path(fastbn.__file__).parent
TESTS = pathlib.Path(__file__).parents[1]

# Numba's documented interface for extensions.
FOR_EXTENSIONS = {"numba.core.cgutils", "numba.core.types", "numba.extending.intrinsic"}

# Internals that intrinsics cannot do without.
OF_INTRINSICS = {"numba.core.imputils.impl_ret_borrowed", "numba.np.arrayobj.populate_array"}


def test_this_numba_has_it_all():
    assert numba_probe.problem() is None


@pytest.mark.parametrize("path", numba_probe.CALLED)
def test_other_parameters_are_noticed(monkeypatch, path):
    place, _, name = path.replace(":", ".").rpartition(".")
    monkeypatch.setattr(pkgutil.resolve_name(place), name, lambda nobody: None)
    problems = list(numba_probe._problems())
    assert f"{path} has parameters nobody" in problems
    assert numba_probe.problem() == problems[0]


@pytest.mark.parametrize("path", [*numba_probe.CALLED, *numba_probe.SET])
def test_missing_internals_of_numba_are_noticed(monkeypatch, path):
    module, _, name = path.partition(":")
    monkeypatch.delattr(pkgutil.resolve_name(module), name.split(".")[0])
    assert f"{path} is not there" in list(numba_probe._problems())


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, name) for path, names in numba_probe.SET.items() for name in names.split()],
)
def test_an_attribute_that_is_gone_is_noticed(monkeypatch, path, name):
    module, _, owner = path.partition(":")
    kept = [other for other in numba_probe.SET[path].split() if other != name]
    code = "def __init__(self):\n    pass\n" + "".join(f"    self.{other} = 0\n" for other in kept)
    made = {other: None for other in kept}
    exec(code, made)  # an object or a class that has all attributes but this one
    replaced = type("replaced", (), made)
    monkeypatch.setattr(pkgutil.resolve_name(module), owner.split(".")[0], replaced)
    assert f"{path} has no {name}" in list(numba_probe._problems())


def imports_of_numba(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numba."):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_one_module_uses_the_internals():
    others = [path for path in SOURCES.rglob("*.py") if path.name != "numba_internals.py"]
    found = {
        (module_of(path), name)
        for path in others
        for name in imports_of_numba(path)
        if name not in FOR_EXTENSIONS
    }
    assert {name for _, name in found} == OF_INTRINSICS
    assert {module for module, _ in found} == {"jit.intrinsics.memory"}
    assert {path.replace(":", ".") for path in numba_probe.CALLED} >= OF_INTRINSICS


def module_of(path):
    return ".".join(path.relative_to(SOURCES).with_suffix("").parts)


def test_the_one_module_uses_what_is_probed():
    probed = [path.replace(":", ".") for path in (*numba_probe.CALLED, *numba_probe.SET)]
    for name in imports_of_numba(SOURCES / "jit" / "numba_internals.py"):
        assert any(f"{path}.".startswith(f"{name}.") for path in probed), name


# A numba whose compiler has one more parameter.
CHANGED = """
    import sys
    from numba.core.codegen import JITCodeLibrary
    enable = JITCodeLibrary.enable_object_caching
    JITCodeLibrary.enable_object_caching = lambda self, path=None: enable(self)
"""

FITTED = """
    import numpy as np, fastbn
    from fastbn import reference, reference_mlp
    from fastbn.doctor import report
    x = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)
    y, mean, rstd = fastbn.batch_norm(x)
    expected, _, _ = reference.batch_norm(x, np.ones(5), np.zeros(5))
    print(np.abs(y - expected).max())
    net = fastbn.BatchNormMLP((5, 8, 3), lr=0.02, seed=1)
    labels = 1 * (x[:, 0] > 0) + (x[:, 1] > 0)
    history = net.fit(x, labels, epochs=20, batch_size=20, progress=False)
    print(history.loss[-1] / history.loss[0])
    expected = reference_mlp.infer(
        dict(net.named_parameters()), net.snapshot(), x, slope=net.config.slope
    )
    print(np.abs(net.predict_logits(x) - expected.T).max())
    print(sum("has changed internals that fastbn uses" in text for text in report().warnings))
"""

TESTED = """
    import pytest
    sys.exit(pytest.main(sys.argv[1:]))
"""


def copy_package(folder):
    """Copy fastbn to `folder`, where numba finds what it compiled there in an earlier run.

    Numba keeps compiled code beside the sources and compares their times, which are those of the
    clone. The times of the copies depend on their contents only.
    """
    sources = {
        path.relative_to(SOURCES): path.read_bytes()
        for path in SOURCES.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    copy = folder / "fastbn"
    for path in copy.rglob("*.py"):
        if path.relative_to(copy) not in sources:
            path.unlink()
    for name, content in sources.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
        os.utime(copy / name, (0, int(hashlib.sha256(content).hexdigest()[:7], 16)))


@pytest.mark.compiles
@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
def test_a_numba_that_has_changed_gives_right_results(request, tmp_path_factory):
    folder = kept_folder(request, tmp_path_factory, "plain")  # half a minute of compiling
    copy_package(folder)
    environment = {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": ""}
    code = textwrap.dedent(CHANGED) + textwrap.dedent(FITTED)
    code += f"assert fastbn.__file__.startswith({str(folder)!r})\n"
    for _ in ("compiled", "loaded"):
        done = python_process(code, cwd=folder, **environment)
        batch_norm, learned, prediction, warnings = map(float, done.stdout.split())
        assert batch_norm < 2e-6
        assert learned < 0.5
        assert prediction < 1e-5
        assert warnings == 1
        assert done.stderr.count("enable_object_caching has parameters self, path") == 1
    assert list(folder.rglob("*.nbi"))
    # training steps, compared with the oracle
    options = ["-n", "0", "-q", "-p", "no:cacheprovider", "-k", "test_float32 and variant0"]
    code = textwrap.dedent(CHANGED) + textwrap.dedent(TESTED)
    file = str(TESTS / "kernels" / "test_training_steps.py")
    command = [sys.executable, "-c", code, *options, file]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 passed" in done.stdout


@pytest.mark.compiles
@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
def test_the_cache_of_a_numba_that_has_changed_is_its_own(tmp_path):
    """Numba cannot read our index, and we cannot use kernels that numba compiled in its own way."""
    code = """
        import numpy as np, fastbn
        print(fastbn.fold_batch_norm(np.ones((2, 2)), None, None, [0.0] * 2, [1.0] * 2)[1])
    """
    for before in ("", CHANGED, "", CHANGED):
        whole = textwrap.dedent(before) + textwrap.dedent(code)
        assert run_python(whole, NUMBA_CACHE_DIR=str(tmp_path)).strip() == "[0. 0.]"
