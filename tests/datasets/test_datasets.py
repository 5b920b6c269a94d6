"""Data sets: the embedded digits, Fashion-MNIST, IDX folders and NPZ files."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import sys
import threading
import zipfile

import numpy as np
import pytest
from idx_files import write_idx

import fastbn
from fastbn import DataFileError, datasets
from fastbn.datasets import fashion_mnist
from fastbn.datasets.dataset import split


@pytest.fixture
def idx_folder(tmp_path, rng):
    folder = tmp_path / "little"
    folder.mkdir()
    for key, name in datasets.IDX_FILES.items():
        n = 30 if key.endswith("train") else 10
        values = rng.integers(0, 256, (n, 4, 3)) if key.startswith("X") else np.arange(n) % 5
        write_idx(folder / f"{name}.gz", values.astype(np.uint8), compress=True)
    return folder


def assert_split(data, n, n_features, n_classes):
    assert data.X_train.shape[1] == data.X_test.shape[1] == n_features
    assert len(data.X_train) + len(data.X_test) == n
    for y in (data.y_train, data.y_test):
        assert y.dtype == np.int64
        assert set(y) == set(range(n_classes))
    assert len(data.class_names) == n_classes


def test_digits():
    data = datasets.load_digits()
    assert_split(data, 1797, 64, 10)
    assert data.class_names == tuple("0123456789")
    X = np.concatenate([data.X_train, data.X_test])
    assert X.dtype == np.uint8
    assert (X.min(), X.max()) == (0, 16)
    shares = np.bincount(data.y_test) / np.bincount(data.y_train)
    assert shares.max() - shares.min() < 0.01, "every class gives the same share"


def test_digits_equal_scikit_learns():
    sklearn = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    expected, labels = sklearn.load_digits(return_X_y=True)
    data = datasets.load_digits()
    ours = np.c_[np.r_[data.X_train, data.X_test], np.r_[data.y_train, data.y_test]]
    theirs = np.c_[expected, labels]
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_the_split_is_seeded_and_disjoint():
    first, again, other = (datasets.load_digits(seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.X_test, again.X_test)
    assert not np.array_equal(first.X_test, other.X_test)
    X, test = (np.unique(part, axis=0) for part in (first.X_train, first.X_test))
    assert len(np.unique(np.r_[X, test], axis=0)) == len(X) + len(test), "no image is in both"
    half = datasets.load_digits(test_size=0.5)
    assert abs(len(half.X_test) - 1797 / 2) < 10


@pytest.mark.parametrize("size", [0.1, 0.5, 0.9])
def test_the_split_draws_from_each_class_in_turn(rng, size):
    """The split is the same in every version, so models are evaluated on unseen samples."""
    y = rng.integers(0, 7, 200)
    y[y == 6] = 5
    y[3] = 6  # one sample
    data = split(np.arange(200)[:, None], y, tuple("abcdefg"), "t", size, 3)
    generator, test = np.random.default_rng(3), []
    for label in range(7):
        members = generator.permutation(np.flatnonzero(y == label))
        test += members[: min(round(size * len(members)), len(members) - 1)].tolist()
    assert data.X_test[:, 0].tolist() == sorted(test)


def test_idx_folder(idx_folder):
    data = datasets.load_idx_folder(idx_folder)
    assert data.X_train.shape == (30, 12)
    assert data.X_test.shape == (10, 12)
    assert data.name == "little"
    assert data.class_names == ("0", "1", "2", "3", "4")
    assert np.array_equal(data.y_test, np.arange(10) % 5)


def test_idx_folders_that_do_not_fit_together(idx_folder, rng):
    labels = idx_folder / "train-labels-idx1-ubyte.gz"
    write_idx(labels, np.zeros(29, np.uint8), compress=True)
    with pytest.raises(DataFileError, match=r"train-labels.*expected 30 integer labels"):
        datasets.load_idx_folder(idx_folder)
    write_idx(labels, (np.arange(30) % 2).astype(np.uint8), compress=True)
    images = idx_folder / "t10k-images-idx3-ubyte.gz"
    write_idx(images, np.zeros((10, 5, 5), np.uint8), compress=True)
    with pytest.raises(DataFileError, match="one size, got 12 and 25"):
        datasets.load_idx_folder(idx_folder)
    for shape in ((10,), (0, 4, 3), (10, 0)):
        write_idx(images, np.zeros(shape, np.uint8), compress=True)
        with pytest.raises(DataFileError, match=r"t10k-images.*expected images, got shape"):
            datasets.load_idx_folder(idx_folder)
    images.unlink()
    with pytest.raises(DataFileError, match=r"expected the file t10k-images-idx3-ubyte"):
        datasets.load_idx_folder(idx_folder)


def test_idx_folders_with_files_both_gzipped_and_not(idx_folder):
    """torchvision leaves folders like this."""
    for name in datasets.IDX_FILES.values():
        plain = gzip.decompress((idx_folder / f"{name}.gz").read_bytes())
        (idx_folder / name).write_bytes(plain)
    assert datasets.load_idx_folder(idx_folder).X_train.shape == (30, 12)
    for damage in (plain[:-1] + b"\x09", plain[:-1]):
        (idx_folder / name).write_bytes(damage)
        with pytest.raises(DataFileError, match=f"{name}"):
            datasets.load_idx_folder(idx_folder)
    (idx_folder / name).write_bytes(plain[:-1] + b"\x09")
    message = f"expected {name}.gz and {name} to have the same content"
    with pytest.raises(DataFileError, match=message):
        datasets.load_features(idx_folder, n_features=12)


def test_fashion_mnist_is_looked_for_where_it_is_said_to_be(idx_folder, tmp_path, monkeypatch):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", nothing)
    monkeypatch.delenv("FASTBN_DATA", raising=False)
    with pytest.raises(DataFileError, match="FASTBN_DATA"):
        datasets.load_fashion_mnist(download=False)
    assert datasets.load_fashion_mnist(idx_folder).name == "fashion-mnist"
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", idx_folder)
    assert len(datasets.load_fashion_mnist(download=False).X_train) == 30
    monkeypatch.setenv("FASTBN_DATA", str(nothing))
    with pytest.raises(DataFileError, match="nothing: expected the file train-images"):
        datasets.load_fashion_mnist()
    monkeypatch.setenv("FASTBN_DATA", str(idx_folder))
    data = datasets.load("fashion-mnist")
    assert len(data.X_train) == 30
    assert data.class_names[9] == "Ankle boot"


def test_fashion_mnist_keeps_its_labels(idx_folder):
    """A missing class does not shift the names of the others."""
    for name in (datasets.IDX_FILES["y_train"], datasets.IDX_FILES["y_test"]):
        n = 30 if name.startswith("train") else 10
        labels = np.array([0, 2, 9], np.uint8)[np.arange(n) % 3]
        write_idx(idx_folder / f"{name}.gz", labels, compress=True)
    data = datasets.load_fashion_mnist(idx_folder)
    assert data.y_test.dtype == np.int64
    assert [data.class_names[label] for label in data.y_train[:3]] == [
        "T-shirt/top", "Pullover", "Ankle boot",
    ]  # fmt: skip
    write_idx(idx_folder / f"{name}.gz", np.arange(1, 11, dtype=np.uint8), compress=True)
    with pytest.raises(DataFileError, match=r"t10k-labels.*labels from 0 to 9, found 1 to 10"):
        datasets.load_fashion_mnist(idx_folder)


@pytest.fixture
def requests(idx_folder, tmp_path, monkeypatch):
    """Serve the folder's files instead of the real ones; return the requested paths."""
    pooch = pytest.importorskip("pooch", reason="pooch is not installed")
    monkeypatch.delenv("FASTBN_DATA", raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "nothing")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    for key, name in datasets.IDX_FILES.items():
        content = (idx_folder / f"{name}.gz").read_bytes()
        monkeypatch.setitem(fashion_mnist.SHA256, key, hashlib.sha256(content).hexdigest())
    paths = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=idx_folder)

        def log_message(self, *arguments):
            paths.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setattr(fashion_mnist, "URL", f"http://127.0.0.1:{server.server_port}/")
        yield paths
        server.shutdown()


def test_fashion_mnist_is_downloaded_once(requests):
    assert len(datasets.load_fashion_mnist().X_test) == 10
    assert requests == [f"/{name}.gz" for name in datasets.IDX_FILES.values()]
    assert len(datasets.load_fashion_mnist().X_train) == 30
    assert len(requests) == 4


@pytest.mark.usefixtures("requests")
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: gzip.compress(gzip.decompress(data) + b"x"),
        lambda data: data[:-9],
        lambda data: b"<html>",
    ],
)
def test_a_download_of_something_else_is_refused(idx_folder, damage):
    images = idx_folder / f"{datasets.IDX_FILES['X_test']}.gz"
    images.write_bytes(damage(images.read_bytes()))
    with pytest.raises(DataFileError, match=r"t10k-images.*\(SHA256 hash of.*FASTBN_DATA"):
        datasets.load_fashion_mnist()


@pytest.mark.usefixtures("requests")
def test_fashion_mnist_is_downloaded_without_standard_streams(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    assert len(datasets.load_fashion_mnist().X_train) == 30


@pytest.mark.usefixtures("requests")
def test_fashion_mnist_without_network_or_pooch(monkeypatch):
    def no_network(*arguments, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("pooch.retrieve", no_network)
    with pytest.raises(DataFileError, match=r"no route to host.*FASTBN_DATA.*pass it as path"):
        datasets.load_fashion_mnist()
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(fastbn.MissingExtraError, match=r"fastbn\[data\]"):
        datasets.load_fashion_mnist()


def test_the_real_fashion_mnist(fashion_mnist):
    data = fashion_mnist
    assert data.X_train.shape == (60000, 784)
    assert data.X_test.shape == (10000, 784)
    assert data.X_train.dtype == np.uint8
    assert (np.bincount(data.y_train) == 6000).all()
    assert (np.bincount(data.y_test) == 1000).all()
    assert data.X_train.mean() == pytest.approx(72.94, abs=0.01)
    assert data.X_train.std() == pytest.approx(90.02, abs=0.01)


def test_files_that_are_not_there(tmp_path):
    for name in ("t.csv", "t.npz"):
        with pytest.raises(DataFileError, match=name):
            datasets.load(tmp_path / name)
    with pytest.raises(DataFileError, match="expected digits, fashion-mnist"):
        datasets.load("mnist")


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_npz(tmp_path, rng):
    X, y = rng.standard_normal((40, 2, 3)), np.arange(40) % 4
    data = datasets.load(save(tmp_path / "a.npz", X=X, y=np.array(list("abcd"))[y]))
    assert_split(data, 40, 6, 4)
    assert data.class_names == ("a", "b", "c", "d")
    data = datasets.load(save(tmp_path / "s.npz", X=X, y=np.array(list("abcd"), "S1")[y]))
    assert data.class_names == ("a", "b", "c", "d")
    parts = save(tmp_path / "b.npz", X_train=X, y_train=y.astype(float), X_test=X[:8], y_test=y[:8])
    data = datasets.load_npz(parts)
    assert np.array_equal(data.X_test, X[:8].reshape(8, 6))
    assert np.array_equal(data.y_test, y[:8])


X, Y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
NPZ_REFUSED = [
    ({"a": X}, r"expected the key 'x_train', found \['a'\]"),
    ({"X": X}, r"expected the key 'y', found \['X'\]"),
    ({"Inputs": X, "Y": Y}, r"expected the key 'x_train', found \['Inputs', 'Y'\]"),
    ({"X": X, "y": Y[:3]}, r"y: expected shape \(4,\), got \(3,\)"),
    ({"X": X, "x": X, "y": Y}, "t.npz: expected one array 'x', found 'X' and 'x'"),
    ({"X": X, "Y": Y, "y": Y}, "t.npz: expected one array 'y', found 'Y' and 'y'"),
    (
        {"X_train": X, "y_train": Y, "X_test": X, "X_Test": X, "y_test": Y},
        "t.npz: expected one array 'x_test', found 'X_test' and 'X_Test'",
    ),
    ({"X": X[0], "y": Y}, "x: expected numbers of shape"),
    ({"X": X.astype(str), "y": Y}, "x: expected numbers"),
    ({"X": X * np.nan, "y": Y}, "x: expected finite numbers"),
    ({"X": X, "y": Y * 0.5}, "expected labels that are integers or names"),
    ({"X": X, "y": Y.astype(object)}, "y: cannot be read as NPZ: Object arrays"),
    ({"X": X, "y": Y * 1e30}, "y: expected labels that are integers or names"),
    ({"X": X[:0], "y": Y[:0]}, r"x: expected numbers of shape .* got float64 \(0, 2\)"),
    ({"X_train": X, "y_train": Y, "X_test": X[:0], "y_test": Y[:0]}, "x_test: expected numbers"),
    ({"X_train": X, "y_train": Y, "X_test": X[:, :1], "y_test": Y}, "x_test: expected 2 features"),
]


@pytest.mark.parametrize(("arrays", "message"), NPZ_REFUSED)
def test_npz_refused(tmp_path, arrays, message):
    with pytest.raises(DataFileError, match=message):
        datasets.load_npz(save(tmp_path / "t.npz", **arrays))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short"])
def test_files_that_are_not_npz(tmp_path, content):
    path = tmp_path / "t.npz"
    path.write_bytes(content)
    with pytest.raises(DataFileError, match="t.npz"):
        datasets.load_npz(path)


@pytest.mark.parametrize("size", [2**45, 2**70])
def test_npz_that_announces_an_absurd_array(tmp_path, size):
    path, array = tmp_path / "t.npz", io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (size, 1)}
    np.lib.format.write_array_header_1_0(array, header)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("X.npy", array.getvalue() + bytes(100))
    with pytest.raises(DataFileError, match="t.npz: X: cannot be read as NPZ"):
        datasets.load_npz(path)


def test_npz_damaged_anywhere(tmp_path, rng):
    """Damage that no checksum covers may go unnoticed; any other raises a DataFileError."""
    path = tmp_path / "t.npz"
    np.savez_compressed(path, X=rng.integers(0, 9, (40, 6)), y=np.arange(40) % 2)
    data = path.read_bytes()
    refused = 0
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            datasets.load_npz(path)
        except DataFileError:
            refused += 1
    assert refused > len(data) // 2


def test_npz_labels_that_look_like_regression(tmp_path):
    X = np.zeros((600, 2))
    for y in (np.arange(600) + 0.5, np.arange(600), np.arange(600.0), np.arange(600) % 101):
        np.savez(tmp_path / "t.npz", X=X, y=y)
        with pytest.raises(DataFileError, match=r"t.npz: y: .*regression"):
            datasets.load_npz(tmp_path / "t.npz")
        np.savez(tmp_path / "t.npz", X_train=X, y_train=y, X_test=X[:5], y_test=y[:5])
        with pytest.raises(DataFileError, match=r"t.npz: y_train: .*regression"):
            datasets.load_npz(tmp_path / "t.npz")
    np.savez(tmp_path / "t.npz", X=X, y=np.zeros((600, 3), int))
    with pytest.raises(DataFileError, match=r"got \(600, 3\): several labels"):
        datasets.load_npz(tmp_path / "t.npz")


def test_npz_names_that_are_not_read_may_differ_in_case_alone(tmp_path):
    data = datasets.load_npz(save(tmp_path / "t.npz", X=X, y=Y, w=Y, W=Y), test_size=0.5)
    assert_split(data, 4, 2, 2)


def test_a_single_array_is_no_npz(tmp_path):
    path = tmp_path / "t.npz"
    with open(path, "wb") as file:
        np.save(file, X)
    with pytest.raises(DataFileError, match="single array"):
        datasets.load_npz(path)


def test_features_with_and_without_labels(tmp_path, idx_folder):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,2,x\n3,4,y\n")
    X, y = datasets.load_features(path, n_features=2)
    assert np.array_equal(X, [[1, 2], [3, 4]])
    assert list(y) == ["x", "y"]
    path.write_text("a,b\n1,2\n3,4\n")
    X, y = datasets.load_features(path, n_features=2)
    assert np.array_equal(X, [[1, 2], [3, 4]])
    assert y is None
    X, y = datasets.load_features(path, n_features=1, target="a")
    assert np.array_equal(X, [[2], [4]])
    assert np.array_equal(y, [1, 3])
    X, y = datasets.load_features(save(tmp_path / "a.npz", X=np.ones((3, 2))), n_features=2)
    assert (X.shape, y) == ((3, 2), None)
    X, y = datasets.load_features(idx_folder, n_features=12)
    assert (X.shape, y.shape) == ((10, 12), (10,))
    X, y = datasets.load_features(idx_folder / "t10k-images-idx3-ubyte.gz", n_features=12)
    assert (X.shape, y) == ((10, 12), None)
    path.write_text("a,b,c,d\n1,2,3,x\n3,4,5,y\n")
    with pytest.raises(DataFileError, match="expected 2 features, found 4 columns, 0 of them"):
        datasets.load_features(path, n_features=2)
    with pytest.raises(DataFileError, match="expected 4 features, found 4 columns, 1 of them"):
        datasets.load_features(path, n_features=4, target="d")
    with pytest.raises(DataFileError, match="expected 5 features, found 12"):
        datasets.load_features(idx_folder, n_features=5)


def test_features_by_name(tmp_path, idx_folder):
    path = tmp_path / "t.csv"
    path.write_text("id,b,kind,a\n7,2,x,1\n8,4,y,3\n")
    X, y = datasets.load_features(path, n_features=2, feature_names=("a", " b "))
    assert np.array_equal(X, [[1, 2], [3, 4]])
    assert y is None
    _, y = datasets.load_features(path, n_features=2, feature_names=["a", "b"], target="kind")
    assert list(y) == ["x", "y"]
    with pytest.raises(DataFileError, match="expected the columns 'a', 'c', found none called 'c'"):
        datasets.load_features(path, n_features=2, feature_names=["a", "c"])
    with pytest.raises(ValueError, match="feature_names: expected 3 different names, got 2"):
        datasets.load_features(path, n_features=3, feature_names=["a", "b"])
    with pytest.raises(ValueError, match="feature_names: expected 2 different names, got 2, 1 of"):
        datasets.load_features(path, n_features=2, feature_names=["a", "a"])
    for names in ("ab", 5, [1, 2]):
        with pytest.raises(TypeError, match="feature_names: expected names of columns, got"):
            datasets.load_features(path, n_features=2, feature_names=names)
    path.write_text("a,b,b\n1,2,3\n")
    with pytest.raises(DataFileError, match="different names, found 2 called 'b'"):
        datasets.load_features(path, n_features=2, feature_names=["a", "b"])
    path.write_text("1,2\n3,4\n")
    X, _ = datasets.load_features(path, n_features=2, feature_names=["b", "a"])
    assert np.array_equal(X, [[1, 2], [3, 4]])  # no header: in the order of the file
    names = [str(i) for i in range(12)]
    X, _ = datasets.load_features(idx_folder, n_features=12, feature_names=names)
    assert X.shape == (10, 12)


def test_a_file_does_not_hide_the_data_set_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "digits").write_text("something else")
    monkeypatch.chdir(tmp_path)
    X, y = datasets.load_features("digits", n_features=64)
    data = datasets.load("digits")
    assert np.array_equal(X, data.X_test)
    assert np.array_equal(y, data.y_test.astype(str))
