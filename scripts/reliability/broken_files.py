"""Model files and checkpoints that are damaged on purpose."""

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
OBJECTS = 1 << 20  # bytes that Python's own objects may take, beside header and twice the file

# What a number, a name or a list of a header may turn into.
ODD: list[Any] = [
    None, True, -1, 0, 1, 0.5, -0.0, 10**12, 2**63, 10**400, float("nan"), float("inf"), "", "F32",
    "F16", "\x00", "../../etc/passwd", [], {}, [0], [-1], [2**40, 2**40], [[]], "x" * 10_000,
]  # fmt: skip


def good_files(folder: pathlib.Path) -> list[bytes]:
    """Models of several kinds, and a checkpoint in the middle of an epoch."""
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
    go_on(BatchNormMLP((20, 64, 4)), path)
    files.append(path.read_bytes())
    return files


def go_on(model: BatchNormMLP, path: pathlib.Path) -> None:
    """Train for a while, or go on from a checkpoint for as long."""
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((96, 20)), rng.integers(0, 4, 96)
    start = model.steps

    def stop(model: BatchNormMLP, history: fastbn.History) -> None:
        if model.steps > start + 6:
            raise KeyboardInterrupt

    # what is read may be odd enough for the loss to become infinite
    with contextlib.suppress(KeyboardInterrupt, fastbn.DivergenceError):
        model.fit(
            X, y, epochs=1000, batch_size=16, early_stopping=fastbn.EarlyStopping(999, "loss"),
            checkpoint=path, checkpoint_every=4, resume=True, callbacks=[stop], progress=False,
        )  # fmt: skip


def parted(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the rest of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def joined(header: Any, rest: bytes) -> bytes:
    """Return the file of a header and what follows it."""
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
    """Lose or repeat some bytes in the middle."""
    first, last = sorted(rng.integers(len(data), size=2))
    return data[:first] + (data[last:] if rng.integers(2) else data[max(0, first - 100) :])


def overwrite(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Write bytes of another file, zeros or noise over some of this one."""
    first, last = sorted(rng.integers(len(data), size=2))
    other = files[rng.integers(len(files))].ljust(len(data), b"\0")
    fill = [other[first:last], bytes(last - first), rng.bytes(int(last - first))][rng.integers(3)]
    return data[:first] + fill + data[last:]


def swap_headers(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Put the header of another file before these tensors, or its configuration alone."""
    other = files[rng.integers(len(files))]
    if rng.integers(2):
        return joined(parted(other)[0], parted(data)[1])
    header, rest = parted(data)
    header["__metadata__"] = parted(other)[0]["__metadata__"]
    return joined(header, rest)


def huge_shapes(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Say that a tensor is larger than any memory."""
    header, rest = parted(data)
    name = list(header)[rng.integers(1, len(header))]
    size = int(rng.choice([2**31, 2**40, 2**62]))
    header[name]["shape"] = [size] * int(rng.integers(1, 4))
    if rng.integers(2):
        header[name]["data_offsets"][1] = size * 4
    return joined(header, rest)


def huge_header(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Say that the header is as long as that."""
    length = [len(data), 10**8 - 1, 10**8, 2**40, 2**63, 2**64 - 1][rng.integers(6)]
    return length.to_bytes(8, "little") + data[8:]


def other_architecture(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Let the configuration be of another network."""
    header, rest = parted(data)
    said = json.loads(header["__metadata__"]["fastbn"])
    sizes = said["config"]["layer_sizes"]
    sizes[rng.integers(len(sizes))] = int(rng.choice([1, 2, 19, 2**24, 2**24 + 1]))
    if rng.integers(2):
        sizes += [int(2 ** rng.integers(25))] * int(rng.choice([1, 10, 10_000]))
    header["__metadata__"]["fastbn"] = json.dumps(said)
    return joined(header, rest)


def odd_values(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Put something odd in the place of one value of the header, or of what fastbn says there."""
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


def deep(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Nest lists a thousand times and more, in the header or in what fastbn says there."""
    header, rest = parted(data)
    depth = int(rng.choice([100, 1_000, 100_000]))
    nested = "[" * depth + "]" * depth
    if rng.integers(2):
        header["__metadata__"]["fastbn"] = nested
        return joined(header, rest)
    text = json.dumps(header)[:-1] + f', "deep": {nested}}}'
    return len(text).to_bytes(8, "little") + text.encode() + rest


def crowded(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Say little a hundred thousand times: in what fastbn says, in its metadata, or in a header."""
    header, rest = parted(data)
    count, place = int(rng.choice([1_000, 100_000])), rng.integers(4)
    if place == 0:
        said = json.loads(header["__metadata__"]["fastbn"])
        value: Any = [[], {}, 1000, "", {"a": {}}][rng.integers(5)]
        said["metadata"] = {"a": [value] * count}
        header["__metadata__"]["fastbn"] = json.dumps(said, separators=(",", ":"))
    elif place == 1:
        header["__metadata__"].update({f"{number}": "" for number in range(count)})
    elif place == 2:
        tensor = {"dtype": "F32", "shape": [0], "data_offsets": [len(rest)] * 2}
        header.update({f"{number}": tensor for number in range(count)})
    else:
        said = json.loads(header["__metadata__"]["fastbn"])
        said["config"]["layer_sizes"] = [1] * count
        header["__metadata__"]["fastbn"] = json.dumps(said, separators=(",", ":"))
    return joined(header, rest)


def odd_numbers(rng: np.random.Generator, data: bytes, files: list[bytes]) -> bytes:
    """Put NaN, infinities or negative numbers among a tensor's."""
    header, rest = parted(data)
    header.pop("__metadata__")
    tensor = header[list(header)[rng.integers(len(header))]]
    kind = {"F32": np.float32, "F64": np.float64, "I64": np.int64}[tensor["dtype"]]
    damaged = bytearray(rest)
    first, last = (offset // kind().nbytes for offset in tensor["data_offsets"])
    numbers = np.frombuffer(damaged, kind)[first:last]
    odd = np.array([np.nan, np.inf, -np.inf, -1.0, 1e30][rng.integers(5)])
    with np.errstate(invalid="ignore"):
        if numbers.size:
            numbers[rng.integers(numbers.size)] = odd.astype(kind)
    return data[: len(data) - len(rest)] + bytes(damaged)


MUTATIONS = [
    flip_bits, truncate, cut_out, overwrite, swap_headers, huge_shapes, huge_header,
    other_architecture, odd_values, deep, crowded, odd_numbers,
]  # fmt: skip


def is_what_it_says(model: BatchNormMLP, data: bytes) -> bool:
    """Compare a model with its file, read here byte by byte."""
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
    """Go on from a damaged checkpoint: an error leaves the model as it was."""
    model = BatchNormMLP((20, 64, 4))
    before = pickle.dumps(model)
    try:
        go_on(model, path)
    except ValueError:  # of another fit, or as a ModelFileError
        assert pickle.dumps(model) == before, f"{what}: a refused checkpoint changed the model"
    else:
        assert model._engine.is_finite(), f"{what}: went on to numbers that are none"


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Damage a file, load it, and compare."""
    rng = np.random.default_rng(seed)
    files = good_files(folder)
    path = folder / "damaged"
    for case in range(count):
        mutate = MUTATIONS[case % len(MUTATIONS)]
        data = mutate(rng, files[rng.integers(len(files))], files)
        path.write_bytes(data)
        what = f"case {case}, {mutate.__name__}"
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
    "A damaged model file is a ModelFileError, or loads to exactly what its bytes say",
    2000,
    cases,
)
