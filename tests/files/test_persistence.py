"""Model files: what is loaded, what is refused, and what a failed save leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
import pathlib
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fastbn
from fastbn import ModelFileError
from fastbn.files import model_file, tensor_file
from fastbn.model.saving import to_bytes

SIZES = (6, 9, 4)


@pytest.fixture
def trained(rng):
    x = rng.standard_normal((50, 6)).astype(np.float32)
    y = rng.integers(0, 4, 50)
    model = fastbn.BatchNormMLP(
        SIZES, input_normalization="zscore", batch_norm_output=False, dropout=0.1, seed=5
    )
    model.fit(x, y, epochs=2, batch_size=16)
    model.metadata["classes"] = ["a", "b", "c", "d"]
    return model, x, y


def test_a_loaded_model_is_the_same_to_the_bit(trained, tmp_path):
    model, x, y = trained
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = fastbn.BatchNormMLP.load(path)
    assert loaded.config == model.config
    assert loaded.metadata == model.metadata
    assert (loaded.steps, loaded.epochs) == (model.steps, model.epochs)
    assert np.array_equal(loaded.predict_proba(x), model.predict_proba(x))
    for each in (model, loaded):  # training continues in the same way
        each.fit(x, y, epochs=2, batch_size=16)
    assert np.array_equal(loaded.params, model.params)
    assert np.array_equal(loaded.m, model.m)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_an_untrained_model(tmp_path, dtype, batch_norm):
    model = fastbn.BatchNormMLP(SIZES, dtype=dtype, batch_norm=batch_norm)
    path = str(tmp_path / "model.safetensors")
    model.save(path)
    loaded = fastbn.BatchNormMLP.load(path)
    assert np.array_equal(loaded.params, model.params)
    assert loaded.params.dtype == np.dtype(dtype)


def test_an_unfitted_scaling_stays_unfitted(tmp_path):
    path = tmp_path / "m"
    fastbn.BatchNormMLP(SIZES, input_normalization="minmax").save(path)
    with pytest.raises(ValueError, match="is not fitted"):
        fastbn.BatchNormMLP.load(path).predict(np.zeros((1, 6)))


def test_the_file_is_plain_safetensors(trained, tmp_path):
    model, _, _ = trained
    model.save(tmp_path / "m")
    tensors = load_file(tmp_path / "m")
    weight = dict(model.named_parameters())["layers.0.weight"]
    assert np.array_equal(tensors["layers.0.weight"], weight)
    assert {"layers.0.running_var", "optimizer.v.layers.1.bias", "input.center"} <= set(tensors)
    assert "layers.1.running_var" not in tensors


def rewrite(path, change_tensors=None, change_header=None, change_text=str):
    tensors = load_file(path)
    with model_file.open_model(path) as file:
        header = file.header
    if change_tensors:
        change_tensors(tensors)
    if change_header:
        change_header(header)
    save_file(tensors, path, {"fastbn": change_text(json.dumps(header))})


@pytest.fixture
def assert_refused(trained, tmp_path):
    """Check that a trained model's file is refused after changes, with an error that names it."""

    def check(message, **changes):
        path = tmp_path / "m"
        trained[0].save(path)
        rewrite(path, **changes)
        with pytest.raises(ModelFileError, match=message) as caught:
            fastbn.BatchNormMLP.load(path)
        assert str(path) in str(caught.value)

    return check


def set_first(name, value):
    return {"change_tensors": lambda tensors: tensors[name].reshape(-1).__setitem__(0, value)}


def set_header(**values):
    return {"change_header": lambda header: header.update(values)}


def set_config(**values):
    return {"change_header": lambda header: header["config"].update(values)}


REFUSED = [
    ({"change_tensors": lambda t: t.pop("layers.0.gamma")}, "layers.0.gamma"),
    ({"change_tensors": lambda t: t.update(extra=np.zeros(3))}, "extra"),
    ({"change_tensors": lambda t: t.update({"layers.0.gamma": np.zeros(3, "f4")})}, "gamma.*9"),
    ({"change_tensors": lambda t: t.update({"layers.0.gamma": np.zeros(9)})}, "float64"),
    ({"change_header": lambda h: h.pop("format_version")}, "malformed"),
    ({"change_header": lambda h: h.pop("config")}, "config"),
    ({"change_header": lambda h: h["config"].pop("lr")}, "lr"),
    ({"change_text": lambda text: "[" * 15_000 + "]" * 15_000}, "malformed"),
    (set_header(format_version=99), "format version 1, got 99"),
    *[
        (set_header(format_version=version), "format version 1, got")
        for version in (0, True, 1.0, "1", None, -1)
    ],
    (set_header(config=[]), "config"),
    (set_config(lr=-1), "lr"),
    (set_config(surprise=1), "surprise"),
    (set_config(layer_sizes=[6, 8, 4]), "layers"),
    (set_config(layer_sizes=[10**7] * 3), "layers"),
    (set_header(steps=-1), "steps"),
    (set_header(steps=10**30), "steps"),
    (set_config(eps=10**400), "eps"),
    (set_header(metadata=3), "metadata"),
    (set_header(target_is_fitted=False), "target_is_fitted: .*True"),
    *[
        (set_first(name, -1.0), f"{name}: expected numbers of at least 0, got -1")
        for name in ("optimizer.v.layers.0.gamma", "layers.0.running_var")
    ],
    *[
        (set_first(name, odd), f"{name}: expected finite numbers")
        for odd in (np.nan, np.inf, -np.inf)
        for name in (
            "layers.0.weight", "layers.0.running_mean", "layers.0.running_var", "input.center",
            "input.scale", "optimizer.m.layers.1.bias", "optimizer.v.layers.0.gamma",
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_files_that_do_not_describe_a_model(assert_refused, changes, message):
    assert_refused(message, **changes)


@pytest.mark.parametrize("name", ["input_is_fitted", "target_is_fitted"])
def test_files_without_a_normalization_that_say_it_is_to_be_fitted(tmp_path, name):
    path = tmp_path / "m"
    fastbn.BatchNormMLP(SIZES).save(path)
    rewrite(path, change_header=lambda header: header.update({name: False}))
    with pytest.raises(ModelFileError, match=f"{name}: expected True without a normalization"):
        fastbn.BatchNormMLP.load(path)


def test_other_files(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ModelFileError, match="found none"):
            fastbn.BatchNormMLP.load(path)
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        fastbn.BatchNormMLP.load(tmp_path / ("a" * 300))
    save_file({"x": np.zeros(3)}, tmp_path / "foreign")
    with pytest.raises(ModelFileError, match="fastbn's metadata"):
        fastbn.BatchNormMLP.load(tmp_path / "foreign")


def test_a_failed_save_keeps_the_old_file_and_leaves_no_litter(trained, tmp_path, monkeypatch):
    model, _, _ = trained
    path = tmp_path / "m"
    model.save(path)
    before = path.read_bytes()
    model.train_step(np.eye(6), np.zeros(6, int))

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        model.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]


def test_places_that_cannot_be_written(trained, tmp_path):
    model, _, _ = trained
    with pytest.raises(IsADirectoryError, match="path: "):
        model.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="path: "):
        model.save(tmp_path / "missing" / "m")
    with pytest.raises(FileNotFoundError, match="path: "):
        model.save(tmp_path / "missing" / ".." / "m")
    with pytest.raises(OSError, match="path: expected a file to write, got .* too long"):
        model.save(tmp_path / ("a" * 300))
    model.metadata["odd"] = object()
    with pytest.raises(TypeError):
        model.save(tmp_path / "m")
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link_and_its_target_is_written(trained, tmp_path):
    model, x, _ = trained
    (tmp_path / "link").symlink_to(tmp_path / "target")
    model.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    loaded = fastbn.BatchNormMLP.load(tmp_path / "target")
    assert np.array_equal(loaded.predict(x), model.predict(x))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_what_is_not_a_file_is_not_replaced(trained, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="path: expected a regular file"):
        trained[0].save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    "metadata", [None, [1], {1: 2}, {"a": (1,)}, {"a": np.float32(1)}, {"a": np.nan}]
)
def test_metadata_that_would_not_come_back_is_refused(trained, tmp_path, metadata):
    trained[0].metadata = metadata
    with pytest.raises(TypeError, match="metadata: expected a dict"):
        trained[0].save(tmp_path / "m")
    assert os.listdir(tmp_path) == []


OLD = {  # the options of each file's model, and its logits for five unit vectors
    "model-format-1-first": (12, [0.839787, -1.144658, 0.795527]),
    "model-format-1": (12, [0.839787, -1.144658, 0.795527]),
    "checkpoint-format-1": (9, [0.898680, -1.187061, 0.798834]),
}


@pytest.mark.parametrize("name", OLD)
def test_files_of_every_format_stay_loadable(name):
    steps, logits = OLD[name]
    path = pathlib.Path(__file__).parents[1] / "data" / f"{name}.safetensors"
    model = fastbn.BatchNormMLP.load(path)
    assert (model.steps, model.epochs) == (steps, 3)
    assert np.allclose(model.predict_logits(np.eye(5))[0], logits, atol=1e-5)
    model.fit(np.eye(5), np.arange(5) % 3, epochs=1, batch_size=5)
    assert model.steps == steps + 1


# The data of the files below: numbers that are the same on every machine.
OLD_X = (np.arange(300).reshape(60, 5) * 7919 % 101 - 50) / 8
OLD_Y = np.arange(60) % 4


def test_an_old_file_of_float64():
    path = pathlib.Path(__file__).parents[1] / "data" / "model-format-1-float64.safetensors"
    model = fastbn.BatchNormMLP.load(path)
    assert np.allclose(model.predict_logits(np.eye(5))[0], [-0.12197695, -0.10261009], atol=1e-7)
    assert model.metadata["class_names"] == ["\u00e9t\u00e9", "hiver"]
    config = model.config
    assert (config.activation, config.loss, config.input_normalization, config.dtype) == (
        "tanh", "sigmoid_cross_entropy", "minmax", "float64",
    )  # fmt: skip
    assert (config.nesterov, config.weighted, config.unbiased, config.max_norm) == (
        True, True, False, 1.0,
    )  # fmt: skip
    assert (model.steps, model.epochs) == (12, 3)


def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path):
    """It was written in the third epoch; the expected numbers are of an uninterrupted fit."""
    name = "checkpoint-format-1-zscore.safetensors"
    (tmp_path / "c").write_bytes((pathlib.Path(__file__).parents[1] / "data" / name).read_bytes())
    model = fastbn.BatchNormMLP((5, 7, 4), input_normalization="zscore", dropout=0.1, seed=2)

    def go_on(x):
        return model.fit(
            x, OLD_Y, epochs=4, batch_size=16, schedule=lambda step: 0.02, progress=False,
            checkpoint=tmp_path / "c", checkpoint_every=3, resume=True,
            validation_data=(x[:20], OLD_Y[:20]), early_stopping=fastbn.EarlyStopping(5, "loss"),
        )  # fmt: skip

    with pytest.raises(ValueError, match="expected data as in"):
        go_on(OLD_X)  # float64, which that version rounded before scaling, and this one after it
    history = go_on(OLD_X.astype(np.float32))
    assert (model.steps, model.epochs) == (16, 4)
    assert np.allclose(history.loss, [1.731371, 1.653267, 1.744493, 1.607728], atol=1e-5)
    assert np.allclose(history.val_loss, [1.709093, 1.588371, 1.539685, 1.485871], atol=1e-5)
    logits = [0.13315445, -0.21941838, -0.44426745, -0.01047488]
    assert np.allclose(model.predict_logits(np.eye(5))[0], logits, atol=1e-5)


def test_the_fixtures_are_of_the_present_format():
    """A new version of the format needs new test files; keep the old ones."""
    data = pathlib.Path(__file__).parents[1] / "data"
    names = [path.name for path in data.glob("*.safetensors")]
    assert all(f"format-{model_file.FORMAT_VERSION}" in name for name in names)
    assert len(names) == len(OLD) + 2


def peak_of_refusal(path, message):
    """Return the peak memory of a load that is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=message):
            fastbn.BatchNormMLP.load(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [20_000, 500_000])
@pytest.mark.parametrize(
    "value",
    ["[]", "{}", "1000", '""', '{"a":{}}', "[" * 20 + "]" * 20],
    ids=["lists", "dicts", "numbers", "texts", "dicts of dicts", "nested"],
)
def test_a_header_that_would_fill_the_memory_is_refused(
    trained, tmp_path, monkeypatch, value, count
):
    """Parsing the short JSON would create objects of many times its size."""
    path = tmp_path / "m"
    trained[0].save(path)
    monkeypatch.setattr(tensor_file, "MAX_HEADER", 1 << 20)
    notes = f'"metadata":{{"a":[{",".join([value] * count)}]}},"format_version"'
    rewrite(path, change_text=lambda text: text.replace('"format_version"', notes))
    message = "expected a header of at most [0-9,]+"
    assert peak_of_refusal(path, message) < 300_000


@pytest.mark.parametrize("name", ["tensor", "note"])
def test_more_names_than_a_model_has_cost_nothing(trained, tmp_path, monkeypatch, name):
    path = tmp_path / "m"
    trained[0].save(path)
    monkeypatch.setattr(tensor_file, "MAX_HEADER", 1 << 20)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    for number in range(100_000):
        if name == "note":
            header["__metadata__"][f"{number}"] = ""
        else:
            tensor = {"dtype": "F32", "shape": [0], "data_offsets": [len(rest)] * 2}
            header[f"{number}"] = tensor
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + rest)
    message = "expected a header of at most [0-9,]+"
    assert peak_of_refusal(path, message) < 300_000


def test_models_of_many_layers_and_many_notes_are_written(tmp_path):
    path = tmp_path / "m"
    for sizes in [(4, *[16] * 120, 3), (4, *[64] * 400, 3)]:
        model = fastbn.BatchNormMLP(sizes)
        model.save(path)
        assert fastbn.BatchNormMLP.load(path).config.layer_sizes == sizes
    model = fastbn.BatchNormMLP((100_000, 16, 3))
    model.metadata = {"features": [f"feature number {number}" for number in range(100_000)]}
    model.save(path)
    assert fastbn.BatchNormMLP.load(path).metadata == model.metadata
    thin = fastbn.BatchNormMLP((*[1] * 1000, 2))
    thin.save(path)
    assert fastbn.BatchNormMLP.load(path).config == thin.config


def test_the_header_that_is_written_is_one_that_is_read(tmp_path, monkeypatch):
    """Writing and reading have the same limit."""
    path = tmp_path / "m"
    model = fastbn.BatchNormMLP((4, 3))
    data = to_bytes(model)
    cost = tensor_file.header_cost(data[8 : 8 + int.from_bytes(data[:8], "little")])
    monkeypatch.setattr(tensor_file, "MAX_HEADER", cost)
    model.save(path)
    fastbn.BatchNormMLP.load(path)
    monkeypatch.setattr(tensor_file, "MAX_HEADER", cost - 1)
    message = "expected a header of at most [0-9,]+ bytes in memory"
    with pytest.raises(ModelFileError, match=f"m: .*{message}"):
        fastbn.BatchNormMLP.load(path)
    with pytest.raises(ValueError, match=f"^metadata: {message}"):
        model.save(path)
    assert path.read_bytes() == data


def test_the_real_bound_refuses_what_would_take_hundreds_of_megabytes(trained, tmp_path):
    path = tmp_path / "m"
    trained[0].save(path)
    notes = f'"metadata":{{"a":[{",".join(["{}"] * 2_000_000)}]}},"format_version"'
    rewrite(path, change_text=lambda text: text.replace('"format_version"', notes))
    size = path.stat().st_size
    message = "expected a header of at most 100,000,000 bytes"
    assert peak_of_refusal(path, message) < 2 * size


def test_a_model_that_could_not_be_loaded_is_not_written(trained, tmp_path):
    path = tmp_path / "m"
    trained[0].save(path)
    before = path.read_bytes()
    trained[0].params[3] = np.inf
    with pytest.raises(ValueError, match=r"not written: layers.0.weight: expected finite numbers"):
        trained[0].save(path)
    assert path.read_bytes() == before


def in_a_child(work):
    """Run a function in a forked process, which may give up root; return its exception or None."""
    reader, writer = multiprocessing.get_context("fork").Pipe(duplex=False)

    def child():
        try:
            work()
        except BaseException as error:
            writer.send(f"{type(error).__name__}: {error}")
        else:
            writer.send(None)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    said = reader.recv()
    process.join()
    return said


posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@posix
def test_a_disk_that_is_full(trained, tmp_path):
    """A limit on the size of files makes writing fail half-way."""
    import resource

    path = tmp_path / "m"
    trained[0].save(path)
    before = path.read_bytes()

    def save():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
        trained[0].save(path)

    assert in_a_child(save).startswith("OSError: [Errno 27] File too large")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]


@posix
def test_a_folder_that_cannot_be_written(trained, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "m"
    trained[0].save(path)
    before = path.read_bytes()
    folder.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o011)

    def save():
        if os.getuid() == 0:
            os.setuid(65534)  # root may write everywhere
        trained[0].save(path)

    assert in_a_child(save).startswith("PermissionError: [Errno 13] Permission denied")
    folder.chmod(0o755)
    assert path.read_bytes() == before
    assert os.listdir(folder) == ["m"]


def test_the_temporary_file_is_in_the_same_folder(trained, tmp_path, monkeypatch):
    """Renaming is atomic only within a file system."""
    replace, seen = os.replace, []
    monkeypatch.setattr(
        os, "replace", lambda old, new: (seen.append(pathlib.Path(old).parent), replace(old, new))
    )
    trained[0].save(tmp_path / "m")
    assert seen == [tmp_path.resolve()]


def test_the_old_file_is_never_written_to(trained, tmp_path):
    """A hard link to the old file keeps all of its bytes."""
    model, x, y = trained
    model.save(tmp_path / "m")
    os.link(tmp_path / "m", tmp_path / "old")
    before = (tmp_path / "old").read_bytes()
    model.train_step(x, y)
    model.save(tmp_path / "m")
    assert (tmp_path / "old").read_bytes() == before != (tmp_path / "m").read_bytes()


def test_the_mode_of_a_new_file(trained, tmp_path):
    mask = os.umask(0o026)
    try:
        trained[0].save(tmp_path / "m")
    finally:
        os.umask(mask)
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["x" * 255, "\u00e9" * 127, "\U0001f40c" * 63])
def test_a_name_as_long_as_may_be(trained, tmp_path, name):
    trained[0].save(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_layers_without_tensors_cost_no_memory(trained, tmp_path):
    path = tmp_path / "m"
    trained[0].save(path)
    rewrite(
        path, change_header=lambda header: header["config"].update(layer_sizes=[6, *[2] * 9000])
    )
    peak = peak_of_refusal(path, "do not fit its 9000 layers")
    assert peak < 2 * path.stat().st_size + (1 << 20)


def test_metadata_that_is_too_deep(trained, tmp_path):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    trained[0].metadata["deep"] = deep
    try:
        with pytest.raises(TypeError, match="^metadata: expected a dict that JSON can represent"):
            trained[0].save(tmp_path / "m")
    finally:
        del trained[0].metadata["deep"]
        while deep:  # Python would free it recursively
            deep = deep[0]
