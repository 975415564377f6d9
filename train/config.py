"""What a run is made of: nested frozen dataclasses, the source of the command line's help.

A file under `configs/` says only how it differs from these defaults, or from its `base`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from train.errors import UserError

OptionValue = float | int | bool | str | None


def _at_least_one(name: str, *values: int) -> None:
    for value in values:
        if value < 1:
            raise UserError(f"{name} has the value {value}. Expected 1 or more.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Images and labels.

    Args:
        name: `digits` (embedded), a TensorFlow Datasets name such as `mnist` or `cifar10`, or the
            path of a TFDS builder folder.
        data_dir: Folder of prepared TFDS sets; null: the environment's TFDS_DATA_DIR, or TFDS' own
            folder, into which it downloads.
        train_split: Split, or part of one, to train on.
        test_split: Split, or part of one, to evaluate on after every epoch.
        normalization: `standard` (mean 0, standard deviation 1 per channel), `unit` (divided by the
            largest pixel) or `none`, all measured on the training images.
    """

    name: str = "digits"
    data_dir: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    normalization: Literal["standard", "unit", "none"] = "standard"


@dataclasses.dataclass(frozen=True)
class SmallConvConfig:
    """Options of `small_conv`: blocks of 3x3 convolution, BatchNorm and ReLU, then a dense head.

    Args:
        filters: Channels of each convolution.
        strides: Pixels between the fields of each convolution; one for each of `filters`.
    """

    filters: tuple[int, ...] = (16, 32, 32)
    strides: tuple[int, ...] = (1, 2, 2)

    def __post_init__(self) -> None:
        _at_least_one("model.small_conv.filters", *self.filters)
        _at_least_one("model.small_conv.strides", *self.strides)
        if len(self.filters) != len(self.strides):
            raise UserError(
                f"model.small_conv has {len(self.filters)} filters and {len(self.strides)} "
                f"strides. Expected one stride for every convolution."
            )


@dataclasses.dataclass(frozen=True)
class MlpConfig:
    """Options of `mlp`: hidden dense layers and a dense head.

    Args:
        units: Cells of each hidden layer.
        activation: Keras name of the hidden activation.
    """

    units: tuple[int, ...] = (500,)
    activation: str = "relu"

    def __post_init__(self) -> None:
        _at_least_one("model.mlp.units", *self.units)


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Options of `resnet18`.

    Args:
        width: Filters of the first stage; the published network has 64.
        stem: `cifar` (one 3x3 convolution) or `imagenet` (7x7, stride 2, and max pooling).
        batch_norm: Whether BatchNorm stands before or after each ReLU.
    """

    width: int = 64
    stem: Literal["cifar", "imagenet"] = "cifar"
    batch_norm: Literal["before_relu", "after_relu"] = "before_relu"

    def __post_init__(self) -> None:
        _at_least_one("model.resnet18.width", self.width)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. Its last layer gives logits.

    Args:
        name: `small_conv`, `mlp` or `resnet18`; only the options of the one named here count.
        small_conv: Of the small convolutional network.
        mlp: Of the multilayer perceptron.
        resnet18: Of the residual network.
    """

    name: str = "small_conv"
    small_conv: SmallConvConfig = SmallConvConfig()
    mlp: MlpConfig = MlpConfig()
    resnet18: ResNetConfig = ResNetConfig()


@dataclasses.dataclass(frozen=True)
class FeedbackConfig:
    """How errors travel back.

    Args:
        rule: Of every layer: backprop (bp), feedback_alignment (fa), sign_symmetry (ss),
            weight_mirror (wm), kolen_pollack (kp) or updated_random_feedback (urfb).
        layers: Layer-name pattern to rule, for layers that differ from `rule`.
        last_layer: Rule of the classifier; null: as the others.
    """

    rule: str = "backprop"
    layers: dict[str, str] = dataclasses.field(default_factory=dict)
    last_layer: str | None = None


@dataclasses.dataclass(frozen=True)
class MirrorConfig:
    """Mirror mode, for layers that learn by weight_mirror.

    Args:
        mode: `linear` (listens to the linear response, biases blocked) or `akrout2019` (the
            paper's: through the activation, biases on; its noise is gaussian).
        noise: Of `linear`. Balanced: orthogonal, impulse. Independent: gaussian, uniform,
            rademacher.
        noise_options: Arguments of the noise by their names, such as std, block, samples,
            target_angle_deg (degrees) or decay.
        activations: Of `akrout2019`: activation by layer-name pattern, where the graph shows none
            behind a layer. A head that gives logits has none: linear.
        every_batches: Mirror mode runs after every so many batches; null: never.
        steps: Mirror steps each time.
        warm_up_steps: Mirror steps before the first batch.
    """

    mode: Literal["linear", "akrout2019"] = "linear"
    noise: Literal["orthogonal", "impulse", "gaussian", "uniform", "rademacher"] = "orthogonal"
    noise_options: dict[str, OptionValue] = dataclasses.field(default_factory=dict)
    activations: dict[str, str] = dataclasses.field(default_factory=lambda: {"head": "linear"})
    every_batches: int | None = 1
    steps: int = 1
    warm_up_steps: int = 1


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, a Keras one.

    Args:
        name: Keras name, such as sgd, adam, adamw or rmsprop.
        learning_rate: Step size.
        weight_decay: Decoupled decay: a step takes `learning_rate x weight_decay` of each weight;
            null: none.
        decay_biases: Whether weight decay takes of biases and of BatchNorm's scale and offset too.
        options: The optimizer's other arguments by their Keras names, such as momentum, nesterov,
            beta_1, clipnorm.
    """

    name: str = "sgd"
    learning_rate: float = 0.05
    weight_decay: float | None = None
    decay_biases: bool = True
    options: dict[str, OptionValue] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or math.isinf(self.learning_rate):
            raise UserError(
                f"optimizer.learning_rate is {self.learning_rate}. Expected a number above 0."
            )
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise UserError(
                f"optimizer.weight_decay is {self.weight_decay}. Expected null, 0 or a number "
                f"above it."
            )


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length and arithmetic of the training.

    Args:
        epochs: Passes over the training images.
        batch_size: Images in a training batch.
        test_batch_size: Images in a batch of the evaluation, which covers every test image.
        precision: Keras dtype policy of every layer.
        jit_compile: Whether XLA compiles the training step.
        steps_per_execution: Training steps in one call of the compiled function.
        progress: Keras' progress display: `bar`, one line an `epoch`, or `none`.
    """

    epochs: int = 20
    batch_size: int = 64
    test_batch_size: int = 512
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    jit_compile: bool = False
    steps_per_execution: int = 1
    progress: Literal["bar", "epoch", "none"] = "bar"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "test_batch_size", "steps_per_execution"):
            _at_least_one(f"training.{name}", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """One training run.

    Args:
        seed: Of weights, feedback weights, shuffling and mirror noise.
        run_directory: New folder for everything the run writes; null: the next free
            runs/<data>-<model>-<rule>-<n>.
        data: Images and labels.
        model: The network.
        feedback: How errors travel back.
        mirror: Mirror mode.
        optimizer: The optimizer.
        training: Length and arithmetic.
    """

    seed: int = 0
    run_directory: str | None = None
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    mirror: MirrorConfig = MirrorConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
