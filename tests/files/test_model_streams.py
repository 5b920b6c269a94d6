"""Models in open binary files: memory, gzip, sockets, files without seek or buffer."""

from __future__ import annotations

import gzip
import io
import os
import socket
import tempfile
import threading
import tracemalloc

import numpy as np
import pytest

import fastbn
from fastbn import ModelFileError
from fastbn.model.saving import to_bytes


@pytest.fixture(scope="module")
def model():
    model = fastbn.BatchNormMLP((6, 9, 4), input_normalization="zscore", seed=5)
    x = np.random.default_rng(0).standard_normal((20, 6))
    model.partial_fit(x, np.arange(20) % 4)
    model.metadata = {"classes": ["a", "b", "c", "d"]}
    return model


def assert_same(one, other):
    assert to_bytes(one) == to_bytes(other)


class Stream:
    """A file that only has `read`, which returns a few bytes at a time."""

    def __init__(self, data, most=7):
        self.data, self.most = memoryview(data), most

    def read(self, size):
        block = bytes(self.data[: min(size, self.most)])
        self.data = self.data[len(block) :]
        return block


class Raw(io.RawIOBase):
    """A file that takes a few bytes at a time."""

    def __init__(self, most):
        self.data, self.most = b"", most

    def writable(self):
        return True

    def write(self, data):
        count = min(len(data), self.most) if self.most is not None else None
        self.data += bytes(data[:count])
        return count


def test_memory(model):
    file = io.BytesIO()
    model.save(file)
    assert file.getvalue() == to_bytes(model)
    file.seek(0)
    assert_same(fastbn.BatchNormMLP.load(file), model)


def test_reading_begins_where_the_file_is(model):
    file = io.BytesIO(b"before" + to_bytes(model))
    file.seek(6)
    assert_same(fastbn.BatchNormMLP.load(file), model)


@pytest.mark.parametrize("buffering", [0, -1])
def test_open_files(model, tmp_path, buffering):
    with open(tmp_path / "m", "wb", buffering=buffering) as file:
        model.save(file)
    assert (tmp_path / "m").read_bytes() == to_bytes(model)
    with open(tmp_path / "m", "rb", buffering=buffering) as file:
        assert_same(fastbn.BatchNormMLP.load(file), model)


def test_gzip(model, tmp_path):
    with gzip.open(tmp_path / "m.gz", "wb") as file:
        model.save(file)
    with gzip.open(tmp_path / "m.gz", "rb") as file:
        assert_same(fastbn.BatchNormMLP.load(file), model)
    (tmp_path / "m.gz").write_bytes((tmp_path / "m.gz").read_bytes()[:-100])
    with (
        gzip.open(tmp_path / "m.gz", "rb") as file,
        pytest.raises(ModelFileError, match="m.gz: .*reading failed: EOFError"),
    ):
        fastbn.BatchNormMLP.load(file)


def test_a_socket(model):
    one, other = socket.socketpair()

    def send():
        with one, one.makefile("wb") as file:
            model.save(file)

    thread = threading.Thread(target=send)
    thread.start()
    with other, other.makefile("rb", buffering=0) as file:
        loaded = fastbn.BatchNormMLP.load(file)
    thread.join()
    assert_same(loaded, model)


def test_reads_and_writes_that_are_short(model):
    assert_same(fastbn.BatchNormMLP.load(Stream(to_bytes(model))), model)
    file = Raw(1000)
    model.save(file)
    assert file.data == to_bytes(model)


@pytest.mark.parametrize("kind", [int, np.int64, np.uint16, np.array])
def test_a_write_that_counts_in_integers_of_another_kind(model, kind):
    class Some(io.BytesIO):
        def write(self, data):
            return kind(super().write(data[:1000]))

    file = Some()
    model.save(file)
    assert file.getvalue() == to_bytes(model)


def test_a_write_that_returns_nothing(model):
    class File:
        def write(self, data):
            self.data = data

    file = File()
    model.save(file)
    assert file.data == to_bytes(model)
    with pytest.raises(BlockingIOError, match="^path: "):
        model.save(Raw(None))
    with pytest.raises(OSError, match=r"^path: write\(\) took 0 of"):
        model.save(Raw(0))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 1000, -1])
def test_files_and_streams_that_end_early(model, tmp_path, size):
    data = to_bytes(model)[:size]
    with pytest.raises(ModelFileError, match="^<BytesIO>: .*ends after"):
        fastbn.BatchNormMLP.load(io.BytesIO(data))
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(ModelFileError, match="m: "):
        fastbn.BatchNormMLP.load(tmp_path / "m")


def test_streams_with_bytes_after_the_model(model):
    with pytest.raises(ModelFileError, match="goes on after"):
        fastbn.BatchNormMLP.load(io.BytesIO(to_bytes(model) + b"\0"))


def test_a_stream_that_never_ends(model):
    class Endless(Stream):
        def read(self, size):
            return super().read(size) or bytes(size)

    for start in (b"", to_bytes(model)[:-100], to_bytes(model)):
        with pytest.raises(ModelFileError):
            fastbn.BatchNormMLP.load(Endless(start, 1 << 20))


def test_files_that_are_not_binary(model, tmp_path):
    data = to_bytes(model)
    text = tempfile.NamedTemporaryFile("r+", dir=tmp_path)  # noqa: SIM115
    with text, open(tmp_path / "t", "w") as plain:
        for file in (io.StringIO("text"), text, sys_like(text), plain):
            with pytest.raises((TypeError, io.UnsupportedOperation), match="^path: expected a"):
                fastbn.BatchNormMLP.load(file)
        for file in (io.StringIO(), text, plain):
            with pytest.raises(TypeError, match="^path: expected a"):
                model.save(file)
    for wrong in (data, bytearray(data), memoryview(data)):
        with pytest.raises(TypeError, match=r"^path: .*wrap them in io.BytesIO$") as caught:
            fastbn.BatchNormMLP.load(wrong)
        assert len(str(caught.value)) < 150
    for wrong in (3, None, ["a"], object()):
        with pytest.raises(TypeError, match=r"^path: expected a path, or a binary file with read"):
            fastbn.BatchNormMLP.load(wrong)
        with pytest.raises(TypeError, match=r"^path: expected a path, or a binary file with write"):
            model.save(wrong)
    with pytest.raises(TypeError, match="^checkpoint: expected a path"):
        model.fit(np.eye(6), np.zeros(6, int), epochs=1, batch_size=6, checkpoint=io.BytesIO())


def sys_like(file):
    """Return a text file that does not look like one and contains binary data."""
    file.buffer.write(b"\xff" * 100)
    file.seek(0)
    return type("File", (), {"read": staticmethod(file.read)})()


def test_files_that_are_closed_or_open_the_other_way(model, tmp_path):
    (tmp_path / "m").write_bytes(to_bytes(model))
    with open(tmp_path / "m", "rb") as file:
        with pytest.raises(OSError, match="^path: expected a writable file"):
            model.save(file)
        assert_same(fastbn.BatchNormMLP.load(file), model)
    with pytest.raises(ValueError, match="^path: expected an open file"):
        fastbn.BatchNormMLP.load(file)
    with (
        open(tmp_path / "n", "wb") as file,
        pytest.raises(OSError, match="^path: expected a readable file"),
    ):
        fastbn.BatchNormMLP.load(file)
    with pytest.raises(ValueError, match="^path: expected an open file"):
        model.save(file)


def test_all_is_checked_before_the_first_byte(tmp_path):
    model, file = fastbn.BatchNormMLP((6, 9, 4)), io.BytesIO()
    model.metadata = {"a": object()}
    with pytest.raises(TypeError, match="^metadata: "):
        model.save(file)
    model.metadata = {}
    model.m[0] = np.nan
    with pytest.raises(ValueError, match="not written: optimizer.m"):
        model.save(file)
    with pytest.raises(ValueError, match="not written: optimizer.m"):
        to_bytes(model)
    assert file.getvalue() == b""


def test_models_of_many_layers_come_through_streams():
    """Their headers are many blocks long."""
    model = fastbn.BatchNormMLP((4, *[64] * 400, 3))
    assert_same(fastbn.BatchNormMLP.load(Stream(to_bytes(model), 1 << 20)), model)
    data = to_bytes(model)
    end = 8 + int.from_bytes(data[:8], "little")
    with pytest.raises(ModelFileError, match="it ends after"):
        fastbn.BatchNormMLP.load(io.BytesIO(data[:end]))


@pytest.mark.parametrize("kind", ["path", "stream"])
def test_loading_takes_less_memory_than_twice_the_file(tmp_path, kind):
    data = to_bytes(fastbn.BatchNormMLP((1000, 1000, 10)))
    (tmp_path / "m").write_bytes(data)
    source = tmp_path / "m" if kind == "path" else io.BytesIO(data)
    tracemalloc.start()
    fastbn.BatchNormMLP.load(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 12e6 < len(data) < peak < 2 * len(data)


def test_a_checkpoint_from_a_stream(model, tmp_path):
    x, y = np.random.default_rng(0).standard_normal((20, 6)), np.arange(20) % 4
    for dtype in ("float32", "float64"):  # it determines the order of tensors
        trained = fastbn.BatchNormMLP((6, 9, 4), dtype=dtype)
        trained.fit(
            x, y, epochs=2, batch_size=5, checkpoint=tmp_path / "c", checkpoint_every=3,
            early_stopping=fastbn.EarlyStopping(3, "loss"), progress=False,
        )  # fmt: skip
        loaded = fastbn.BatchNormMLP.load(Stream((tmp_path / "c").read_bytes(), 1000))
        assert_same(loaded, fastbn.BatchNormMLP.load(tmp_path / "c"))
    assert os.listdir(tmp_path) == ["c"]
