"""The loops of a training step, one by one, called as in compiled code, on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from .common import DTYPES, Benchmark, call_first, find, normal

UNITS_ROWS = [(64, 64), (128, 128), (32, 6000), (1024, 256)]


class Loops(Benchmark):
    """Benchmarks of a layer, by its units and the rows of the minibatch."""

    params: Any = (UNITS_ROWS, DTYPES)
    param_names = ("units_rows", "dtype")


class Products(Loops):
    """out = a b with a square weight a, and both ways of packing b."""

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        self.multiply, self.pack_rows = (
            find(f"kernels.gemm.{name}") for name in ("multiply", "pack_rows")
        )
        try:
            pack = find("kernels.gemm.pack_panels_of_transpose")
        except NotImplementedError:
            self.pack_columns = find("kernels.gemm.pack_columns")
        else:
            self.pack_columns = lambda b, out, first, last: pack(b, first, last, out, first, last)
        units, rows = shape
        self.weight, self.b = normal(units, units, dtype=dtype), normal(units, rows, dtype=dtype)
        width = find("kernels.gemm.panel_width")(self.b)
        self.panels = np.zeros(units * -(-rows // width) * width, dtype)
        self.transposed = np.zeros(-(-units // width) * width * rows, dtype)
        self.out = np.empty_like(self.b)
        call_first(self.time_pack_rows, self.time_pack_columns, self.time_multiply)

    def time_multiply(self, *_: Any) -> None:
        units = self.out.shape[0]
        self.multiply(self.weight, self.panels, units, self.out, 0, units)

    def time_pack_rows(self, *_: Any) -> None:
        self.pack_rows(self.b, self.panels, 0, self.b.shape[0])

    def time_pack_columns(self, *_: Any) -> None:
        self.pack_columns(self.b, self.transposed, 0, self.b.shape[0])


class SingleRow(Loops):
    """The product of a single sample and the packed transpose of a square weight."""

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        self.multiply_row = find("kernels.gemm.multiply_row")
        units, _ = shape
        self.x = normal(1, units, dtype=dtype)
        width = find("kernels.gemm.panel_width")(self.x)
        self.panels = np.zeros(units * -(-units // width) * width, dtype)
        weight, self.out = normal(units, units, dtype=dtype), np.empty_like(self.x)
        find("kernels.gemm.pack_panels_of_transpose")(weight, 0, units, self.panels, 0, units)
        call_first(self.time_multiply_row)

    def time_multiply_row(self, *_: Any) -> None:
        self.multiply_row(self.x, self.panels, self.out)


class Gathering(Loops):
    """Gathering and scaling shuffled rows with as many features as the layer has units."""

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        self.gather_rows = find("kernels.preprocessing.gather_rows")
        units, rows = shape
        self.x, self.center = normal(4 * rows, units, dtype=dtype), normal(units, dtype=dtype)
        self.order = np.random.default_rng(1).permutation(4 * rows)[:rows]
        self.y = np.empty((rows, units), dtype)
        call_first(self.time_gather_rows)

    def time_gather_rows(self, *_: Any) -> None:
        self.gather_rows(self.x, self.order, 0, self.order.size, self.center, self.center, self.y)


class PanelGathering(Loops):
    """Gathering the same rows into panels."""

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        self.gather_panels = find("kernels.preprocessing.gather_panels")
        units, rows = shape
        self.x, self.center = normal(4 * rows, units, dtype=dtype), normal(units, dtype=dtype)
        self.order = np.random.default_rng(1).permutation(4 * rows)[:rows]
        width = find("kernels.gemm.panel_width")(self.x)
        self.panels = np.zeros(-(-units // width) * width * rows, dtype)
        call_first(self.time_gather_panels)

    def time_gather_panels(self, *_: Any) -> None:
        rows, units = self.order.size, self.center.size
        self.gather_panels(
            self.x, self.order, 0, rows, self.center, self.center, 0, units, self.panels
        )


class InputFits(Loops):
    """Range, and mean and deviation, of as many features as the layer has units."""

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        self.min_max_fit, self.standard_fit = (
            find(f"kernels.preprocessing.{name}") for name in ("min_max_fit", "standard_fit")
        )
        units, rows = shape
        self.x = normal(rows, units, dtype=dtype)
        self.low, self.high = np.empty((2, units), dtype)
        call_first(self.time_min_max_fit, self.time_standard_fit)

    def time_min_max_fit(self, *_: Any) -> None:
        self.min_max_fit(self.x, self.low, self.high)

    def time_standard_fit(self, *_: Any) -> None:
        self.standard_fit(self.x, self.low, self.high)


class GradientNorm(Benchmark):
    """The factor of gradient clipping, by number of parameters."""

    params: Any = ([1_000, 100_000, 3_000_000], DTYPES)
    param_names = ("parameters", "dtype")

    def setup(self, size: int, dtype: str) -> None:
        self.clip_factor = find("kernels.optimizers.clip_factor")
        self.grad = normal(size, dtype=dtype)
        call_first(self.time_clip_factor)

    def time_clip_factor(self, *_: Any) -> None:
        self.clip_factor(self.grad, 1.0)


class SoftmaxRows(Benchmark):
    """Softmax in place. After the first call it gets probabilities, which take as long."""

    params: Any = ([(1, 10), (6000, 10), (256, 1000)], DTYPES)
    param_names = ("rows_classes", "dtype")

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        self.softmax = find("kernels.losses.softmax_nc")
        self.logits = normal(*shape, dtype=dtype)
        call_first(self.time_softmax)

    def time_softmax(self, *_: Any) -> None:
        self.softmax(self.logits)


class BiasActivation(Loops):
    """A layer without batch norm, and dropout."""

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        names = ("bias_activation_forward_cn", "bias_activation_backward_cn", "dropout")
        self.forward, self.backward, self.drop = (
            find(f"kernels.activations.{name}") for name in names
        )
        self.key = find("kernels.activations.dropout_key")(0, 1, 2)
        self.z, self.da = normal(2, *shape, dtype=dtype)
        self.bias, self.dbias = normal(2, shape[0], dtype=dtype)
        self.out, self.slope = np.empty_like(self.z), self.z.dtype.type(0.01)
        self.flat = self.out.reshape(-1)
        call_first(self.time_forward, self.time_backward, self.time_dropout)

    def time_forward(self, *_: Any) -> None:
        self.forward(self.z, self.bias, self.slope, 0, len(self.bias), self.out)

    def time_backward(self, *_: Any) -> None:
        self.backward(
            self.da, self.z, self.bias, self.slope, 0, len(self.bias), self.out, self.dbias
        )

    def time_dropout(self, *_: Any) -> None:
        self.flat.fill(1)
        self.drop(self.flat, 0, 0.1, self.key)


class FeatureMajorLoss(Loops):
    """Loss, gradient and hits of logits (classes, rows)."""

    params: Any = ([(10, 64), (10, 6000), (1000, 256)], DTYPES)
    param_names = ("classes_rows", "dtype")

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        self.loss = find("kernels.losses.softmax_cross_entropy_cn")
        self.count = find("kernels.losses.count_correct_cn")
        self.logits = normal(*shape, dtype=dtype)
        rows = shape[1]
        self.labels = np.random.default_rng(1).integers(0, shape[0], rows)
        self.weight = np.full(rows, 1 / rows, dtype)
        self.work, self.dlogits = np.empty((3, rows), dtype), np.empty_like(self.logits)
        call_first(self.time_loss, self.time_count_correct)

    def time_loss(self, *_: Any) -> None:
        self.loss(
            self.logits, self.labels, self.weight, 0.0, 0, self.labels.size, self.work,
            self.dlogits,
        )  # fmt: skip

    def time_count_correct(self, *_: Any) -> None:
        self.count(self.logits, self.labels, 0, self.labels.size, self.work)


class TargetLosses(Benchmark):
    """Losses and gradients of outputs (outputs, rows), and hits of yes-or-no outputs."""

    params: Any = ([(1, 200), (10, 6000)], DTYPES)
    param_names = ("outputs_rows", "dtype")

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        names = ("sigmoid_cross_entropy_cn", "squared_error_cn", "count_agreeing_cn", "sigmoid")
        self.cross_entropy, self.error, self.count, self.squash = (
            find(f"kernels.losses.{name}") for name in names
        )
        self.rows = shape[1]
        self.outputs, self.out = normal(*shape, dtype=dtype), np.empty(shape, dtype)
        self.targets = (normal(*shape, dtype=dtype, seed=1) > 0).astype(dtype)
        self.weight = np.full(self.rows, 1 / self.rows, dtype)
        self.work = np.empty((1, self.rows), dtype)
        call_first(
            self.time_sigmoid_cross_entropy, self.time_squared_error, self.time_count_agreeing,
            self.time_sigmoid,
        )  # fmt: skip

    def time_sigmoid_cross_entropy(self, *_: Any) -> None:
        self.out[:] = self.targets
        self.cross_entropy(self.outputs, self.weight, 0.0, 0, self.rows, self.out)

    def time_squared_error(self, *_: Any) -> None:
        self.out[:] = self.targets
        self.error(self.outputs, self.weight, 0, self.rows, self.out)

    def time_count_agreeing(self, *_: Any) -> None:
        self.count(self.outputs, self.targets, 0, self.rows, self.work)

    def time_sigmoid(self, *_: Any) -> None:
        self.out[:] = self.outputs
        self.squash(self.out.reshape(-1))


class WeightedBatchNorm(Loops):
    """Batch norm with sample weights, forward and backward."""

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        self.forward, self.backward = (
            find(f"kernels.batchnorm.weighted_batch_norm_{way}_cn")
            for way in ("forward", "backward")
        )
        units, rows = shape
        self.x, self.dy = normal(units, rows, dtype=dtype), normal(units, rows, dtype=dtype, seed=1)
        self.out, self.weight = np.empty_like(self.x), np.full(rows, 1 / rows, dtype)
        self.gamma, self.beta, self.mean, self.rstd = np.ones((4, units), dtype)
        self.var, self.dgamma, self.dbeta = np.ones((3, units), dtype)
        self.eps, self.slope = self.x.dtype.type(1e-5), self.x.dtype.type(0.01)
        call_first(self.time_forward, self.time_backward)

    def time_forward(self, *_: Any) -> None:
        self.forward(
            self.x, self.weight, self.gamma, self.beta, self.eps, self.slope, 0, len(self.x),
            self.out, self.mean, self.var, self.rstd,
        )  # fmt: skip

    def time_backward(self, *_: Any) -> None:
        self.backward(
            self.dy, self.x, self.weight, self.gamma, self.beta, self.mean, self.rstd, self.slope,
            True, 0, len(self.x), self.out, self.dgamma, self.dbeta,
        )  # fmt: skip


class Curves(Loops):
    """tanh and the logistic function after batch norm, in place."""

    params: Any = (*Loops.params, ["tanh", "logistic"])
    param_names = (*Loops.param_names, "curve")

    def setup(self, shape: tuple[int, int], dtype: str, curve: str) -> None:
        self.forward, self.backward = (
            find(f"kernels.curves.curve_{way}") for way in ("forward", "backward")
        )
        self.code = find(f"kernels.curves.{curve.upper()}")
        self.z = normal(shape[0] * shape[1], dtype=dtype)
        self.da, number = self.z.copy(), self.z.dtype.type
        self.affine = number(0.1), number(1.5), number(-0.2)
        call_first(self.time_forward, self.time_backward)

    def time_forward(self, *_: Any) -> None:
        self.forward(self.code, self.z)

    def time_backward(self, *_: Any) -> None:
        self.backward(self.code, self.z, *self.affine, self.da)


class Addresses(Benchmark):
    """The kernels of `fastbn.torch`: batch norm and Adam of tensors given by address."""

    params: Any = ([(128, 128), (256, 256)], DTYPES, [True, False])
    param_names = ("samples_features", "dtype", "sample_major")

    def setup(self, shape: tuple[int, int], dtype: str, sample_major: bool) -> None:
        self.train, self.differentiate = (
            find(f"kernels.addresses.{name}") for name in ("train_at", "differentiate_at")
        )
        self.adam, part = find("kernels.tensors.adam_tensors"), find("kernels.optimizers.PART")
        pool = find("_openmp.NO_POOL")
        rows, features = shape
        sizes = (rows, features, 1) if sample_major else (1, features, rows)
        arrays = [normal(*shape, dtype=dtype, seed=seed) for seed in range(6)]
        vectors = [np.ones((2, features), dtype) for _ in range(4)]
        steps, counter = np.zeros(1, np.int64), np.zeros(1)
        for moment in arrays[4:]:
            moment[...] = 0
        self.kept = arrays, vectors, steps, counter
        x, y, dy, dx, m, v = (array.ctypes.data for array in arrays)
        stats = vectors[0]
        (gamma, beta), (mean, var), (dgamma, dbeta) = (
            [row.ctypes.data for row in pair] for pair in vectors[1:]
        )
        where, hyper = (stats, pool, 1), (1.0, 1e-3, 0.9, 0.999, 1e-8, 0.0)
        sizes, running = (sample_major, *sizes), (mean, var, steps.ctypes.data)
        self.forward = (*where, sizes, (x, gamma, beta, y), 1e-5, 0.01, 0.1, running)
        self.backward = (*where, sizes, (dy, x, gamma, beta), 0.01, True, (dx, dgamma, dbeta))
        table = np.array([[counter.ctypes.data, y, dy, m, v]])
        parts = np.array([0, -(-rows * features // part)])
        first = pool, 1, arrays[0].reshape(-1), counter, table, np.array([rows * features]), parts
        self.step = (*first, hyper, False, False)
        if self.adam.py_func.__code__.co_argcount > len(self.step):  # earlier: flat arguments
            affine = x, gamma, beta
            self.forward = (*where, *sizes, *affine, 1e-5, 0.01, 0.1, *running, y)
            self.backward = (*where, *sizes, dy, *affine, 0.01, True, dx, dgamma, dbeta)
            self.step = (*first, *hyper, False, False)
        call_first(self.time_train, self.time_differentiate, self.time_adam)

    def time_train(self, *_: Any) -> None:
        self.train(*self.forward)

    def time_differentiate(self, *_: Any) -> None:
        self.differentiate(*self.backward)

    def time_adam(self, *_: Any) -> None:
        self.adam(*self.step)
