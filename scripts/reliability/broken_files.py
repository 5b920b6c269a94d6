"""The trial of damaged model files and checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import pathlib
import pickle
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
from trial import Trial

import fastbn
from fastbn import BatchNormMLP, ModelFileError
from fastbn.files.tensor_file import MAX_HEADER

HANGS = 60.0  # seconds
OUTCOMES = ("ModelFileError", "loaded as the bytes say")
OBJECTS = 1 << 20  # bytes that Python's objects may take, beyond the header and twice the file

# Replacements of a number, a name or a list in a header.
ODD: list[Any] = [
    None, True, -1, 0, 1, 0.5, -0.0, 10**12, 2**63, 10**400, float("nan"), float("inf"), "", "F32",
    "F16", "\x00", "../../etc/passwd", [], {}, [0], [-1], [2**40, 2**40], [[]], "x" * 10_000,
]  # fmt: skip


def good_files(folder: pathlib.Path) -> list[bytes]:
    """Return files of several models, and of a checkpoint in the middle of an epoch."""
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((96, 20)), rng.integers(0, 4, 96)
    files = []
    for sizes, options in [
        ((20, 64, 4), {"input_normalization": "zscore"}),
        ((20, 32, 32, 4), {"dtype": "float64", "batch_norm_output": False, "dropout": 0.1}),
        ((20, 256, 4), {"batch_norm": False, "optimizer": "sgd"}),
        ((20, 4), {"input_normalization": "minmax", "weighted": True}),
    ]:
        path = folder / "model"
        model = BatchNormMLP(sizes, **options)
        model.metadata = {"classes": ["a", "b", "c", "d"]}
        model.fit(X, y, epochs=2, batch_size=16)
        model.save(path)
        files.append(path.read_bytes())

    path = folder / "checkpoint"
    train_on(BatchNormMLP((20, 64, 4)), path)
    files.append(path.read_bytes())
    return files


def train_on(model: BatchNormMLP, path: pathlib.Path) -> None:
    """Train for a few steps, from the checkpoint if there is one."""
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((96, 20)), rng.integers(0, 4, 96)
    start = model.steps

    def stop(model: BatchNormMLP, history: fastbn.History) -> None:
        if model.steps > start + 6:
            raise KeyboardInterrupt

    # a damaged checkpoint may make the loss infinite
    with contextlib.suppress(KeyboardInterrupt, fastbn.DivergenceError):
        model.fit(
            X, y, epochs=1000, batch_size=16, early_stopping=fastbn.EarlyStopping(999, "loss"),
            checkpoint=path, checkpoint_every=4, resume=True, callbacks=[stop], progress=False,
        )  # fmt: skip


def parted(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Split a safetensors file into its header and the rest."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def joined(header: Any, rest: bytes) -> bytes:
    """Return a safetensors file with this header and rest."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def flip_bits(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Flip some bits: anywhere, in the header, or in its length."""
    damaged = bytearray(data)
    end = [len(data), 8 + int.from_bytes(data[:8], "little"), 8][rng.integers(3)]
    for _ in range(rng.integers(1, 9)):
        damaged[rng.integers(end)] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def truncate(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Cut the end off."""
    return data[: rng.integers(len(data))]


def cut_out(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Remove or repeat some bytes in the middle."""
    first, last = sorted(rng.integers(len(data), size=2))
    return data[:first] + (data[last:] if rng.integers(2) else data[max(0, first - 100) :])


def overwrite(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Write bytes of another file, zeros or noise over some of this one."""
    first, last = sorted(rng.integers(len(data), size=2))
    other = files[rng.integers(len(files))].ljust(len(data), b"\0")
    fill = [other[first:last], bytes(last - first), rng.bytes(int(last - first))][rng.integers(3)]
    return data[:first] + fill + data[last:]


def swap_headers(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Take the header of another file, or only its configuration."""
    other = files[rng.integers(len(files))]
    if rng.integers(2):
        return joined(parted(other)[0], parted(data)[1])
    header, rest = parted(data)
    header["__metadata__"] = parted(other)[0]["__metadata__"]
    return joined(header, rest)


def other_architecture(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Change the configuration to that of another network."""
    header, rest = parted(data)
    said = json.loads(header["__metadata__"]["fastbn"])
    sizes = said["config"]["layer_sizes"]
    sizes[rng.integers(len(sizes))] = int(rng.choice([1, 2, 19, 2**24, 2**24 + 1]))
    if rng.integers(2):
        sizes += [int(2 ** rng.integers(25))] * int(rng.choice([1, 10, 10_000]))
    header["__metadata__"]["fastbn"] = json.dumps(said)
    return joined(header, rest)


def odd_values(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Replace one value of the header, or of fastbn's configuration in it."""
    header, rest = parted(data)
    said = json.loads(header["__metadata__"]["fastbn"])
    place: Any = said if rng.integers(2) else header
    while True:
        key = list(place)[rng.integers(len(place))] if isinstance(place, dict) else None
        key = int(rng.integers(len(place))) if key is None else key
        if not (isinstance(place[key], dict | list) and place[key] and rng.integers(4)):
            break
        place = place[key]
    place[key] = ODD[rng.integers(len(ODD))]
    if isinstance(header.get("__metadata__"), dict) and rng.integers(9):
        header["__metadata__"]["fastbn"] = json.dumps(said)
    return joined(header, rest)


MUTATIONS = [
    flip_bits, truncate, cut_out, overwrite, swap_headers, other_architecture, odd_values,
]  # fmt: skip


def is_what_it_says(model: BatchNormMLP, data: bytes) -> bool:
    """Tell whether a model equals its file, which is parsed here without fastbn."""
    header, rest = parted(data)
    said = json.loads(header.pop("__metadata__")["fastbn"])
    for name, view in model._engine.state().items():
        dtype = {"F32": np.float32, "F64": np.float64}[header[name]["dtype"]]
        numbers = np.frombuffer(rest[slice(*header[name]["data_offsets"])], dtype)
        if view.dtype != dtype or not np.array_equal(view, numbers.reshape(header[name]["shape"])):
            return False
    config = json.loads(json.dumps(dataclasses.asdict(model.config)))
    return (
        all(config[name] == value for name, value in said["config"].items())
        and (model.steps, model.epochs) == (said["steps"], said["epochs"])
        and model.metadata == said["metadata"]
        and model._engine.is_finite()
    )


def resume(path: pathlib.Path, what: str) -> None:
    """Resume from a damaged checkpoint; an error must leave the model as it was."""
    model = BatchNormMLP((20, 64, 4))
    before = pickle.dumps(model)
    try:
        train_on(model, path)
    except ValueError:  # the checkpoint is of another fit, or a ModelFileError
        assert pickle.dumps(model) == before, f"{what}: a refused checkpoint changed the model"
    else:
        assert model._engine.is_finite(), f"{what}: resumed to numbers that are not finite"


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Damage a file, load it, and compare."""
    rng = np.random.default_rng(seed)
    files = good_files(folder)
    path = folder / "damaged"
    for case in range(count):
        mutate = MUTATIONS[case % len(MUTATIONS)]
        data = mutate(rng, files[rng.integers(len(files))], files)
        path.write_bytes(data)
        what = mutate.__name__
        faulthandler.dump_traceback_later(HANGS, exit=True)
        tracemalloc.start()
        try:
            model = BatchNormMLP.load(path)
            outcome = "loaded as the bytes say" if is_what_it_says(model, data) else "wrong"
        except ModelFileError as error:
            outcome = "ModelFileError" if str(path) in str(error) else f"without a name: {error}"
        except Exception as error:
            outcome = repr(error)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            faulthandler.cancel_dump_traceback_later()
        most = 2 * len(data) + MAX_HEADER + OBJECTS
        assert peak <= most, f"{what}: {peak:,} bytes for a file of {len(data):,}"
        assert outcome in OUTCOMES, f"{what}: {outcome}"
        resume(path, what)
        yield outcome


TRIAL = Trial(
    "files",
    "A damaged model file raises ModelFileError, or loads exactly what its bytes say.",
    2000,
    cases,
)
