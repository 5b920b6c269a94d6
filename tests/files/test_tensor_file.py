"""Headers of safetensors files: what safetensors writes and refuses, and fastbn's metadata."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

import fastbn
from fastbn import ModelFileError
from fastbn.checks import shown
from fastbn.files import model_file
from fastbn.files.tensor_file import DTYPES, parsed_header, tensors_of
from fastbn.model import memory, state
from fastbn.model.saving import to_bytes
from fastbn.model.state import MAX_COUNT

SIZES = (6, 9, 4)


def header_of(data):
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def joined(header, rest):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def as_written(data, text=None):
    """Return the bytes of a model file with another fastbn text."""
    header, rest = header_of(data)
    header["__metadata__"]["fastbn"] = text
    return joined(header, rest)


def read(data):
    """Read only a header, with our reader."""
    metadata, header = parsed_header(data[8 : 8 + int.from_bytes(data[:8], "little")].decode())
    return metadata, tensors_of(header)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m"


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@hypothesis.given(
    st.dictionaries(st.text(), st.tuples(shapes, st.sampled_from(list(DTYPES.values()))))
)
@hypothesis.settings(max_examples=100)
def test_what_safetensors_writes_is_read(tensors):
    tensors.pop("__metadata__", None)
    data = save({name: np.ones(*one) for name, one in tensors.items()}, {"a": "b", "é\n": "\0"})
    end = 8 + int.from_bytes(data[:8], "little")
    metadata, found = read(data)
    assert metadata == {"a": "b", "é\n": "\0"}
    assert {name: (one.shape, one.dtype) for name, one in found.items()} == tensors
    for name, one in deserialize(data):
        assert one["data"] == data[end + found[name].start : end + found[name].stop]


def tensor(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


BROKEN = {
    "a gap": {"a": tensor(), "b": tensor(offsets=(9, 17))},
    "an overlap": {"a": tensor(), "b": tensor(offsets=(4, 12))},
    "twice the same": {"a": tensor(), "b": tensor()},
    "not from 0": {"a": tensor(offsets=(4, 12))},
    "backwards": {"a": tensor(offsets=(8, 0))},
    "negative": {"a": tensor(offsets=(-8, 0))},
    "short": {"a": tensor(offsets=(0, 4))},
    "negative shape": {"a": tensor(shape=(-1, -2))},
    "huge shape": {"a": tensor(shape=(2**40, 2**40))},
    "shape of floats": {"a": tensor(shape=(2.0,))},
    "no list": {"a": {**tensor(), "shape": 2}},
    "three offsets": {"a": tensor(offsets=(0, 8, 8))},
    "unknown dtype": {"a": tensor("F33")},
    "no dtype": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "no object": {"a": [0, 8]},
    "a list": [],
    "metadata that are no strings": {"__metadata__": {"a": 1}},
    "metadata that is a list": {"__metadata__": []},
    "NaN": b'{"a": NaN}',
    "one key twice": b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "no end": b'{"a"',
    "no UTF-8": b'{"\xff": 1}',
    "a lone surrogate": b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_safetensors_refuses_is_refused(path, name):
    data = joined(BROKEN[name], bytes(8))
    with pytest.raises(SafetensorError):
        deserialize(data)
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="m: "):
        fastbn.BatchNormMLP.load(path)
    with pytest.raises(ValueError):  # noqa: PT011
        read(data)


STRICTER = {
    "one name twice": b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "another dtype": {"a": tensor("F16", (4,))},
    "more than it has to say": {"a": tensor(more=1)},
    "more dimensions than NumPy has": {"a": tensor(shape=[1] * 65, offsets=(0, 4))},
}


@pytest.mark.parametrize("name", STRICTER)
def test_headers_that_safetensors_takes_and_we_do_not_are_refused(name):
    with pytest.raises(ValueError, match="expected"):
        read(joined(STRICTER[name], b""))


def test_bytes_behind_the_tensors_are_refused(path):
    data = to_bytes(fastbn.BatchNormMLP(SIZES))
    path.write_bytes(data + b"\0")
    with pytest.raises(ModelFileError, match=f"expected {len(data):,} bytes, found"):
        fastbn.BatchNormMLP.load(path)


CUT = """
    import os, sys
    import fastbn
    from fastbn.files.tensor_file import Source
    path, how = sys.argv[1:]
    fill, calls = Source.fill, []

    def cut(self, numbers):  # right before a tensor is read
        calls.append(None)
        if len(calls) == 3:
            os.truncate(path, 1000)
        fill(self, numbers)

    Source.fill = cut
    try:
        if how == "load":
            fastbn.BatchNormMLP.load(path)
        else:
            import numpy as np
            fastbn.BatchNormMLP((400, 300, 4)).fit(
                np.eye(400), np.arange(400) % 4, epochs=1, batch_size=50, checkpoint=path,
                resume=True, progress=False,
            )
    except fastbn.ModelFileError as error:
        print("refused", error)
"""


@pytest.mark.parametrize("how", ["load", "resume"])
def test_a_file_that_is_cut_off_while_it_is_read(path, how):
    """If it were memory-mapped, SIGBUS would end the process."""
    fastbn.BatchNormMLP((400, 300, 4)).fit(
        np.eye(400), np.arange(400) % 4, epochs=1, batch_size=50, checkpoint=path, progress=False
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CUT), path, how], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"refused {path}: ")
    assert "it ends after" in done.stdout


def sparse(path, units):
    """Write a model file whose tensors are a hole in a sparse file."""
    small = to_bytes(fastbn.BatchNormMLP((2, 2), batch_norm=False))
    header, _ = header_of(small)
    said = json.loads(header["__metadata__"]["fastbn"])
    said["config"]["layer_sizes"] = [units, units]
    header["__metadata__"]["fastbn"] = json.dumps(said)
    end = 0
    for name, one in header.items():
        if name != "__metadata__":
            one["shape"] = [units] * len(one["shape"])
            size = int(one["dtype"][1:]) // 8 * math.prod(one["shape"])
            one["data_offsets"] = [end, end + size]
            end += size
    start = joined(header, b"")
    path.write_bytes(start)
    os.truncate(path, len(start) + end)
    return len(start) + end


def test_a_file_that_is_larger_than_the_memory(path):
    assert sparse(path, 160_000) > 300e9
    with pytest.raises(ModelFileError, match="m: expected tensors that fit the memory"):
        fastbn.BatchNormMLP.load(path)
    os.truncate(path, 200_000_000_000)
    with pytest.raises(ModelFileError, match="m: .*expected [0-9,]+ bytes, found"):
        fastbn.BatchNormMLP.load(path)


LIMITED = """
    import resource, sys
    import fastbn
    model = fastbn.BatchNormMLP((4, 3))
    if sys.argv[2] == "machine":
        from fastbn.model import state
        state.machine_memory = lambda: float("inf")
    limit = 4 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        fastbn.BatchNormMLP.load(sys.argv[1])
    except fastbn.ModelFileError as error:
        print("refused", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are kept by Linux alone")
@pytest.mark.parametrize("memory", ["machine", "limit"])
def test_a_file_that_is_larger_than_a_limit(path, memory):
    sparse(path, 30_000)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), path, memory],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"refused {path}: ")


def test_the_memory_of_a_container_counts(path, tmp_path, monkeypatch):
    (tmp_path / "limit").write_text("100000\n")
    (tmp_path / "none").write_text("max\n")
    limits = [str(tmp_path / name) for name in ("limit", "none", "missing")]
    monkeypatch.setattr(memory, "LIMITS", limits)
    assert memory.machine_memory() == 100_000
    fastbn.BatchNormMLP((100, 100, 10)).save(path)
    with pytest.raises(ModelFileError, match="fit the memory of this machine"):
        fastbn.BatchNormMLP.load(path)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", '{"b": [-1e999]}'])
def test_metadata_that_could_not_be_saved_is_not_loaded(path, text):
    model = fastbn.BatchNormMLP(SIZES)
    model.metadata = {"a": "here"}
    said = header_of(to_bytes(model))[0]["__metadata__"]["fastbn"].replace('"here"', text)
    path.write_bytes(as_written(to_bytes(model), said))
    with pytest.raises(ModelFileError, match="m: metadata: .*finite numbers, got -?(nan|inf)"):
        fastbn.BatchNormMLP.load(path)


def nested(depth, kind):
    value = None
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


@pytest.mark.parametrize("kind", [list, dict])
def test_how_deep_metadata_may_be(path, kind):
    model = fastbn.BatchNormMLP(SIZES)
    deepest = state.MAX_DEPTH - 1  # metadata is a dict itself
    model.metadata = {"a": nested(deepest, kind)}
    model.save(path)
    assert fastbn.BatchNormMLP.load(path).metadata == model.metadata
    said = header_of(to_bytes(model))[0]["__metadata__"]["fastbn"]
    said = said.replace("null]", "[null]]") if kind is list else said.replace(
        '"a": null}', '"a": {"a": null}}'
    )  # fmt: skip
    path.write_bytes(as_written(to_bytes(model), said))
    with pytest.raises(ModelFileError, match=f"metadata: .*nested {state.MAX_DEPTH} deep at most"):
        fastbn.BatchNormMLP.load(path)
    model.metadata = {"a": nested(deepest + 1, kind)}
    with pytest.raises(TypeError, match=f"^metadata: .*nested {state.MAX_DEPTH} deep at most"):
        model.save(path)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"a": {1: 2}}, "with keys that are strings, got 1"),
        ({"a": {None: 2}}, "with keys that are strings, got None"),
        ({"a": 10**5000}, "Exceeds the limit"),
        ({"a": [(1,)]}, r"got \(1,\)"),
        ({"a": b"x" * 10_000}, r"got b'x+\.\.\.$"),
    ],
)
def test_metadata_that_json_changes_is_not_saved(metadata, said):
    model = fastbn.BatchNormMLP(SIZES)
    model.metadata = metadata
    expected = f"^metadata: expected a dict that JSON can represent.*{said}"
    with pytest.raises(TypeError, match=expected) as caught:
        to_bytes(model)
    assert len(str(caught.value)) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats()
    | st.sampled_from(["\ud800", "\udfff\ud800", -0.0, 10**4000, 5e-324, "\0", "\U0001f40c"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("\ud800"), inner),
    max_leaves=20,
)  # fmt: skip
counts = st.integers(-2, 3) | st.integers(MAX_COUNT - 2, MAX_COUNT + 2) | st.integers()


COUNTABLE = range(MAX_COUNT + 1)


def is_json(value):
    """Return whether standard JSON can represent the values."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def same(one, other):
    """Compare bit by bit: -0.0 is not 0.0."""
    return repr(one) == repr(other)


@hypothesis.given(st.dictionaries(st.text(), json_values), counts, counts)
@hypothesis.settings(max_examples=150, deadline=None)
def test_what_is_saved_can_be_loaded(tmp_path_factory, metadata, steps, epochs):
    model = fastbn.BatchNormMLP((2, 2))
    path = tmp_path_factory.getbasetemp() / "saved"
    try:
        model.metadata, model.steps, model.epochs = metadata, steps, epochs
        model.save(path)
    except (TypeError, ValueError) as error:
        hypothesis.note(error)
        assert steps not in COUNTABLE or epochs not in COUNTABLE or not is_json(metadata)
        return
    loaded = fastbn.BatchNormMLP.load(path)
    assert same(loaded.metadata, metadata)
    assert (loaded.steps, loaded.epochs) == (steps, epochs)


header_values = json_values | counts | st.sampled_from([0.5, -0.0, 1e300, "float64", [2, 3], []])


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=300, deadline=None)
def test_what_loads_can_be_saved_and_loads_the_same(tmp_path_factory, data):
    """The test replaces values in the file's JSON by odd ones."""
    good = to_bytes(fastbn.BatchNormMLP((2, 2)))
    said = json.loads(header_of(good)[0]["__metadata__"]["fastbn"])
    for place in data.draw(st.lists(st.sampled_from(["config", "", "", "metadata"]), max_size=3)):
        where = said[place] if place else said
        if isinstance(where, dict) and (where or place == "metadata"):
            names = st.text(max_size=3) if place == "metadata" else st.sampled_from(list(where))
            where[data.draw(names)] = data.draw(header_values)
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(as_written(good, json.dumps(said)))
    try:
        model = fastbn.BatchNormMLP.load(path)
    except ModelFileError as error:
        hypothesis.note(error)
        return
    model.save(path)
    again = fastbn.BatchNormMLP.load(path)
    assert again.config == model.config
    assert (again.steps, again.epochs) == (model.steps, model.epochs)
    assert same(again.metadata, model.metadata)
    assert np.array_equal(again.params, model.params)


def at(steps=0, epochs=0):
    model = fastbn.BatchNormMLP(SIZES)
    model.steps, model.epochs = steps, epochs
    return model


X, Y = np.random.default_rng(0).standard_normal((20, 6)), np.arange(20) % 4


TRAININGS = {
    "train_step": lambda model: model.train_step(X, Y),
    "partial_fit": lambda model: model.partial_fit(X, Y, batch_size=10),
    "fit": lambda model: model.fit(X, Y, epochs=2, batch_size=20, progress=False),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_model_at_the_largest_count_takes_no_step(path, name):
    steps = 1 if name == "train_step" else 2
    model = at(MAX_COUNT - steps + 1)
    model.save(path)
    model = fastbn.BatchNormMLP.load(path)
    before = to_bytes(model)
    with pytest.raises(ValueError, match=f"^steps: expected at most {MAX_COUNT} in all"):
        TRAININGS[name](model)
    assert to_bytes(model) == before
    model = at(MAX_COUNT - steps)
    TRAININGS[name](model)
    assert model.steps == MAX_COUNT
    model.save(path)
    assert fastbn.BatchNormMLP.load(path).steps == MAX_COUNT


def test_epochs_that_cannot_be_counted(path):
    model = at(epochs=MAX_COUNT - 1)
    before = to_bytes(model)
    with pytest.raises(ValueError, match=f"^epochs: expected at most {MAX_COUNT} in all"):
        TRAININGS["fit"](model)
    assert to_bytes(model) == before
    model.fit(X, Y, epochs=1, batch_size=10, progress=False, checkpoint=path)
    assert fastbn.BatchNormMLP.load(path).epochs == MAX_COUNT


def test_a_fit_that_a_callback_ends_may_have_any_number_of_epochs():
    model = at(5, 5)
    model.fit(X, Y, epochs=sys.maxsize, batch_size=10, progress=False, callbacks=[lambda *_: True])
    assert (model.steps, model.epochs) == (7, 6)


@pytest.mark.parametrize("name", ["steps", "epochs"])
@pytest.mark.parametrize("odd", [-1, MAX_COUNT + 1, 1.5, "1", None, True])
def test_counts_that_no_file_can_hold(name, odd):
    model = at()
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected an integer"):
        setattr(model, name, odd)


def test_a_count_may_be_a_numpy_integer(path):
    model = at(np.int64(3))
    model.save(path)
    assert fastbn.BatchNormMLP.load(path).steps == 3


LONG = "x" * 6000


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastbn.BatchNormMLP((4, 3), activation=LONG),
        lambda: fastbn.BatchNormMLP((4, 3), lr=LONG),
        lambda: fastbn.BatchNormMLP((4, 3), lr=10**5000),
        lambda: fastbn.BatchNormMLP((4, 3), seed=10**5000),
        lambda: fastbn.BatchNormMLP((4, 3), seed=LONG),
        lambda: fastbn.BatchNormMLP((4, 3), nesterov=LONG),
        lambda: fastbn.BatchNormMLP((4, 3), betas=[LONG] * 3),
        lambda: fastbn.BatchNormMLP(LONG),
        lambda: fastbn.BatchNormMLP((LONG, 3)),
        lambda: fastbn.BatchNormMLP.load(LONG.encode()),
        lambda: fastbn.BatchNormMLP.load([LONG]),
        lambda: fastbn.BatchNormMLP((4, 3)).save([LONG]),
        lambda: fastbn.BatchNormMLP((4, 3)).save(LONG.encode()),
        lambda: at().fit(X, Y, epochs=1, batch_size=9, callbacks=LONG),
        lambda: at().fit(X, Y, epochs=1, batch_size=9, callbacks=[LONG]),
        lambda: at().fit(X, Y, epochs=1, batch_size=9, early_stopping=LONG),
        lambda: at().fit(X, Y, epochs=1, batch_size=9, progress=LONG),
        lambda: at().fit(X, Y, epochs=1, batch_size=9, checkpoint=LONG.encode()),
        lambda: at().fit(X, Y, epochs=1, batch_size=9, validation_data=[LONG] * 3),
        lambda: fastbn.datasets.load_csv(LONG.encode()),
        lambda: model_file.destination(b"x" * 6000),
    ],
)
def test_errors_do_not_repeat_what_is_long(call):
    with pytest.raises((TypeError, ValueError), match="^[a-z_0-9\\[\\]]+: ") as caught:
        call()
    assert len(str(caught.value)) < 400


def test_what_cannot_be_shown():
    class Odd:
        def __repr__(self):
            raise RuntimeError("no")

    assert shown(Odd()) == "Odd that cannot be shown"
    assert shown("x" * 300) == f"'{'x' * 199}..."
    assert shown([1, "a"]) == "[1, 'a']"
