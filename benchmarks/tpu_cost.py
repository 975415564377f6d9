"""What a training step of every rule costs on a TPU, by the TPU compiler: `make tpu-cost`.

Compiles whole training steps (Keras' own `train_step` with the rule's callback in it, mixed
bfloat16) ahead of time for one chip of a TPU v5e, and keeps the compiler's own counts: operations,
bytes accessed, memory. Nothing runs on a TPU. docs/scaling.md says what the counts mean.

Every compiled step is a line in `--out`, and a step that has its line is not compiled again, so
that the script may be stopped at any time: ResNet-50 takes five minutes of processor time a rule.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path

from train.parsing.start_up import load_tensorflow_quietly

load_tensorflow_quietly()

import keras  # noqa: E402

import tfweightmirror as tfwm  # noqa: E402
from benchmarks.networks import transformer  # noqa: E402
from benchmarks.scaling import PLAIN, RESULTS, Row, read  # noqa: E402
from tests.communication import WAYS  # noqa: E402
from tests.tpu.steps import BATCH, train_step, trainable  # noqa: E402
from tests.tpu.target import Target, compiler_python  # noqa: E402
from tfweightmirror.mirror import Schedule  # noqa: E402
from train.parts.models.resnet import resnet18, resnet50  # noqa: E402

IMAGES = ((224, 224, 3), (1000,))
# The networks, and which of their pathways no activation follows.
NETWORKS: dict[str, tuple[Callable[[], keras.Model], tuple[str, ...]]] = {
    "resnet50": (functools.partial(resnet50, *IMAGES, stem="imagenet"), ("head",)),
    "resnet18": (functools.partial(resnet18, *IMAGES, stem="imagenet"), ("head",)),
    # The encoder of ViT-B/16, on the patches of an image of 224x224.
    "transformer": (
        functools.partial(transformer, 12, 768, tokens=196, heads=12, classes=1000),
        ("multi_head_attention*", "narrow*", "head"),
    ),
}
# Ways of learning, by their names in `tests.communication`.
RULES = {
    PLAIN: None,
    "feedback_alignment": "fa",
    "kolen_pollack": "kp",
    "weight_mirror": "wm",
    "weight_mirror, the paper's": "wm, the paper's",
    "sign_symmetry": "usf",
    "sign_symmetry, fixed": "frsf",
    "sign_symmetry, batch": "brsf",
    "updated_random_feedback": "urfb",
    "backprop": "bp",
}
COLD = Schedule(warm_up_steps=0)  # a warm-up would run on this machine


def compiled(network: str, rule: str, batch: int, target: Target, programs: Path | None) -> Row:
    """The counts of one step, whose program is kept in the folder `programs`, if there is one."""
    keras.backend.clear_session()
    make, linear = NETWORKS[network]
    way = WAYS[RULES[rule]] if RULES[rule] else None
    model = trainable(make, way.rule if way else None, "mixed_bfloat16")
    callbacks = []
    if way and way.callback:
        # Akrout et al.'s mode needs to know where no activation is; here it runs after every batch.
        options = {"activations": dict.fromkeys(linear, "linear"), "schedule": COLD}
        callbacks = [way.callback(**(options if rule.endswith("the paper's") else {}))]
    program = target.compile(*train_step(model, *callbacks, batch=batch))
    if programs:
        kept = programs / f"{network}-{rule}-{batch}.txt.gz"
        kept.write_bytes(gzip.compress(program.text.encode()))
    kernels = {id(p.feedback_kernel): p.kernel.shape.num_elements() for p in tfwm.pathways(model)}
    own = [v.shape.num_elements() for v in model.trainable_variables if id(v) not in kernels]
    return Row(
        network=network,
        rule=rule,
        batch=batch,
        parameters=sum(own),
        summed=sum(own) + (way.times_b * sum(kernels.values()) if way else 0),
        flops=program.flops,
        bytes_accessed=program.bytes_accessed,
        traffic_bytes=program.memory_traffic,
        memory_bytes=program.total_bytes,
        products=program.convolutions,
        compile_s=round(program.seconds),
    )


def main() -> None:
    options = _options()
    python = compiler_python()
    if python is None:
        raise SystemExit(
            "There is no TPU compiler here: the packages of the extra `tpu-check`. `make tpu-cost` "
            "sets up an environment that has them."
        )
    done = {(row.network, row.rule, row.batch) for row in read(options.out)}
    with tempfile.TemporaryDirectory() as folder:
        target = Target(python, Path(folder))
        for network in options.networks:
            for rule in options.rules:
                if (network, rule, options.batch) in done:
                    continue
                row = compiled(network, rule, options.batch, target, options.programs)
                row.append_to(options.out)
                print(f"{network}, {rule}, batch {row.batch}: {row.compile_s} s", flush=True)
        target.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--rules", choices=RULES, nargs="+", default=list(RULES))
    parser.add_argument("--batch", type=int, default=BATCH, help="examples on a chip")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a line for every step")
    parser.add_argument("--programs", type=Path, help="folder that keeps the compiled programs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
