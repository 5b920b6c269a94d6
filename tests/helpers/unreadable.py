"""Invalid files of each kind, for tests of readers and commands."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile

import numpy as np

from fastbn import datasets
from fastbn.model import BatchNormMLP


def idx(kind, *sizes, data=b""):
    """Return the bytes of an IDX file."""
    return bytes([0, 0, kind, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + data


def npz(**arrays):
    """Return the bytes of an NPZ file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    """Return the bytes of an NPY file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_header(text):
    """Return the bytes of an NPZ file whose X has this header."""
    file = io.BytesIO()
    header = text.encode().ljust(118) + b"\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("X.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    return file.getvalue()


def safetensors(header, data=b""):
    """Return the bytes of a safetensors file."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


N = np.arange(6) % 2
MATRIX = np.arange(12.0).reshape(6, 2)
IMAGES = idx(8, 2, 2, 2, data=bytes(8))

IDX_FILES = {
    "empty": b"",
    "magic": b"\1" + IMAGES[1:],
    "kind": idx(7, 2, data=bytes(2)),
    "no-dimensions": idx(8),
    "dimensions": idx(8, *[1] * 33, data=bytes(1)),
    "half-a-header": IMAGES[:10],
    "short": IMAGES[:-1],
    "long": IMAGES + b"\0",
    "huge": idx(14, 2**32 - 1, 2**32 - 1, data=bytes(8)),
    "huge-and-empty": idx(8, 0, *[2**32 - 1] * 4),
    "cut.gz": gzip.compress(IMAGES)[:-9],
    "broken.gz": gzip.compress(IMAGES)[:12] + b"\xff" * 20,
    "twice.gz": gzip.compress(gzip.compress(IMAGES)),
}
NPZ_FILES = {
    "twice.npz": npz(X=MATRIX, x=MATRIX, y=N),
    "empty.npz": b"",
    "text.npz": b"X, y",
    "cut.npz": npz(X=MATRIX, y=N)[:-30],
    "no-y.npz": npz(X=MATRIX),
    "no-x.npz": npz(y=N),
    "pickled.npz": npz(X=MATRIX, y=np.array([object()] * 6)),
    "strings.npz": npz(X=MATRIX.astype(str), y=N),
    "complex.npz": npz(X=MATRIX + 1j, y=N),
    "records.npz": npz(X=np.zeros((6, 2), "f4,f4"), y=N),
    "dates.npz": npz(X=MATRIX.astype("M8[s]"), y=N),
    "nan.npz": npz(X=MATRIX * np.nan, y=N),
    "infinite.npz": npz(X=MATRIX + np.inf, y=N),
    "flat.npz": npz(X=MATRIX[0], y=N[:2]),
    "number.npz": npz(X=3.0, y=0),
    "none.npz": npz(X=MATRIX[:0], y=N[:0]),
    "short.npz": npz(X=MATRIX, y=N[:5]),
    "column.npz": npz(X=MATRIX, y=N[:, None]),
    "one-class.npz": npz(X=MATRIX, y=N * 0),
    "halves.npz": npz(X=MATRIX, y=N + 0.5),
    "nan-labels.npz": npz(X=MATRIX, y=N * np.nan),
    "complex-labels.npz": npz(X=MATRIX, y=N + 1j),
    "date-labels.npz": npz(X=MATRIX, y=N.astype("M8[s]")),
    "bytes.npz": npz(X=MATRIX, y=np.array([b"\xff", b"a"] * 3)),
    "widths.npz": npz(X_train=MATRIX, y_train=N, X_test=MATRIX[:, :1], y_test=N),
    "no-test.npz": npz(X_train=MATRIX, y_train=N),
    "header.npz": npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (10**9, 10**9), }"),
    "shape.npz": npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (2, -1), }"),
    "code.npz": npy_header("{'descr': __import__('os').getcwd(), 'shape': (2, 1), }"),
    "array.npz": npy(MATRIX),
}
CSV_FILES = {
    "empty.csv": b"",
    "blank.csv": b"\n\n\n",
    "header.csv": b"a,b,kind\n",
    "ragged.csv": b"a,b,kind\n1,2,ant\n1,bee\n",
    "word.csv": b"a,b,kind\n1,2,ant\nfour,2,bee\n",
    "nan.csv": b"a,kind\n1,ant\nnan,bee\n",
    "infinite.csv": b"a,kind\n1,ant\ninf,bee\n",
    "gap.csv": b"a,kind\n1,ant\n,bee\n",
    "no-label.csv": b"a,kind\n1,ant\n2,\n",
    "one-class.csv": b"a,kind\n1,ant\n2,ant\n",
    "one-column.csv": b"kind\n1\n2\n",
    "columns.csv": b"1," * (1 << 20) + b"1\n",
    "underscore.csv": b"a,kind\n1,ant\n1_0,bee\n",
    "regression.csv": b"a,y\n" + b"".join(b"%d,%d.5\n" % (i, i) for i in range(30)),
    "counts.csv": b"a,y\n" + b"".join(b"%d,%d\n" % (i, i) for i in range(30)),
    "two-rows.csv": b"a,kind\n1,ant\n2,bee\n",
    "nul.csv": b"a,kind\n1\0,ant\n2,bee\n",
    "latin.csv": "a,kind\n1,fourmi\n2,guêpe\n".encode("latin-1"),
    "wide.csv": "a,kind\n1,ant\n2,bee\n".encode("utf-16"),
    "quote.csv": b'a,kind\n"1,ant\n2,bee\n',
    "long.csv": b"a,kind\n" + b"1" * 200_000 + b",ant\n2,bee\n",
    "binary.csv": bytes(range(256)) * 3,
}
MODEL_FILES = {
    "empty.safetensors": b"",
    "zeros.safetensors": bytes(100),
    "long.safetensors": struct.pack("<Q", 2**62),
    "bare.safetensors": safetensors({}),
    "foreign.safetensors": safetensors({"__metadata__": {"format": "pt"}}),
    "words.safetensors": safetensors({"__metadata__": {"fastbn": "words"}}),
    "version.safetensors": safetensors({"__metadata__": {"fastbn": '{"format_version": 2}'}}),
    "nothing.safetensors": safetensors({"__metadata__": {"fastbn": '{"format_version": 1}'}}),
}
FOLDERS = {
    "folder": {},
    "three": {name: IMAGES for name in list(datasets.IDX_FILES.values())[:3]},
    "images": dict.fromkeys(datasets.IDX_FILES.values(), IMAGES),
    "labels": dict.fromkeys(datasets.IDX_FILES.values(), idx(8, 2, data=bytes(2))),
}
GOOD_FILES = {
    "good.csv": b"a,b,kind\n" + b"".join(b"%d,2,%c\n" % (i, b"ab"[i % 2]) for i in range(9)),
    "good.npz": npz(X=np.r_[MATRIX, MATRIX], y=np.r_[N, N]),
    "good.idx": IMAGES,
    "text.csv": b"no, file\n",
}


def write_files(folder):
    """Write all invalid files, some valid ones, and a model, other.safetensors."""
    for name in (*FOLDERS, "folder.png"):
        (folder / name).mkdir()
    for contents in (GOOD_FILES, IDX_FILES, NPZ_FILES, CSV_FILES, MODEL_FILES):
        for name, data in contents.items():
            (folder / name).write_bytes(data)
    for name, contents in FOLDERS.items():
        for file, data in contents.items():
            (folder / name / file).write_bytes(data)
    BatchNormMLP((2, 2)).save(folder / "other.safetensors")
    whole = (folder / "other.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-1])
    return folder
