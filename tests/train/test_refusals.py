"""Whatever a user gets wrong ends with one sentence, status 2, and nothing lost."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from train.__main__ import main
from train.config import DataConfig
from train.data import datasets
from train.data.datasets import DataSet

TINY = [
    "--data.train_split=train[:256]",
    "--data.test_split=test[:100]",
    "--model.name=mlp",
    "--model.options.units=[8]",
    "--feedback.rule=fa",
    "--training.epochs=1",
    "--training.progress=none",
]


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a case is prepared with: its own folder, and a finished run to copy from."""

    folder: Path
    finished: Path
    patch: pytest.MonkeyPatch
    request: pytest.FixtureRequest

    def file(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def run(self) -> Path:
        return Path(shutil.copytree(self.finished, self.folder / "run"))


Prepare = Callable[[Scene], object]


@dataclasses.dataclass(frozen=True)
class Case:
    """A mistake. `{tmp}` in texts is the case's own folder.

    Args:
        expected: What distinguishes its sentence from all others.
        arguments: Behind those of a tiny `fit`, or, with `command`, behind that alone.
        prepare: Sets the scene.
        command: Another command than `fit`, with its operands.
        trains: Whether the mistake shows only when training has begun, so that files may come.
        status: Of the exit.
    """

    expected: str
    arguments: tuple[str, ...] = ()
    prepare: Prepare = lambda scene: None
    command: str = ""
    trains: bool = False
    status: int = 2

    def line(self, folder: Path) -> list[str]:
        tiny = ["fit", *TINY, "--run_directory={tmp}/run"]
        parts = [*(self.command.split() or tiny), *self.arguments]
        return [part.replace("{tmp}", str(folder)) for part in parts]


def fit(expected: str, *arguments: str, prepare: Prepare = lambda scene: None) -> Case:
    return Case(expected, arguments, prepare)


def training(expected: str, *arguments: str, prepare: Prepare = lambda scene: None) -> Case:
    return Case(expected, arguments, prepare, trains=True)


def diverging(expected: str, *arguments: str) -> Case:
    return Case(expected, arguments, trains=True, status=4)


def other(command: str, expected: str, *, prepare: Prepare = lambda scene: None) -> Case:
    return Case(expected, (), prepare, command)


def file(text: str, expected: str, **more: str) -> Case:
    """A configuration file a.yaml, and others by keyword."""

    def prepare(scene: Scene) -> None:
        for name, content in {"a": text, **more}.items():
            scene.file(f"{name}.yaml", content)

    return Case(expected, ("--config={tmp}/a.yaml",), prepare)


def environment(expected: str, *arguments: str, **variables: str) -> Case:
    def prepare(scene: Scene) -> None:
        for name, value in variables.items():
            scene.patch.setenv(name, value)

    return Case(expected, arguments, prepare)


def tf_config(expected: str, *, index: int = 0, kind: str = "worker", **cluster: list[str]) -> Case:
    tree = {"cluster": cluster, "task": {"type": kind, "index": index}}
    return environment(expected, "--strategy=multi_worker", TF_CONFIG=json.dumps(tree))


def unfinished(scene: Scene) -> Path:
    """A run that was killed in its first epoch: its first checkpoint is there."""
    run = scene.run()
    for name in ("model.keras", "metrics.jsonl"):
        (run / name).unlink()
    *_, last = sorted((run / "checkpoints").iterdir())
    shutil.rmtree(last)
    return run


def no_checkpoint(scene: Scene) -> None:
    shutil.rmtree(unfinished(scene) / "checkpoints")


def no_checkpoint_of_its_end(scene: Scene) -> None:
    shutil.rmtree(scene.run() / "checkpoints")


def cosine(scene: Scene) -> None:
    config = scene.run() / "config.yaml"
    config.write_text(config.read_text().replace("name: constant", "name: cosine"))


def longer(scene: Scene) -> None:
    config = scene.run() / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 1,", "epochs: 3,"))


def locked(scene: Scene) -> None:
    """Another process trains there."""
    run = unfinished(scene)
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    scene.request.addfinalizer(lambda: process.communicate())


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def full_disk(function: str) -> Prepare:
    """An unfinished run on a disk that is full when `function` writes."""

    def prepare(scene: Scene) -> None:
        unfinished(scene)
        scene.patch.setattr(function, failing(errno.ENOSPC))

    return prepare


def edited_config(scene: Scene) -> None:
    """The same run by name, but with another model than its checkpoint."""
    config = unfinished(scene) / "config.yaml"
    config.write_text(config.read_text().replace("units: [8]", "units: [9]"))


def damaged_config(scene: Scene) -> None:
    (scene.run() / "config.yaml").write_text("seed: [")


def no_tpu(scene: Scene) -> None:
    def fail(**_: object) -> None:
        raise ValueError("Please provide a TPU Name to connect to.")

    scene.patch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", fail)


def no_kubernetes(scene: Scene) -> None:
    scene.patch.setitem(sys.modules, "kubernetes", None)


def no_slurm(scene: Scene) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        scene.patch.delenv(name)


def other_layers(scene: Scene) -> None:
    model = keras.Sequential([keras.Input((5, 5, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, name="head"))
    model.save(scene.folder / "other.keras")


def cut_model(scene: Scene) -> None:
    whole = (scene.finished / "model.keras").read_bytes()
    (scene.folder / "a.keras").write_bytes(whole[: len(whole) // 2])


def raising(error: Exception) -> Prepare:
    """A training that ends with `error` when its model is built."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return lambda scene: scene.patch.setattr("train.parts.models.build", fail)


def gone(scene: Scene) -> None:
    config = unfinished(scene) / "config.yaml"
    config.write_text(config.read_text().replace("name: mlp", "name: 'gone:make'"))


def other_sweep(scene: Scene) -> None:
    (scene.folder / "sweep").mkdir()
    grid = "--grid=optimizer.learning_rate=0.1"
    line = [*TINY, grid, "--seed=1", f"--run_directory={scene.folder / 'sweep'}"]
    scene.patch.setattr("train.commands.sweep.train_all", lambda *_, **__: pytest.skip())
    with pytest.raises(pytest.skip.Exception):
        main(["sweep", *line])


SWEEP = "sweep " + " ".join(TINY) + " --run_directory={tmp}/sweep --grid optimizer.learning_rate="
# The tiny line has options of `mlp`, which go with its name.
OWN_MODEL = ("--model.options={}",)
WORKERS = ("--strategy=multi_worker", "--cluster.source=workers")

CASES = {
    # configuration files
    "file has an unknown key": file(
        "trainin: {epochs: 1}",
        "{tmp}/a.yaml: trainin is not a known key. Did you mean 'training'?",
    ),
    "file has a key in the wrong table": file(
        "epochs: 1", "{tmp}/a.yaml: epochs is not a known key. Did you mean 'training.epochs'?"
    ),
    "file has a wrong type": file(
        "training: {epochs: x}",
        "{tmp}/a.yaml: training.epochs is 'x'. Expected a whole number or null.",
    ),
    "file has a value out of range": file(
        "mirror: {}\ndata: {take: 0}",
        "{tmp}/a.yaml: data.take has the value 0. Expected 1 or more.",
    ),
    "base of the file has a value out of range": file(
        "base: b.yaml",
        "{tmp}/b.yaml: optimizer.learning_rate is -1.0. Expected a number above 0.",
        b="optimizer: {learning_rate: -1}",
    ),
    "file names what the data refuse": file(
        "model: {mlp: {activation: rellu}}",
        "{tmp}/a.yaml: model.options.activation=rellu is not known.",
    ),
    "file is not YAML": file("a: [", "{tmp}/a.yaml is not YAML at line 1"),
    "file is no table": file("- 1", "a.yaml holds [1]. Expected a table of keys and values."),
    "file is no text": fit(
        "{tmp}/a.yaml is not a text in UTF-8.",
        "--config={tmp}/a.yaml",
        prepare=lambda scene: (scene.folder / "a.yaml").write_bytes(b"\xff\xfe"),
    ),
    "file is missing": fit("nowhere.yaml cannot be read: No such file", "--config=nowhere.yaml"),
    "file is a folder": fit("cannot be read: Is a directory.", "--config={tmp}"),
    "base is missing": file("base: b.yaml", "b.yaml, the base of {tmp}/a.yaml, cannot be read"),
    "bases form a circle": file("base: a.yaml", "base a.yaml leads back to itself."),
    "file asks for parameter servers": file(
        "strategy: parameter_server", "Keras 3 has no parameter servers (keras issue 18624)"
    ),
    # command line
    "unknown command": other("fti", "'fti' is not a command. Expected one of 'fit', 'evaluate',"),
    "key before the command": other("--seed=1 fit", "--seed=1 stands before fit."),
    "unknown key": fit("command line: sed is not a known key. Did you mean 'seed'?", "--sed=1"),
    "wrong type": fit(
        "command line: replicas is 'x'. Expected a whole number or null.", "--replicas=x"
    ),
    "value of a choice": fit("Did you mean 'linear'?", "--mirror.mode=linea"),
    "key without a value": fit("training.epochs has no value.", "--training.epochs"),
    "stray word": fit("command line: unrecognized arguments: extra.", "extra"),
    "parameter servers": fit(
        "command line: strategy is 'parameter_server', which is not supported: Keras 3 has no "
        "parameter servers (keras issue 18624)",
        "--strategy=parameter_server",
    ),
    "seeds are no numbers": fit("seeds is '0,x'. Expected different whole numbers", "--seeds=0,x"),
    "seed twice": fit("seeds is '1,1'. Expected different whole numbers", "--seeds=1,1"),
    "seed and seeds": fit("seed and seeds are both given.", "--seed=1", "--seeds=0,1"),
    "seeds below 0": fit("seeds is '0,-1'. Expected different whole numbers from", "--seeds=0,-1"),
    "seeds above 32 bits": fit("seeds is '4294967296'. Expected", "--seeds=4294967296"),
    "seed below 0": fit("command line: seed is -1. Expected 0 to 4294967295.", "--seed=-1"),
    "jobs without seeds": fit("jobs is given without seeds.", "--jobs=2"),
    "no jobs": fit("jobs is '0'. Expected 1 or more runs", "--seeds=0,1", "--jobs=0"),
    "seeds without a value": fit("seeds has no value.", "--seeds"),
    "list with a key": other("list --seed=1", "command line: seed is not a known key."),
    # data
    "unknown data": fit("command line: data.name=digts is not known.", "--data.name=digts"),
    "nearest name of data": fit("Did you mean 'mnist'?", "--data.name=mnits"),
    "unknown split": fit(
        "data.test_split is 'tets', which holds nothing. Expected train or test",
        "--data.test_split=tets",
    ),
    "no images": fit(
        "data.train_split is 'train[:0]', which holds nothing", "--data.train_split=train[:0]"
    ),
    "folder without a data set": fit(
        "has no folder train with a folder of images for every class", "--data.name={tmp}"
    ),
    "data path that is not there": fit(
        "data.name={tmp}/mnits.npz does not exist. Expected a .npz file, a folder",
        "--data.name={tmp}/mnits.npz",
    ),
    "data function that is not there": fit(
        "data.name is 'tests.train.data.sets:mkae', but", "--data.name=tests.train.data.sets:mkae"
    ),
    "key of a phase that is a number": fit(
        "phases[0]: 1 is not a key of a phase.", "--phases=[{1: 2}]"
    ),
    "option that is a number": fit(
        "model.options.1 is not an option of mlp.", "--model.options={1: 2}"
    ),
    "text that is not there": fit(
        "error: command line: data.options.file={tmp}/a.txt cannot be read: ",
        *("--data.name=train.data.characters:next_character", "--data.options.file={tmp}/a.txt"),
    ),
    "option that a data function lacks": fit(
        "data.options.cuont is not an option of arrays.",
        *("--data.name=tests.train.data.test_own_data:arrays", "--data.options.cuont=3"),
    ),
    "options of data without a function": fit(
        "data.options is given, but data.name=digits is no function", "--data.options.a=1"
    ),
    "loss of values on classes": fit(
        "loss is mean_squared_error, which compares values, but data.target is classes",
        "--loss=mean_squared_error",
    ),
    "loss of classes on values": fit(
        "loss is softmax, which is of classes, but data.target is inputs", "--data.target=inputs"
    ),
    "fewer images than a batch": fit(
        "training.batch_size is 500, but digits has 256 training examples.",
        "--training.batch_size=500",
    ),
    "crop without a size": fit(
        "data.augmentation=random_resized_crop needs data.image_size",
        "--data.augmentation=random_resized_crop",
    ),
    # model, feedback, optimizer
    "unknown model": fit("Did you mean 'resnet18'?", "--model.name=resnet8"),
    "strides unlike filters": fit(
        "1 filters and 3 strides.",
        *("--model=small_conv", "--model.options.filters=[3]"),
    ),
    "option of another model": fit(
        "model.options.filters is not an option of mlp.", "--model.options.filters=[3]"
    ),
    "unknown loss": fit("Did you mean 'softmax'?", "--loss=softmx"),
    "module that is not there": fit("there is no module 'nets'", "--model=nets:make"),
    "no callback": fit("math:sqrt refuses its options", "--callbacks=[math:sqrt]"),
    "mirror without a mirror": fit(
        "mirror.steps is given, but no layer learns by weight_mirror.", "--mirror.steps=2"
    ),
    "index without workers": fit("cluster.index is given without", "--cluster.index=0"),
    "unknown noise": fit(
        "Did you mean 'gaussian'?", *("--feedback.rule=wm", "--mirror.noise=gausian")
    ),
    "unknown option of mirror mode": fit(
        "mirror.options.bias_blockin is not an option of MirrorMode.",
        *("--feedback.rule=wm", "--mirror.options.bias_blockin=false"),
    ),
    "unknown option of a rule": fit(
        "feedback.rule.options.epsilo is not an option of UpdatedRandomFeedback.",
        *("--feedback.rule=urfb", "--feedback.rule.options.epsilo=1"),
    ),
    "unknown initializer": fit("feedback.initializer is 'he',", "--feedback.initializer=he"),
    "unknown rule": fit(
        "command line: feedback.rule is 'wmm', which is not known.", "--feedback.rule=wmm"
    ),
    # Before the data are read, which this set could not be.
    "two letters, one wrong": fit(
        "feedback.rule is 'kq', which is not known. Expected one of backprop,",
        *("--feedback.rule=kq", "--data.name={tmp}/nothing"),
    ),
    "nearest alias": fit("Did you mean 'kp'?", "--feedback.rule=kq"),
    "unknown rule of a layer": fit(
        "feedback.layers.head is 'x', which is not known.", "--feedback.layers.head=x"
    ),
    "pattern without a layer": fit(
        "feedback.layers: Pattern 'hed' matches no layer", "--feedback.layers.hed=fa"
    ),
    "Kolen-Pollack without decay": fit(
        "optimizer.weight_decay: Kolen-Pollack needs weight decay, without which",
        "--feedback.rule=kp",
    ),
    "Kolen-Pollack under an optimizer of unequal steps": fit(
        "command line: optimizer.name: Kolen-Pollack cannot hold under Adafactor",
        *("--feedback.rule=kp", "--optimizer.name=adafactor", "--optimizer.weight_decay=0.1"),
    ),
    "Kolen-Pollack with averaged weights": fit(
        "command line: optimizer.options.use_ema: Kolen-Pollack cannot hold",
        *("--feedback.rule=kp", "--optimizer.options.use_ema=true"),
    ),
    "Kolen-Pollack with coupled decay under Adam": fit(
        "command line: optimizer.decay: Kolen-Pollack cannot hold under Adam",
        *("--feedback.rule=kp", "--optimizer.name=adam", "--optimizer.decay=coupled"),
        "--optimizer.weight_decay=0.1",
    ),
    "mirror that never runs": fit(
        "command line: mirror: This mirror schedule never runs",
        *("--feedback.rule=wm", "--mirror.every_batches=null", "--mirror.warm_up_steps=0"),
    ),
    "mirror steps are a text": fit(
        "command line: mirror.steps is 'a'. Expected a whole number.",
        *("--feedback.rule=wm", "--mirror.steps=a"),
    ),
    "no mirror steps": fit(
        "command line: mirror.steps", *("--feedback.rule=wm", "--mirror.steps=0")
    ),
    "mirror option out of range": fit(
        "command line: mirror.options.dead_cells: dead_cells must be in [0, 1). Received: 2.0.",
        *("--feedback.rule=wm", "--mirror.options.dead_cells=2"),
    ),
    "noise option out of range": fit(
        "mirror.noise=gaussian refuses its options: samples of mirror noise must be a whole",
        *("--feedback.rule=wm", "--mirror.noise=gaussian", "--mirror.noise.options.samples=0"),
    ),
    "activation that mixes cells": fit(
        "mirror.options.activations: through_activation found no activation behind 'head'",
        *("--feedback.rule=wm", "--mirror.mode=akrout2019", "--mirror.options.activations={}"),
    ),
    "option of another noise": fit(
        "mirror.noise.options.blok is not an option of Orthogonal.",
        *("--feedback.rule=wm", "--mirror.noise.options.blok=3"),
    ),
    "unknown optimizer": fit("Did you mean 'sgd'?", "--optimizer.name=sdg"),
    "unknown option of the optimizer": fit(
        "Did you mean 'momentum'?", "--optimizer.options.momentun=0.9"
    ),
    "boundaries without piecewise": fit(
        "optimizer.schedule.name is constant and boundaries_epochs is [1.0].",
        "--optimizer.schedule.boundaries_epochs=[1]",
    ),
    "warm-up as long as the training": fit(
        "Expected a warm-up that ends before the training.",
        "--optimizer.schedule.warm_up_epochs=1",
    ),
    "XLA and deterministic": fit(
        "training.jit_compile and training.deterministic are both true.",
        *("--training.jit_compile=true", "--training.deterministic=true"),
    ),
    # devices
    "batch does not divide": fit(
        "training.batch_size is 63, which does not divide among 2 replicas",
        *("--strategy=mirrored", "--replicas=2", "--training.batch_size=63"),
    ),
    "test batch does not divide": fit(
        "training.test_batch_size is 99, which does not divide among 2 replicas",
        *("--strategy=mirrored", "--replicas=2", "--training.test_batch_size=99"),
    ),
    "replicas on one device": fit(
        "replicas is 2 and the strategy is one_device, which trains on one device.",
        *("--strategy=one_device", "--replicas=2"),
    ),
    "XLA on two replicas of a processor": fit(
        "training.jit_compile is true on 2 replicas of a processor",
        *("--strategy=mirrored", "--replicas=2", "--training.jit_compile=true"),
    ),
    "mixed_float16 on replicas": fit(
        "training.precision is mixed_float16 on 2 replicas, where Keras' LossScaleOptimizer",
        *("--strategy=mirrored", "--replicas=2", "--training.precision=mixed_float16"),
    ),
    "mirrored without GPU": fit(
        "strategy=mirrored found no GPU. Expected GPUs, or replicas=2", "--strategy=mirrored"
    ),
    "more replicas than devices": fit(
        "used TensorFlow before with 2 logical processors", "--strategy=mirrored", "--replicas=3"
    ),
    "no TPU": fit(
        "strategy=tpu cannot use cluster.tpu=mine: Please provide a TPU Name",
        *("--strategy=tpu", "--cluster.tpu=mine"),
        prepare=no_tpu,
    ),
    "replicas on a TPU": fit(
        "the strategy is tpu, which trains on all cores of the TPU.",
        *("--strategy=tpu", "--replicas=2"),
    ),
    # several workers
    "TF_CONFIG is no JSON": environment(
        "TF_CONFIG is '{\"cluster\":'. Expected JSON such as",
        "--strategy=multi_worker",
        TF_CONFIG='{"cluster":',
    ),
    "TF_CONFIG without a task": environment(
        "Expected JSON such as", TF_CONFIG='{"cluster": {"worker": ["a:1"]}}'
    ),
    "TF_CONFIG with parameter servers": tf_config(
        "The cluster has tasks of type ps. Parameter servers are not supported",
        worker=["a:1"],
        ps=["b:1"],
    ),
    "TF_CONFIG with an evaluator": tf_config(
        "The cluster has tasks of type evaluator.", worker=["a:1"], evaluator=["b:1"]
    ),
    "TF_CONFIG index out of range": tf_config(
        "This process is worker 3, but the cluster has 1, counted from 0: a:1.",
        worker=["a:1"],
        index=3,
    ),
    "no cluster described": fit(
        "strategy=multi_worker found no description of the cluster.",
        "--strategy=multi_worker",
        prepare=no_slurm,
    ),
    "no Slurm": fit(
        "cluster.source=slurm: ",
        *("--strategy=multi_worker", "--cluster.source=slurm"),
        prepare=no_slurm,
    ),
    "no selector for Kubernetes": fit(
        "cluster.source is kubernetes and cluster.kubernetes_selector is null.",
        *("--strategy=multi_worker", "--cluster.source=kubernetes"),
    ),
    "no package for Kubernetes": fit(
        "needs the Python package kubernetes: pip install kubernetes.",
        *("--strategy=multi_worker", "--cluster.kubernetes_selector=job-name=a"),
        *("--cluster.source=kubernetes",),
        prepare=no_kubernetes,
    ),
    "workers without an index": fit(
        "cluster.workers is ['a:1'] and cluster.index is None. Expected both",
        *(*WORKERS, "--cluster.workers=[a:1]"),
    ),
    "worker without a port": fit(
        "cluster.workers has 'a'. Expected host:port, the port from 1 to 65535.",
        *(*WORKERS, "--cluster.workers=[a]", "--cluster.index=0"),
    ),
    "port of a worker out of range": fit(
        "cluster.workers has 'a:70000'. Expected host:port, the port from 1 to 65535.",
        *(*WORKERS, "--cluster.workers=['a:70000']", "--cluster.index=0"),
    ),
    "index behind the last worker": fit(
        "This process is worker 1, but the cluster has 1, counted from 0: a:1.",
        *(*WORKERS, "--cluster.workers=['a:1']", "--cluster.index=1"),
    ),
    "replicas of a worker without GPU": fit(
        "replicas is 2 under strategy=multi_worker, but this machine has no GPU.",
        *("--strategy=multi_worker", "--replicas=2"),
    ),
    "port out of range": fit("cluster.port is 70000. Expected 1 to 65535.", "--cluster.port=70000"),
    "several seeds on several workers": fit(
        "strategy=multi_worker trains one run a command.", "--strategy=multi_worker", "--seeds=0,1"
    ),
    # run directories
    "run of another configuration": fit(
        "holds a run of another configuration: seed is 0 there and 7 here; optimizer.learning_rate "
        "is 0.05 there and 0.1 here. Give another name",
        *("--seed=7", "--optimizer.learning_rate=0.1"),
        prepare=Scene.run,
    ),
    "run to be trained longer under a cosine": fit(
        "training.epochs is 1 there and 2 here, but optimizer.schedule is cosine, which ends with",
        *("--training.epochs=2", "--optimizer.schedule.name=cosine"),
        prepare=cosine,
    ),
    "run to be trained less": fit(
        "training.epochs is 3 there and 1 here, and no run gets shorter", prepare=longer
    ),
    "run to be trained longer without a checkpoint": fit(
        "{tmp}/run has finished after 1 epochs and has no checkpoint of its end, so it cannot be",
        "--training.epochs=2",
        prepare=no_checkpoint_of_its_end,
    ),
    "run of another process": fit("is in use by another process.", prepare=locked),
    "folder that is no run": fit(
        "run_directory={tmp}/run exists and holds no run. Nothing is overwritten",
        prepare=lambda scene: (scene.folder / "run").mkdir() or scene.file("run/notes.txt", "mine"),
    ),
    "file where the run should be": fit(
        "run_directory={tmp}/run exists and holds no run.",
        prepare=lambda scene: scene.file("run", "mine"),
    ),
    "run directory below a file": fit(
        "run_directory={tmp}/notes/run cannot be made: Not a directory.",
        "--run_directory={tmp}/notes/run",
        prepare=lambda scene: scene.file("notes", "mine"),
    ),
    "read-only disk": fit(
        "run_directory={tmp}/run cannot be written: Read-only file system.",
        prepare=lambda scene: (
            unfinished(scene),
            scene.patch.setattr("fcntl.flock", failing(errno.EROFS)),
        ),
    ),
    "damaged configuration in the run": fit("config.yaml is damaged: ", prepare=damaged_config),
    "checkpoint of another model": training(
        "checkpoints/00000001-step-0 is of another model: model/0/hidden_1/kernel is [[64, 8], "
        "'float32'] there and [[64, 9], 'float32'] here.",
        "--model.options.units=[9]",
        prepare=edited_config,
    ),
    # the disk
    "no room for a checkpoint": training(
        "The checkpoint of step 4 cannot be written to {tmp}/run/checkpoints: No space left on "
        "device. The last checkpoint is {tmp}/run/checkpoints/00000001-step-0. Make room",
        prepare=full_disk("train.run.checkpoint.rename_on_disk"),
    ),
    "no room for metrics": training(
        "metrics.jsonl cannot be written: No space left on device.",
        prepare=full_disk("train.run.files.append_line"),
    ),
    "no room for event files": training(
        "Event files cannot be written to {tmp}/run/events: No space left on device. The "
        "checkpoints are kept",
        prepare=full_disk("tensorflow.summary.create_file_writer"),
    ),
    "metrics that lack an epoch": training(
        "metrics.jsonl is damaged at line 1. Expected a table of epoch 1",
        prepare=lambda scene: (
            (scene.run() / "model.keras").unlink(),
            scene.file("run/metrics.jsonl", "[]\n"),
        ),
    ),
    "steps that are no tables": training(
        "steps.jsonl has no table with a step at line 1. Restore it, or remove it",
        prepare=lambda scene: (unfinished(scene), scene.file("run/steps.jsonl", "[1]\n")),
    ),
    "steps that are no text": training(
        "steps.jsonl is not a text in UTF-8. Restore it, or remove it",
        prepare=lambda scene: (unfinished(scene) / "steps.jsonl").write_bytes(b"\xff\n"),
    ),
    "no room for the model": training(
        "The model cannot be written to {tmp}/run/model.keras: No space left on device. The "
        "checkpoints are kept",
        prepare=full_disk("keras.Model.save"),
    ),
    "no room for anything": fit(
        "The disk is full: No space left on device. Expected room.",
        prepare=raising(
            tf.errors.ResourceExhaustedError(None, None, "a; No space left on device [Op:SaveV2]")
        ),
    ),
    # memory
    "no memory in NumPy": fit(
        "Memory ran out (Unable to allocate 9 TiB). Expected less at a time: a smaller "
        "training.batch_size",
        prepare=raising(MemoryError("Unable to allocate 9 TiB")),
    ),
    "no memory on the device": fit(
        "Memory ran out (OOM when allocating tensor",
        prepare=raising(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")),
    ),
    # weights to begin with
    "init_from is missing": fit(
        "init_from={tmp}/a.keras does not exist.", "--init_from={tmp}/a.keras"
    ),
    "init_from is a folder": fit("init_from={tmp} is a folder.", "--init_from={tmp}"),
    "init_from is no model": fit(
        "init_from={tmp}/a.h5 cannot be loaded: ",
        "--init_from={tmp}/a.h5",
        prepare=lambda scene: scene.file("a.h5", "mine"),
    ),
    "init_from is cut": fit(
        "init_from={tmp}/a.keras cannot be loaded: it is damaged, or was cut",
        "--init_from={tmp}/a.keras",
        prepare=cut_model,
    ),
    "init_from has other layers": fit(
        "other.keras has other weights than this model: hidden_1/kernel is missing there",
        "--init_from={tmp}/other.keras",
        prepare=other_layers,
    ),
    # numbers that are none
    "loss is not finite": diverging(
        "The loss of training step 2 is not finite (learning rate 1e+30). Weights that are not "
        "finite: head, hidden_1; weight angles: hidden_1, head. The last checkpoint is "
        "{tmp}/run/checkpoints/00000001-step-0. Lower optimizer.learning_rate, or set "
        "on_nan=rollback.",
        "--optimizer.learning_rate=1e30",
    ),
    "loss is not finite after every rollback": diverging(
        "(learning rate 1.25e+29). Weights that are not finite: head, hidden_1; weight angles: "
        "hidden_1, head. The last checkpoint is {tmp}/run/checkpoints/00000004-step-0. The "
        "learning rate was halved 3 times: lower it.",
        *("--optimizer.learning_rate=1e30", "--on_nan=rollback"),
    ),
    # parts that fail, or mean something else than they are asked for
    "loss of probabilities on logits": fit(
        "loss is sparse_categorical_crossentropy of probabilities (from_logits is false), but mlp "
        "gives logits: head has no activation.",
        "--loss=sparse_categorical_crossentropy",
    ),
    "metric of probabilities on logits": fit(
        "metrics is sparse_categorical_crossentropy of probabilities",
        "--metrics=[sparse_categorical_crossentropy]",
    ),
    "metric of one-hot targets on classes": fit(
        "metrics is categorical_accuracy, which compares values, but data.target is classes",
        "--metrics=[categorical_accuracy]",
    ),
    "metric of no targets": fit("metrics is 'mean', which is not known.", "--metrics=[mean]"),
    "metric that is called loss": fit(
        "metrics has the names accuracy, loss. Expected different ones, by the option name, and",
        "--metrics=[{name: sparse_categorical_accuracy, options: {name: loss}}]",
    ),
    "two metrics of one name": fit(
        "metrics has the names accuracy, sparse_top_k_categorical_accuracy, sparse_top_k_categ",
        "--metrics=[sparse_top_k_categorical_accuracy, sparse_top_k_categorical_accuracy]",
    ),
    "loss that is a sum": fit(
        "loss has reduction=sum. Expected the mean over examples, sum_over_batch_size",
        *("--loss=sparse_categorical_crossentropy", "--loss.options.from_logits=true"),
        "--loss.options.reduction=sum",
    ),
    "magnitude of another rule": fit(
        "feedback.rule is usf with the option magnitude=fixed, but usf means magnitude=uniform.",
        *("--feedback.rule=usf", "--feedback.rule.options.magnitude=fixed"),
    ),
    "options of a last layer without a rule": fit(
        "feedback.last_layer.options is given without feedback.last_layer.name",
        "--feedback.last_layer.options.epsilon=1",
    ),
    "options of an initializer without a name": fit(
        "feedback.initializer.options is given without feedback.initializer.name",
        "--feedback.initializer.options.seed=1",
    ),
    "unknown measure of a network without feedback": fit(
        "monitor.measures: measures of FeedbackMonitor is ('weigt_angle',).",
        *("--feedback.rule=bp", "--monitor.measures=[weigt_angle]"),
    ),
    "delta angles of a network without feedback": fit(
        "monitor.delta_angles is given, but no layer has feedback weights.",
        *("--feedback.rule=bp", "--monitor.delta_angles=true"),
    ),
    "initializer of no feedback weights": fit(
        "feedback.initializer is given, but no layer has feedback weights.",
        *("--feedback.rule=bp", "--feedback.initializer=he_normal"),
    ),
    "pad of no crop": fit(
        "data.pad is given, but data.augmentation is none. Expected pad_crop_flip", "--data.pad=2"
    ),
    "factor without piecewise": fit(
        "optimizer.schedule.factor is given, but optimizer.schedule.name is constant.",
        "--optimizer.schedule.factor=0.5",
    ),
    "kind of no decay": fit(
        "optimizer.decay is given, but optimizer.weight_decay is null.",
        "--optimizer.decay=per_step",
    ),
    "batch size that nothing is scaled by": fit(
        "optimizer.reference_batch_size is given, but optimizer.learning_rate_scaling is none.",
        "--optimizer.reference_batch_size=64",
    ),
    "no number in a list": fit(
        "optimizer.schedule.boundaries_epochs[0] is nan. Expected a number",
        *("--optimizer.schedule=piecewise", "--optimizer.schedule.boundaries_epochs=[.nan]"),
    ),
    "no number as an option": fit(
        "optimizer.options.momentum is nan. Expected a number", "--optimizer.options.momentum=.nan"
    ),
    "no character of a name": file(
        'run_directory: "a\\0b"', "{tmp}/a.yaml: run_directory is 'a\\x00b'. Expected"
    ),
    "name that is too long": fit(
        "File name too long: '{tmp}/xxxx", "--run_directory={tmp}/" + 300 * "x"
    ),
    "configuration without a name": fit("command line: config has no value.", "--config"),
    "text for a number of Keras": fit(
        "constraints.head.options.max_value is 'a'. Expected a number",
        "--constraints={head: {name: max_norm, options: {max_value: a}}}",
    ),
    "no schedule": fit(
        "optimizer.schedule.name=tests.train.parts_that_fail:NoSchedule is <class",
        "--optimizer.schedule=tests.train.parts_that_fail:NoSchedule",
    ),
    "module that ends Python": fit(
        "model is 'ends_python:make', and importing it fails: SystemExit: 3",
        *("--model=ends_python:make", "--import_from=[{tmp}]"),
        prepare=lambda scene: scene.file("ends_python.py", "raise SystemExit(3)\n"),
    ),
    "model that fails": fit(
        "tests.train.parts_that_fail.no_model fails: KeyError: 'units' (",
        *(*OWN_MODEL, "--model.name=tests.train.parts_that_fail:no_model"),
    ),
    "model of two outputs": fit(
        "gives 2 outputs. Expected one, of shape (10,)",
        *(*OWN_MODEL, "--model.name=tests.train.parts_that_fail:two_outputs"),
    ),
    "model without weights": fit(
        "has no weights to train",
        *(*OWN_MODEL, "--model.name=tests.train.parts_that_fail:no_weights"),
        "--feedback.rule=bp",
    ),
    "loss that fails": fit(
        "tests.train.parts_that_fail.no_loss fails: RuntimeError: the loss is broken (",
        "--loss=tests.train.parts_that_fail:no_loss",
    ),
    "metric that fails": fit(
        "tests.train.parts_that_fail.update_state fails: LookupError: the metric is broken",
        "--metrics=['tests.train.parts_that_fail:NoMetric']",
    ),
    "callback that fails": training(
        "tests.train.parts_that_fail.on_train_batch_end fails: RuntimeError: the callback is",
        "--callbacks=['tests.train.parts_that_fail:NoCallback']",
    ),
    "state that is no variable": training(
        "callbacks: state() of NoState gives 3 for 'count'. Expected a tf.Variable",
        "--callbacks=['tests.train.parts_that_fail:NoState']",
    ),
    "measure that is no number": training(
        "callbacks: the logs have mood='good'. Expected a number",
        "--callbacks=['tests.train.parts_that_fail:TextInLogs']",
    ),
    "callback of Keras that fails": training(
        "callbacks: EarlyStopping fails: EarlyStopping callback received monitor=nix",
        "--callbacks=[{name: EarlyStopping, options: {monitor: nix}}]",
    ),
    "callback that checkpoints replace": fit(
        "callbacks[0] is 'BackupAndRestore', which is not known.", "--callbacks=[BackupAndRestore]"
    ),
    "callback that sets a rate that is a schedule's": fit(
        "callbacks has ReduceLROnPlateau, which cannot set the rate of optimizer.schedule cosine.",
        *("--callbacks=[ReduceLROnPlateau]", "--optimizer.schedule=cosine"),
    ),
    "model of a run whose module is gone": fit(
        "holds a run of another configuration: model.name is 'gone:make' there and 'mlp' here",
        prepare=gone,
    ),
    # evaluate
    "evaluate nothing": other("evaluate", "evaluate needs a run directory or a .keras file."),
    "evaluate what is not there": other(
        "evaluate {tmp}/run", "{tmp}/run does not exist. Expected a run directory or a .keras file."
    ),
    "evaluate a folder that is no run": other("evaluate {tmp}", "{tmp} holds no run"),
    "evaluate an unfinished run without a checkpoint": other(
        "evaluate {tmp}/run",
        "{tmp}/run holds a run that has not finished, and no whole checkpoint.",
        prepare=no_checkpoint,
    ),
    "evaluate a file without a configuration": other(
        "evaluate {tmp}/run/model.keras", "model.keras needs --config", prepare=Scene.run
    ),
    "evaluate a run with a configuration": other(
        "evaluate {tmp}/run --config={tmp}/run/config.yaml",
        "is a run directory and has its own config.yaml.",
        prepare=Scene.run,
    ),
    "evaluate a model of other images": other(
        "evaluate {tmp}/other.keras --config={tmp}/run/config.yaml",
        "takes inputs (5, 5, 1) and gives (10,), but digits has inputs (8, 8, 1) and wants (10,).",
        prepare=lambda scene: (scene.run(), other_layers(scene)),
    ),
    "evaluate by a loss that fails": other(
        "evaluate {tmp}/run --loss=tests.train.parts_that_fail:no_loss",
        "tests.train.parts_that_fail.no_loss fails: RuntimeError: the loss is broken (",
        prepare=Scene.run,
    ),
    "evaluate by probabilities": other(
        "evaluate {tmp}/run --loss=sparse_categorical_crossentropy",
        "of probabilities (from_logits is false), but mlp gives logits",
        prepare=Scene.run,
    ),
    # export
    "export without a file": other("export {tmp}/run", "export needs --out", prepare=Scene.run),
    "export over a file": other(
        "export {tmp}/run --out {tmp}/mine.keras",
        "out={tmp}/mine.keras exists. Nothing is overwritten",
        prepare=lambda scene: (scene.run(), scene.file("mine.keras", "mine")),
    ),
    "export to another format": other(
        "export {tmp}/run --out={tmp}/a.h5", "a.h5 does not end in .keras", prepare=Scene.run
    ),
    "export below a file": other(
        "export {tmp}/run --out={tmp}/notes/a.keras",
        "notes/a.keras cannot be written: ",
        prepare=lambda scene: (scene.run(), scene.file("notes", "mine")),
    ),
    "export an unfinished run without a checkpoint": other(
        "export {tmp}/run --out={tmp}/a.keras", "and no whole checkpoint", prepare=no_checkpoint
    ),
    # sweep
    "sweep without a grid": other("sweep", "sweep needs --grid KEY=VALUE,VALUE"),
    "sweep of an unknown key": other(
        "sweep --grid optimizer.learning_rat=0.1",
        "optimizer.learning_rat is not a known key. Did you mean 'optimizer.learning_rate'?",
    ),
    "sweep without values": other("sweep --grid seed", "grid is 'seed'. Expected KEY=VALUE,VALUE"),
    "sweep of a wrong type": other(
        SWEEP + "0.1,x", "optimizer.learning_rate is 'x'. Expected a number."
    ),
    "sweep of a point that the library refuses": other(
        SWEEP + "0.1 --grid feedback.rule=bp,kp",
        "This is of optimizer.learning_rate=0.1, feedback.rule=kp, seed 0.",
    ),
    "sweep with a key that no point reads": other(
        SWEEP + "0.1 --grid feedback.rule=bp,fa --mirror.mode=akrout2019",
        "mirror.mode is given, but no layer learns by weight_mirror.",
    ),
    "sweep of a name that is not known": other(
        SWEEP + "0.1,0.2 --grid optimizer.name=sgd,sdg --config={tmp}/a.yaml",
        "error: command line: optimizer.name is 'sdg', which is not known.",
        prepare=lambda scene: scene.file("a.yaml", "optimizer: {name: adam}"),
    ),
    "sweep of the seed": other("sweep --grid seed=0,1", "grid has the key seed. Expected --seeds"),
    "sweep with a share above 1": other(
        SWEEP + "0.1 --validation 2", "validation is '2'. Expected a share between 0 and 1"
    ),
    "sweep over a split it cannot cut": other(
        SWEEP + "0.1 --data.train_split=train[100:]",
        "data.train_split is 'train[100:]', a part of a split that sweep cannot cut.",
    ),
    "sweep into another sweep's folder": other(
        SWEEP + "0.1 --optimizer.name=adam",
        "holds another sweep: optimizer.name is 'sgd' there and 'adam' here.",
        prepare=other_sweep,
    ),
    "sweep into a folder of something else": other(
        SWEEP + "0.1",
        "exists and holds no sweep (sweep.json).",
        prepare=lambda scene: (scene.folder / "sweep").mkdir() or scene.file("sweep/a", "mine"),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def data_are_read_once() -> Iterator[None]:
    """Reading digits takes most of a refusal's time; of what is refused nothing is kept."""
    load, known = datasets.load, {}

    def once(config: DataConfig) -> DataSet:
        key = repr(config)
        known[key] = known[key] if key in known else load(config)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", once)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finished") / "run"
    assert main(["fit", *TINY, f"--run_directory={directory}"]) == 0
    return directory


def files(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and not path.is_symlink()
    }


# Trainings like others of the table.
SLOW = {
    "no room for metrics",
    "no room for event files",
    "no room for the model",
    "metrics that lack an epoch",
    "loss is not finite after every rollback",
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name.replace(" ", "_"), marks=[pytest.mark.slow] * (name in SLOW))
        for name, case in CASES.items()
    ],
)
def test_mistake_is_told_in_one_sentence_and_nothing_is_lost(
    case: Case,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    case.prepare(Scene(tmp_path, finished, monkeypatch, request))
    before = files(tmp_path)
    capsys.readouterr()
    assert main(case.line(tmp_path)) == case.status
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert case.expected.replace("{tmp}", str(tmp_path)) in error
    assert error.count("\n") == 1, error
    after = files(tmp_path)
    if case.trains:  # it says of every start when that was
        before.pop(tmp_path / "run" / "setup.json", None)
    assert {path: after.get(path) for path in before} == before
    if not case.trains:
        assert after.keys() == before.keys()
