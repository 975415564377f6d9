"""One training run: all tables together."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from train.config.data import DataConfig
from train.config.feedback import FeedbackConfig, MirrorConfig, MonitorConfig
from train.config.optimizer import OptimizerConfig
from train.config.part import Count, InitFrom, Part, Port, Positive, Seed
from train.errors import UserError, see

# A run goes on although these have changed: they do not touch its numbers.
MAY_DIFFER = (
    "run_directory",
    "on_nan",
    "training.progress",
    "checkpoint.",
    "cluster.",
    "import_from",
)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length and arithmetic of the training.

    Args:
        epochs: Passes over the training images; null: the length is given in `steps`.
        steps: Training steps, instead of epochs: the last epoch may be shorter then.
        batch_size: Images in a training batch, over all replicas of all workers.
        test_batch_size: The same of the evaluation, which counts every test image once.
        evaluate_every: Steps after which the test images are evaluated and what `monitor` names is
            measured, beside the end of every epoch: a line a time in steps.jsonl; null: never.
        losses_every: Steps after which the training loss, and what it is the sum of, goes into
            steps.jsonl, the mean over the steps since the line before; null: never.
        evaluate_at_start: Whether that is done before the first step, too (step 0).
        train_error: Whether every epoch ends with a pass over the training images as they are
            tested: `train_loss`, `train_accuracy`. The running ones are of weights that changed.
        precision: Keras dtype policy of every layer.
        jit_compile: Whether XLA compiles the training step (on a TPU it always does).
        steps_per_call: Training steps in one compiled call. Callbacks and checkpoints come between.
        deterministic: Whether operations give the same bits in every run, at some cost in speed.
        progress: A line an `epoch` on the terminal, growing with it (`bar`), or `none`.
    """

    epochs: Count | None = 20
    steps: Count | None = None
    batch_size: Count = 64
    test_batch_size: Count = 512
    evaluate_every: Count | None = None
    losses_every: Count | None = None
    evaluate_at_start: bool = False
    train_error: bool = False
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    jit_compile: bool = False
    steps_per_call: Count = 1
    deterministic: bool = False
    progress: Literal["bar", "epoch", "none"] = "bar"

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise UserError(
                f"training.epochs is {self.epochs} and training.steps {self.steps}. Expected one "
                f"of them, and null for the other." + see("epochs-and-steps")
            )
        if self.jit_compile and self.deterministic:
            raise UserError(
                "training.jit_compile and training.deterministic are both true. Expected one of "
                "them: Keras does not compile by XLA under deterministic operations."
            )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What lets a killed run go on, to the same bits, when it is started again.

    Args:
        every_steps: A checkpoint after at least so many training steps, beside those at the end of
            every epoch and when the run is asked to end (SIGTERM); null: none.
        keep: Checkpoints kept; the oldest goes first.
        best: Whether the model of the best epoch is kept as best.keras: best on the test images,
            so that its accuracy there is too good.
    """

    every_steps: Count | None = None
    keep: Count = 3
    best: bool = False


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Several processes that train one model, for `strategy: multi_worker` and `tpu`.

    Args:
        source: Where it is described: `tf_config` (the environment's TF_CONFIG), `slurm` (of the
            job step), `kubernetes`, `workers` (below), or `auto`: what is there.
        workers: host:port of every worker, in the same order on each.
        index: Which of `workers` this process is; worker 0 is the chief, which writes the files.
        port: Port of the first worker on a host, under slurm and kubernetes.
        kubernetes_selector: Label selector of the workers' pods, such as `job-name=my-job`.
        tpu: Name, zone-free, or grpc address of the TPU; null: that of this machine.
        timeout_s: Seconds to wait for all workers at the begin. (One that is lost later is noticed
            by TensorFlow's heartbeat, in about ten seconds.)
    """

    source: Literal["auto", "tf_config", "slurm", "kubernetes", "workers"] = "auto"
    workers: tuple[str, ...] = ()
    index: int | None = None
    port: Port = 8888
    kubernetes_selector: str | None = None
    tpu: str | None = None
    timeout_s: Positive = 600.0

    def __post_init__(self) -> None:
        if self.index is not None and not self.workers:
            raise UserError(
                "cluster.index is given without cluster.workers, the list that it counts in. "
                "Expected both."
            )


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """One training run.

    Args:
        seed: Of weights, feedback weights, shuffling, augmentation, dropout and mirror noise.
        run_directory: Folder for everything the run writes; an unfinished run of this configuration
            goes on from its last checkpoint. null: runs/<data>-<model>-<rule>-<n>, the last
            unfinished of this configuration or else the next free one.
        strategy: Where the model trains: one_device, mirrored (all accelerators of this machine),
            multi_worker, tpu, or auto: what the machine has.
        replicas: Devices of this machine, of `mirrored` and `multi_worker`; null: all. Without
            accelerators the processor is split into so many.
        init_from: A saved model whose weights the run starts from.
        draw_anew: Name patterns of layers whose weights, feedback weights and statistics are drawn
            anew after that, with another seed than the model's.
        untie: Name patterns of 1D and 2D convolutions that become locally connected: every position
            gets a copy of the weights and feedback weights, or of `draw_anew` draws of its own, and
            learns by itself from then on.
        freeze: Name patterns of layers (or of what holds them) whose weights and feedback weights
            no optimizer moves; BatchNorm's statistics still follow the data.
        phases: Tables that override `training.epochs`, `training.steps`, `optimizer`, `feedback`,
            `mirror` and `freeze` one after another on the same model; each begins with a new
            optimizer, and with `init_from`, `draw_anew` and `untie` of its own. None: one phase.
        on_nan: When the loss is no longer finite: `stop`, or `rollback`: go on from the last
            checkpoint with half the learning rate, at most three times.
        import_from: Folders in which import paths are looked for, beside that of a `--config` file.
        model: The network, whose last layer gives logits or values: `small_conv`, `mlp`,
            `brain_like`, `resnet18`, `resnet50`, `retinanet`, `alexnet`, `simpnet`, `deepernet`,
            `deepernet_s`, `mobilenet`, `densenet`, `rnn`, `transformer`, `autoencoder`, or the
            import path of a callable `(input_shape, output_shape, **options) -> keras.Model`.
            `python -m train list models` shows their options.
        constraints: Layer-name pattern to what keeps the weights of such layers, not their biases:
            `fixed_sign` (on their side of 0), `sparse` (a share `connectivity` of them, and of
            feedback weights, exists), `glorot_clip`, or a Keras constraint. The first pattern that
            matches a layer counts.
        loss: `softmax` (cross-entropy of the classes) or `sigmoid` (cross-entropy of each output on
            its own, summed over the outputs), both on logits; `retinanet` (of boxes; what it is the
            sum of is logged apart); a Keras loss, such as mean_squared_error; or an import path.
        metrics: Keras metrics or import paths, beside the accuracy of classes.
        callbacks: `SignFlips` (how many weights change their signs in an epoch), Keras callbacks,
            or import paths of your own. One with a method `state() -> {name: tf.Variable}`
            joins the checkpoints; any other begins anew when a killed run goes on.
    """

    seed: Seed = 0
    run_directory: str | None = None
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"] = "auto"
    replicas: Count | None = None
    init_from: InitFrom = InitFrom()
    draw_anew: tuple[str, ...] = ()
    untie: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    phases: tuple[dict[str, Any], ...] = ()
    on_nan: Literal["stop", "rollback"] = "stop"
    import_from: tuple[str, ...] = ()
    data: DataConfig = DataConfig()
    model: Part = Part("small_conv")
    constraints: dict[str, Part] = dataclasses.field(default_factory=dict)
    loss: Part = Part("softmax")
    metrics: tuple[Part, ...] = ()
    feedback: FeedbackConfig = FeedbackConfig()
    mirror: MirrorConfig = MirrorConfig()
    monitor: MonitorConfig = MonitorConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    callbacks: tuple[Part, ...] = ()
    cluster: ClusterConfig = ClusterConfig()

    def __post_init__(self) -> None:
        schedule, plateau = self.optimizer.schedule, "ReduceLROnPlateau"
        warms_up = schedule.warm_up_epochs or schedule.warm_up_steps
        if any(one.name == plateau for one in self.callbacks) and (
            warms_up or schedule.name != "constant"
        ):
            raise UserError(
                f"callbacks has {plateau}, which cannot set the rate of optimizer.schedule "
                f"{schedule.name}{' with a warm-up' if warms_up else ''}. Expected one of them."
            )
