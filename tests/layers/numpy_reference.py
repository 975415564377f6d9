"""Linear maps and their two products, written in NumPy from the equations, in float64.

A map has `forward(x, w)`, `to_input(dy, w, x_shape)` (the error sent back on `w`) and
`to_kernel(x, dy, w_shape)` (the kernel's gradient). Nothing here uses TensorFlow or Keras.
"""

import dataclasses
import string
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray
Slices = tuple[slice, ...]


def effective(taps: tuple[int, ...], dilation: tuple[int, ...]) -> list[int]:
    """How far a dilated kernel reaches."""
    return [(k - 1) * d + 1 for k, d in zip(taps, dilation, strict=True)]


def outer(x: Array, y: Array) -> Array:
    """sum over samples and positions: x[.., i] y[.., o], of shape (i, o)."""
    return x.reshape(-1, x.shape[-1]).T @ y.reshape(-1, y.shape[-1])


@dataclasses.dataclass(frozen=True)
class Convolution:
    """y[o] = sum over taps k: x[o * stride + k * dilation - before] @ w[k], group by group.

    x (batch, ..positions, c_in), w (..taps, c_in / groups, c_out), y (batch, ..positions, c_out).
    """

    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str
    groups: int = 1

    def _padding(self, sizes: tuple[int, ...], taps: tuple[int, ...]) -> list[tuple[int, int]]:
        pads = []
        for n, k, s in zip(sizes, effective(taps, self.dilation), self.strides, strict=True):
            total = max((-(-n // s) - 1) * s + k - n, 0) if self.padding == "same" else 0
            total = k - 1 if self.padding == "causal" else total
            before = total if self.padding == "causal" else total // 2
            pads.append((before, total - before))
        return pads

    def _taps(
        self, padded: tuple[int, ...], taps: tuple[int, ...], c_in: int, c_out: int
    ) -> Iterator[tuple[tuple[int, ...], Slices, slice, slice]]:
        """Every (tap, group): its index, its window on x, the group's inputs and outputs."""
        reach = effective(taps, self.dilation)
        for tap in np.ndindex(*taps):
            window = tuple(
                slice(t * d, t * d + n - k + 1, s)
                for t, d, n, k, s in zip(
                    tap, self.dilation, padded, reach, self.strides, strict=True
                )
            )
            for g in range(self.groups):
                inputs = slice(g * c_in // self.groups, (g + 1) * c_in // self.groups)
                outputs = slice(g * c_out // self.groups, (g + 1) * c_out // self.groups)
                yield tap, (slice(None), *window), inputs, outputs

    def forward(self, x: Array, w: Array) -> Array:
        taps, c_out = w.shape[:-2], w.shape[-1]
        pads = self._padding(x.shape[1:-1], taps)
        x = np.pad(x, [(0, 0), *pads, (0, 0)])
        reach = effective(taps, self.dilation)
        sizes = [
            (n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], reach, self.strides, strict=True)
        ]
        y = np.zeros((x.shape[0], *sizes, c_out))
        for tap, window, i, o in self._taps(x.shape[1:-1], taps, x.shape[-1], c_out):
            y[..., o] += x[window][..., i] @ w[tap][:, o]
        return y

    def to_input(self, dy: Array, w: Array, x_shape: tuple[int, ...]) -> Array:
        taps, c_in, c_out = w.shape[:-2], x_shape[-1], w.shape[-1]
        pads = self._padding(x_shape[1:-1], taps)
        sizes = [n + before + after for n, (before, after) in zip(x_shape[1:-1], pads, strict=True)]
        dx = np.zeros((x_shape[0], *sizes, c_in))
        for tap, window, i, o in self._taps(tuple(sizes), taps, c_in, c_out):
            dx[window][..., i] += dy[..., o] @ w[tap][:, o].T
        inside = tuple(
            slice(before, n - after) for n, (before, after) in zip(sizes, pads, strict=True)
        )
        return dx[(slice(None), *inside)]

    def to_kernel(self, x: Array, dy: Array, w_shape: tuple[int, ...]) -> Array:
        taps = w_shape[:-2]
        x = np.pad(x, [(0, 0), *self._padding(x.shape[1:-1], taps), (0, 0)])
        dw = np.zeros(w_shape)
        for tap, window, i, o in self._taps(x.shape[1:-1], taps, x.shape[-1], w_shape[-1]):
            dw[tap][:, o] += outer(x[window][..., i], dy[..., o])
        return dw


@dataclasses.dataclass(frozen=True)
class Depthwise:
    """y[o, c, m] = sum over taps k: x[o * stride + k * dilation - before, c] * w[k, c, m].

    x (batch, ..positions, c_in), w (..taps, c_in, multiplier), y (batch, .., c_in x multiplier).
    """

    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str

    def _channel(self) -> Convolution:
        return Convolution(self.strides, self.dilation, self.padding)

    def forward(self, x: Array, w: Array) -> Array:
        one = self._channel()
        channels = [
            one.forward(x[..., c : c + 1], w[..., c : c + 1, :]) for c in range(x.shape[-1])
        ]
        return np.concatenate(channels, axis=-1)

    def to_input(self, dy: Array, w: Array, x_shape: tuple[int, ...]) -> Array:
        one, m = self._channel(), w.shape[-1]
        channels = [
            one.to_input(dy[..., c * m : (c + 1) * m], w[..., c : c + 1, :], (*x_shape[:-1], 1))
            for c in range(x_shape[-1])
        ]
        return np.concatenate(channels, axis=-1)

    def to_kernel(self, x: Array, dy: Array, w_shape: tuple[int, ...]) -> Array:
        one, m = self._channel(), w_shape[-1]
        channels = [
            one.to_kernel(x[..., c : c + 1], dy[..., c * m : (c + 1) * m], (*w_shape[:-2], 1, m))
            for c in range(x.shape[-1])
        ]
        return np.concatenate(channels, axis=-2)


@dataclasses.dataclass(frozen=True)
class ConvolutionTranspose:
    """y[i * stride + k * dilation - before] += x[i] @ w[k].T for every position i and tap k.

    x (batch, ..positions, c_in), w (..taps, c_out, c_in), y (batch, ..positions, c_out).
    """

    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str
    output_padding: tuple[int, ...] | None = None

    def _sizes(
        self, sizes: tuple[int, ...], taps: tuple[int, ...]
    ) -> tuple[list[int], list[int], list[int]]:
        """Sizes of y, of the uncropped y, and what is cropped before."""
        out, full, crop = [], [], []
        reach = effective(taps, self.dilation)
        for axis, (n, k, s) in enumerate(zip(sizes, reach, self.strides, strict=True)):
            more = None if self.output_padding is None else self.output_padding[axis]
            if self.padding == "valid":
                size = (n - 1) * s + (max(k, s) if more is None else k + more)
                before = 0
            else:
                size = n * s if more is None else (n - 1) * s + k % 2 + more
                before = max((n - 1) * s + k - size, 0) // 2
            out.append(size)
            crop.append(before)
            full.append(max((n - 1) * s + k, before + size))
        return out, full, crop

    def _windows(
        self, sizes: tuple[int, ...], taps: tuple[int, ...]
    ) -> Iterator[tuple[tuple[int, ...], Slices]]:
        for tap in np.ndindex(*taps):
            window = tuple(
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, n, s in zip(tap, self.dilation, sizes, self.strides, strict=True)
            )
            yield tap, (slice(None), *window)

    def _inside(self, sizes: tuple[int, ...], taps: tuple[int, ...]) -> Slices:
        out, _, crop = self._sizes(sizes, taps)
        return (slice(None), *(slice(c, c + n) for c, n in zip(crop, out, strict=True)))

    def forward(self, x: Array, w: Array) -> Array:
        taps, sizes = w.shape[:-2], x.shape[1:-1]
        full = np.zeros((x.shape[0], *self._sizes(sizes, taps)[1], w.shape[-2]))
        for tap, window in self._windows(sizes, taps):
            full[window] += x @ w[tap].T
        return full[self._inside(sizes, taps)]

    def _uncropped(self, dy: Array, sizes: tuple[int, ...], taps: tuple[int, ...]) -> Array:
        full = np.zeros((dy.shape[0], *self._sizes(sizes, taps)[1], dy.shape[-1]))
        full[self._inside(sizes, taps)] = dy
        return full

    def to_input(self, dy: Array, w: Array, x_shape: tuple[int, ...]) -> Array:
        taps, sizes = w.shape[:-2], x_shape[1:-1]
        dy = self._uncropped(dy, sizes, taps)
        return sum(dy[window] @ w[tap] for tap, window in self._windows(sizes, taps))

    def to_kernel(self, x: Array, dy: Array, w_shape: tuple[int, ...]) -> Array:
        taps, sizes = w_shape[:-2], x.shape[1:-1]
        dy = self._uncropped(dy, sizes, taps)
        dw = np.zeros(w_shape)
        for tap, window in self._windows(sizes, taps):
            dw[tap] = outer(dy[window], x)
        return dw


@dataclasses.dataclass(frozen=True)
class LocallyConnected:
    """y[p] = sum over taps k: x[p * stride + k - before] @ w[p, k], at every position p.

    x (batch, ..map, c_in), w (..positions, ..taps, c_in, c_out), y (batch, ..positions, c_out).
    """

    strides: tuple[int, ...]
    padding: str

    def _synapses(
        self, sizes: tuple[int, ...], w_shape: tuple[int, ...]
    ) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """Every (position, tap, the cell of the map that it sees), those on padding left out."""
        rank = len(sizes)
        positions, taps = w_shape[:rank], w_shape[rank : 2 * rank]
        before = [0] * rank
        if self.padding == "same":
            extents = zip(positions, self.strides, taps, sizes, strict=True)
            before = [max((p - 1) * s + k - n, 0) // 2 for p, s, k, n in extents]
        for position in np.ndindex(*positions):
            for tap in np.ndindex(*taps):
                at = zip(position, self.strides, tap, before, strict=True)
                cell = tuple(p * s + t - b for p, s, t, b in at)
                if all(0 <= c < n for c, n in zip(cell, sizes, strict=True)):
                    yield position, tap, cell

    def forward(self, x: Array, w: Array) -> Array:
        rank = x.ndim - 2
        y = np.zeros((len(x), *w.shape[:rank], w.shape[-1]))
        for position, tap, cell in self._synapses(x.shape[1:-1], w.shape):
            y[(slice(None), *position)] += x[(slice(None), *cell)] @ w[position + tap]
        return y

    def to_input(self, dy: Array, w: Array, x_shape: tuple[int, ...]) -> Array:
        dx = np.zeros(x_shape)
        for position, tap, cell in self._synapses(x_shape[1:-1], w.shape):
            dx[(slice(None), *cell)] += dy[(slice(None), *position)] @ w[position + tap].T
        return dx

    def to_kernel(self, x: Array, dy: Array, w_shape: tuple[int, ...]) -> Array:
        dw = np.zeros(w_shape)
        for position, tap, cell in self._synapses(x.shape[1:-1], w_shape):
            dw[position + tap] = outer(x[(slice(None), *cell)], dy[(slice(None), *position)])
        return dw


@dataclasses.dataclass(frozen=True)
class Einsum:
    """y = einsum(equation, x, w); `...` stands for whatever axes x has beside its labels."""

    equation: str

    def _labels(self, rank: int) -> tuple[str, str, str]:
        x, rest = self.equation.split(",")
        w, y = rest.split("->")
        extra = string.ascii_uppercase[: rank - len(x.replace("...", ""))]
        return x.replace("...", extra), w, y.replace("...", extra)

    def forward(self, x: Array, w: Array) -> Array:
        labels_x, labels_w, labels_y = self._labels(x.ndim)
        return np.einsum(f"{labels_x},{labels_w}->{labels_y}", x, w)

    def to_input(self, dy: Array, w: Array, x_shape: tuple[int, ...]) -> Array:
        labels_x, labels_w, labels_y = self._labels(len(x_shape))
        # A label of x that was summed gets the same error everywhere: hence the ones.
        ones = np.ones(x_shape)
        return np.einsum(f"{labels_y},{labels_w},{labels_x}->{labels_x}", dy, w, ones)

    def to_kernel(self, x: Array, dy: Array, w_shape: tuple[int, ...]) -> Array:
        labels_x, labels_w, labels_y = self._labels(x.ndim)
        return np.einsum(f"{labels_x},{labels_y}->{labels_w}", x, dy)


@dataclasses.dataclass(frozen=True)
class ChannelsFirst:
    """A map whose x and y hold their channels in axis 1."""

    channels_last: Any

    def forward(self, x: Array, w: Array) -> Array:
        return np.moveaxis(self.channels_last.forward(np.moveaxis(x, 1, -1), w), -1, 1)

    def to_input(self, dy: Array, w: Array, x_shape: tuple[int, ...]) -> Array:
        shape = (x_shape[0], *x_shape[2:], x_shape[1])
        return np.moveaxis(self.channels_last.to_input(np.moveaxis(dy, 1, -1), w, shape), -1, 1)

    def to_kernel(self, x: Array, dy: Array, w_shape: tuple[int, ...]) -> Array:
        x, dy = np.moveaxis(x, 1, -1), np.moveaxis(dy, 1, -1)
        return self.channels_last.to_kernel(x, dy, w_shape)


def maps_of(layer: str, options: dict[str, Any]) -> list[Any]:
    """The maps of a Keras layer, in the order in which signals pass them.

    Args:
        layer: Name of the Keras class.
        options: Its arguments.
    """
    if layer == "Dense":
        return [Einsum("...x,xy->...y")]
    if layer == "EinsumDense":
        return [Einsum(options["equation"])]
    rank = int(layer.replace("Transpose", "")[-2])

    def each_axis(name: str, default: int) -> tuple[int, ...]:
        value = options.get(name, default)
        return value if isinstance(value, tuple) else (value,) * rank

    placed = (
        each_axis("strides", 1),
        each_axis("dilation_rate", 1),
        options.get("padding", "valid"),
    )
    ones = (1,) * rank
    if layer.startswith("Local"):
        maps: list[Any] = [LocallyConnected(placed[0], placed[2])]
    elif layer.endswith("Transpose"):
        more = each_axis("output_padding", 0) if "output_padding" in options else None
        maps = [ConvolutionTranspose(*placed, more)]
    elif layer.startswith("Depthwise"):
        maps = [Depthwise(*placed)]
    elif layer.startswith("Separable"):
        maps = [Depthwise(*placed), Convolution(ones, ones, "valid")]
    else:
        maps = [Convolution(*placed, options.get("groups", 1))]
    if options.get("data_format") == "channels_first":
        return [ChannelsFirst(linear_map) for linear_map in maps]
    return maps


def chain(
    maps: list[Any],
    x: Array,
    kernels: list[Array],
    carriers: list[Array],
    error: Array | None = None,
) -> tuple[Array, Array, list[Array]]:
    """The output of maps in a row, and the gradients of input and kernels.

    Args:
        maps: In the order in which signals pass them.
        x: Input.
        kernels: One for each map.
        carriers: What the error travels on, one for each map.
        error: At the output.

    Returns:
        The output (without bias), the gradient of x, those of the kernels.
    """
    signals = [x]
    for linear_map, kernel in zip(maps, kernels, strict=True):
        signals.append(linear_map.forward(signals[-1], kernel))
    found = []
    for linear_map, kernel, carrier, signal in reversed(
        list(zip(maps, kernels, carriers, signals[:-1], strict=True))
    ):
        found.append(linear_map.to_kernel(signal, error, kernel.shape))
        error = linear_map.to_input(error, carrier, signal.shape)
    return signals[-1], error, found[::-1]


def attention(
    query: Array,
    value: Array,
    kernels: dict[str, Array],
    biases: dict[str, Array],
    carriers: dict[str, Array],
    error: Array,
) -> tuple[Array, list[Array], dict[str, Array], dict[str, Array]]:
    """Attention with h query heads that share the value heads in runs; key is value.

        q = query Wq + bq, k = value Wk + bk, v = value Wv + bv
        y = (softmax(q k^T / sqrt(d)) v  [* sigmoid(query Wg + bg)]) Wo + bo

    The projections send errors back on `carriers`; scores and softmax as ever.

    Args:
        query: (batch, t, c).
        value: (batch, s, c').
        kernels: By name: query, key, value, attention_output and perhaps gate.
        biases: By name.
        carriers: By name, of the kernels' shapes.
        error: At y, (batch, t, c).

    Returns:
        y, gradients of query and value, of the kernels by name, of the biases by name.
    """
    into, out = Einsum("abc,cde->abde"), Einsum("abcd,cde->abe")
    d_kernels, d_biases = {}, {}
    parts = {
        name: into.forward(query if name in ("query", "gate") else value, kernel) + biases[name]
        for name, kernel in kernels.items()
        if name != "attention_output"
    }
    runs = parts["query"].shape[2] // parts["key"].shape[2]
    q = parts["query"] / np.sqrt(parts["query"].shape[-1])
    k, v = (np.repeat(parts[name], runs, axis=2) for name in ("key", "value"))
    scores = np.einsum("bthd,bshd->bhts", q, k)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    mixed = np.einsum("bhts,bshd->bthd", p, v)
    gate = 1 / (1 + np.exp(-parts["gate"])) if "gate" in parts else np.ones_like(mixed)
    y = out.forward(mixed * gate, kernels["attention_output"]) + biases["attention_output"]

    shape = kernels["attention_output"].shape
    d_kernels["attention_output"] = out.to_kernel(mixed * gate, error, shape)
    d_biases["attention_output"] = error.sum((0, 1))
    d_gated = out.to_input(error, carriers["attention_output"], mixed.shape)
    d_mixed = d_gated * gate
    d_p = np.einsum("bthd,bshd->bhts", d_mixed, v)
    d_scores = p * (d_p - (d_p * p).sum(-1, keepdims=True))

    def one_run(array: Array) -> Array:
        """Sum over the query heads that share a value head."""
        return array.reshape(*array.shape[:2], -1, runs, array.shape[-1]).sum(3)

    errors = {
        "query": np.einsum("bhts,bshd->bthd", d_scores, k) / np.sqrt(q.shape[-1]),
        "key": one_run(np.einsum("bhts,bthd->bshd", d_scores, q)),
        "value": one_run(np.einsum("bhts,bthd->bshd", p, d_mixed)),
    }
    if "gate" in parts:
        errors["gate"] = d_gated * mixed * gate * (1 - gate)
    d_inputs = [np.zeros(query.shape), np.zeros(value.shape)]
    for name, d_part in errors.items():
        index = 0 if name in ("query", "gate") else 1
        x = (query, value)[index]
        d_kernels[name] = into.to_kernel(x, d_part, kernels[name].shape)
        d_biases[name] = d_part.sum((0, 1))
        d_inputs[index] += into.to_input(d_part, carriers[name], x.shape)
    return y, d_inputs, d_kernels, d_biases
