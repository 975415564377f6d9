"""MirrorMode: the options of mirror mode, and what one pathway does in it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import tensorflow as tf

from tfweightmirror._internals import draws
from tfweightmirror._internals.arguments import is_finite, is_whole
from tfweightmirror._internals.docs import see
from tfweightmirror.mirror import noise as noises
from tfweightmirror.mirror.hebbian import hebbian_product, learn, sent_back
from tfweightmirror.pathway import Pathway

Activation = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class MirrorMode:
    """How the mirror listens.

    Args:
        noise: What cells fire: a name or a `tfweightmirror.mirror.noise.Noise`.
        seed: Noise is a function of (seed, mirror step, place of the pathway in the model,
            replica).
        through_activation: Listen behind the activation that follows the layer (eq. 7 to 12).
            Balanced noise is then exact only where `sign_pairs` make the response linear.
        activations: Activations by pathway-name pattern, for layers where none is found:
            a mapping to Keras activation names or functions, `"linear"` included.
        bias_blocking: Take the bias away in mirror mode (eq. 12).
        sign_pairs: Fire every sample with its negative: cancels what is even in the response.
        centre: Take the mean over samples from signals before the product (independent noise).
        norm: What bounds |B|: `"decay"`, `"scaling"` or None.
        null: Of a term that silences what comes back of the answers, `-eta null B Y^T Y`, as in
            `information_alignment` (Kunin et al. 2020). With the default step size B settles where
            `B (1 + null W^T W) = W`. Independent noise and `norm="decay"` only.
        eta: Step size; None: `decay / (m std^2)`, which settles at B = W.
        response_noise_std: Standard deviation of noise on every answer.
        response_bits: Answers are rounded to 2^bits levels over their range; None: not rounded.
        dead_cells: The share of next cells that never answer, the same ones for one seed.
        simultaneous: All layers fire at once (Akrout et al. 2019, 4.2), not in turns: each next
            cell's signal is its answer, behind the activation, plus noise that it fires itself, of
            this `noise`, which must be independent. `tan^2(angle)` grows by
            `1 / (N rms(W)^2)` for a linear response. What reaches the firing cells from layers
            below is left out of what they fire (docs/science.md, "Layers that fire at once").
        respond: `respond(pathway, signals) -> signals`: listen to this in place of
            `pathway.respond`, to a chip's own answers, say. Called while tracing.

    Raises:
        ValueError: An option is out of range.

    Examples:
        >>> layer = tfwm.layers.FeedbackDense(5, rule="weight_mirror")
        >>> layer.build((None, 20))
        >>> (pathway,) = layer.pathways
        >>> mode = tfwm.mirror.MirrorMode("gaussian", sign_pairs=True, response_bits=8)
        >>> mode.samples(pathway)  # each of 128 with its negative
        256
    """

    noise: Any = "orthogonal"
    seed: int = 0
    through_activation: bool = False
    activations: Any = ()
    bias_blocking: bool = True
    sign_pairs: bool = False
    centre: bool = False
    norm: Literal["decay", "scaling"] | None = "decay"
    null: float = 0.0
    eta: float | None = None
    response_noise_std: float = 0.0
    response_bits: int | None = None
    dead_cells: float = 0.0
    simultaneous: bool = False
    respond: Callable[[Pathway, tf.Tensor], tf.Tensor] | None = None

    def __post_init__(self) -> None:
        noise = noises.get(self.noise)
        heard_as_it_is = not (self.response_noise_std or self.response_bits or self.respond)
        if isinstance(noise, noises.Orthogonal) and noise.block is None and not heard_as_it_is:
            # What small blocks save, they lose where answers are not exact.
            noise = dataclasses.replace(noise, block=noises.WIDEST_BLOCK)
        object.__setattr__(self, "noise", noise)
        if isinstance(self.activations, Mapping):
            object.__setattr__(self, "activations", tuple(self.activations.items()))
        if not is_whole(self.seed):
            raise ValueError(
                f"seed of mirror mode must be a whole number. Received: {self.seed!r}."
            )
        if self.activations and not self.through_activation:
            raise ValueError(
                "activations were named, but through_activation is False: set it to True, or "
                "name none."
            )
        if self.norm not in ("decay", "scaling", None):
            raise ValueError(
                f"norm of mirror mode must be 'decay', 'scaling' or None. Received: {self.norm!r}."
            )
        if self.centre and self.noise.balanced:
            raise ValueError(
                f"centre=True takes the constant direction out of a balanced sweep, and with it "
                f"exactness. Use sign_pairs=True with {self.noise.name} noise, or independent "
                "noise." + see("centred-balanced-noise")
            )
        if not (is_finite(self.null) and self.null >= 0):
            raise ValueError(f"null must be a finite number >= 0. Received: {self.null!r}.")
        if self.null and (self.noise.balanced or self.norm != "decay"):
            raise ValueError(
                f"null={self.null!r} needs independent noise and norm='decay'. Received: "
                f"{self.noise.name} noise and norm={self.norm!r}." + see("local-losses", "science")
            )
        if not (is_finite(self.response_noise_std) and self.response_noise_std >= 0):
            raise ValueError(
                "response_noise_std must be a finite number >= 0. "
                f"Received: {self.response_noise_std!r}."
            )
        bits = self.response_bits
        if bits is not None and not (is_whole(bits) and bits >= 1):
            raise ValueError(
                f"response_bits must be a whole number, at least 1, or None. Received: {bits!r}."
            )
        if not (is_finite(self.dead_cells) and 0 <= self.dead_cells < 1):
            raise ValueError(f"dead_cells must be in [0, 1). Received: {self.dead_cells!r}.")
        if self.simultaneous and not isinstance(self.noise, noises.IndependentNoise):
            raise ValueError(
                f"simultaneous=True has cells fire while they listen, under which only independent "
                f"noise, such as 'gaussian', averages to W. Received: {self.noise.name!r}. "
                "Balanced noise needs layers that fire in turns."
                + see("layers-that-fire-at-once-need-independent-noise")
            )
        if self.eta is not None and not (is_finite(self.eta) and self.eta > 0):
            raise ValueError(f"eta must be a positive number or None. Received: {self.eta!r}.")

    def samples(self, pathway: Pathway) -> int:
        """Noise samples that one mirror step fires on `pathway`."""
        return self.noise.plan(pathway).samples * (2 if self.sign_pairs else 1)

    def predicted_angle_deg(self, pathway: Pathway, replicas: int = 1) -> float | None:
        """The weight angle at which B settles while W stands still, in degrees, by the angle law.

        Independent noise: `tan^2 = (n + kurtosis - 2) / N`, `N = m (2 - d) / d` on every replica
        (docs/science.md, "The angle law"); balanced noise: 0. None where no law is known to hold:
        through an activation, with noisy, rounded or missing answers, with a step size or a norm of
        its own, behind another response, where B has a mask, or where layers fire at once (the law
        then depends on the size of W).

        Examples:
            >>> layer = tfwm.layers.FeedbackDense(5, rule="weight_mirror")
            >>> layer.build((None, 20))
            >>> noise = tfwm.mirror.noise.Gaussian(samples=2_100, decay=1.0)
            >>> mode = tfwm.mirror.MirrorMode(noise)
            >>> round(mode.predicted_angle_deg(*layer.pathways), 2)  # atan sqrt(21 / 2100)
            5.71
        """
        noise = self.noise
        lawful = not (
            self.through_activation
            or self.centre
            or self.null
            or self.response_noise_std
            or self.response_bits is not None
            or self.dead_cells
            or self.respond is not None
            or self.simultaneous
            or (pathway.view.synapses is not None and not noise.balanced)  # fan-ins differ
            or pathway.sparse is not None
        )
        bias = pathway.bias is not None and not self.bias_blocking
        if not lawful or bias or self.norm != "decay" or self.eta is not None:
            return None
        if noise.balanced:
            return 0.0
        if not isinstance(noise, noises.IndependentNoise):
            return None
        decay = noise.plan(pathway).decay
        samples = replicas * noise.samples * (2.0 - decay) / decay
        return noise.angle_law_deg(pathway.fan_in, samples)

    def mirrored(
        self,
        pathway: Pathway,
        feedback: tf.Tensor,
        activation: Activation | None,
        step: tf.Tensor,
        replica: tf.Tensor | int,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """B of `pathway` after one mirror step: signals fired, answers heard, B moved.

        Args:
            pathway: Whose `respond` is listened to.
            feedback: B, of the kernel's shape.
            activation: What the answer passes, or None.
            step: The mirror step, scalar integer.
            replica: Draws of independent noise differ between replicas; those of balanced noise do
                not, so that all replicas fire the same sweep.
            seed: Scalar int32, of the noise: a tensor, so that one program serves all seeds.
        """
        firing = self.noise.plan(pathway)
        number = 0 if self.noise.balanced else replica
        of_step = draws.fold_in(tf.stack([seed, tf.cast(step, tf.int32)]), number)
        moving = draws.beside(of_step, pathway.place)

        def chunk_product(chunk: tf.Tensor) -> tf.Tensor:
            x = self.noise.signals(firing, moving, chunk)
            if self.sign_pairs:
                x = tf.concat([x, -x], axis=-2)
            x = tf.cast(x, pathway.compute_dtype)
            y = self._answers(pathway, x, activation, moving, chunk, seed)
            x, y = tf.cast(x, feedback.dtype), tf.cast(y, feedback.dtype)
            if self.centre:
                x = x - tf.reduce_mean(x, axis=-2, keepdims=True)
                y = y - tf.reduce_mean(y, axis=-2, keepdims=True)
            product = hebbian_product(x, y, pathway.fan_in)
            if self.null:
                product -= self.null * sent_back(pathway.as_matrices(feedback), y)
            return product

        if firing.chunks == 1:
            product = chunk_product(tf.constant(0))
        else:
            _, product = tf.while_loop(
                lambda chunk, _: chunk < firing.chunks,
                lambda chunk, total: (chunk + 1, total + chunk_product(chunk)),
                (tf.constant(0), tf.zeros(pathway.view.matrices, feedback.dtype)),
            )
        power = firing.power * (2 if self.sign_pairs else 1)
        eta = firing.decay / power if self.eta is None else self.eta
        change = pathway.from_matrices(product)
        if pathway.sparse is not None:  # a synapse that does not exist hears nothing
            feedback = pathway.sparse.mask_feedback(feedback)
            change = pathway.sparse.mask_feedback(change)
        return learn(feedback, change, eta, firing.decay, self.norm)

    def _answers(
        self,
        pathway: Pathway,
        x: tf.Tensor,
        activation: Activation | None,
        moving: tf.Tensor,
        chunk: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """The next cells' signals while the signals `x` are fired."""
        y = pathway.respond(x) if self.respond is None else self.respond(pathway, x)
        if not self.bias_blocking:
            bias = pathway.bias_matrix()
            if bias is not None:
                y += tf.cast(bias if x.shape.rank == 3 else bias[:, None], y.dtype)
        if activation is not None:
            y = activation(y)
        if self.simultaneous:
            y += tf.cast(self._own_noise(y.shape, draws.fold_in(moving, chunk + 2**21)), y.dtype)
        if self.response_noise_std:
            noisy = draws.fold_in(moving, chunk + 2**20)
            y += tf.cast(self.response_noise_std * draws.normal(y.shape, noisy), y.dtype)
        if self.response_bits is not None:
            y = quantized(y, self.response_bits)
        if self.dead_cells:
            shape = (pathway.groups, *[1] * (x.shape.rank - 2), pathway.fan_out)
            alive = draws.uniform(shape, tf.stack([seed, pathway.place])) >= self.dead_cells
            y = tf.where(alive, y, tf.zeros((), y.dtype))
        return y

    def _own_noise(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        """What next cells fire themselves while they listen: float32 of that shape.

        A draw of its own, also where another pathway begins at the very same cells: the errors of
        their B have the same variances, and no correlation, either way.
        """
        if not self.sign_pairs:
            return self.noise.std * self.noise.draw(shape, seed)
        groups, samples, cells = shape
        noise = self.noise.std * self.noise.draw((groups, samples // 2, cells), seed)
        return tf.concat([noise, -noise], axis=-2)


def quantized(y: tf.Tensor, bits: int) -> tf.Tensor:
    """`y` rounded to 2^bits levels, evenly spaced over +-max|y|."""
    top = tf.reduce_max(tf.abs(y))
    step = 2 * top / (2**bits - 1)
    levels = tf.floor(tf.math.divide_no_nan(y, step)) + 0.5
    return tf.clip_by_value(levels * step, -top, top)
