#!/bin/bash
# Trains one model on a Cloud TPU VM.
#
#   gcloud compute tpus tpu-vm scp --recurse . NAME:tfweightmirror --worker=all
#   gcloud compute tpus tpu-vm ssh NAME --worker=all \
#       --command='cd tfweightmirror && configs/cluster/tpu_vm.sh CONFIG RUN_DIRECTORY'
#
# Nothing of this project has run on a TPU. The training and mirror steps of every rule compile for
# one (`make tpu-check`); this file, TPUStrategy and the input pipeline were never executed there.
#
# TensorFlow's TPU support comes with the wheel `tensorflow-tpu`, which takes the place of
# `tensorflow`. Its newest version is 2.20.0, and this project wants tensorflow 2.21: pip complains
# below, and goes on. TensorFlow 2.20 is not supported: the test suite as a whole never ran on it.
# What ran, on processors, passed: the custom gradient, conversion, saving, mirror mode,
# Kolen-Pollack, the launcher's optimizers, a fit of it and a resumed one.
# bfloat16 is the TPU's own format: weights stay float32 under the policy.
#
# RUN_DIRECTORY must outlive the VM: a mounted bucket or disk. A preempted VM that is started again
# goes on from the last checkpoint with the same command.

set -euo pipefail
config=${1:?usage: tpu_vm.sh CONFIG RUN_DIRECTORY}
run_directory=${2:?usage: tpu_vm.sh CONFIG RUN_DIRECTORY}

make setup
.venv/bin/python -m pip uninstall -qq -y tensorflow  # the same files
.venv/bin/python -m pip install -qq 'tensorflow-tpu==2.20.0' \
    --find-links https://storage.googleapis.com/libtpu-tf-releases/index.html

# cluster.tpu=null is the TPU of this machine. Many steps a call: the host is asked only in between.
exec .venv/bin/python -m train fit --config "$config" --run_directory="$run_directory" \
    --strategy=tpu --training.precision=mixed_bfloat16 --training.steps_per_call=100 \
    --training.batch_size=1024 --optimizer.learning_rate_scaling=linear \
    --checkpoint.every_steps=1000 --training.progress=epoch
