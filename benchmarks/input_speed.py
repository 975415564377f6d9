"""Images that one processor core decodes and crops: `python -m benchmarks.input_speed`.

The launcher's random crop to 224x224 of JPEGs of ImageNet's mean size, 500x375 pixels and about
110 KB, made of smooth noise. Images per second of processor time of this process, all threads
together, so that what else the machine does counts little; median of some turns.
"""

from __future__ import annotations

import statistics
import time

from train.parsing.start_up import load_tensorflow_quietly

load_tensorflow_quietly()

import tensorflow as tf  # noqa: E402

from train.data.images import key_of, random_resized_crop  # noqa: E402

IMAGES, TURNS = 256, 7


def jpeg(number: int) -> tf.Tensor:
    """Encoded noise, smooth over a few pixels."""
    coarse = tf.random.stateless_uniform((125, 167, 3), (0, number))
    pixels = tf.image.resize(coarse, (375, 500), "bicubic")
    return tf.io.encode_jpeg(tf.cast(255 * tf.clip_by_value(pixels, 0, 1), tf.uint8), quality=88)


def main() -> None:
    encoded = [jpeg(number) for number in range(16)]
    kilobytes = statistics.mean(len(image.numpy()) for image in encoded) / 1e3

    def crop(position: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        return random_resized_crop(image, key_of(0, position), size=224, channels=3)

    images = tf.data.Dataset.from_tensor_slices(encoded).cache().repeat().enumerate()
    crops = images.map(crop, num_parallel_calls=1).take(IMAGES)
    speeds = []
    for _ in range(TURNS + 1):
        begin = time.process_time()
        for _ in crops:
            pass
        speeds.append(IMAGES / (time.process_time() - begin))
    print(f"{kilobytes:.0f} KB an image")
    print(f"{statistics.median(speeds[1:]):.0f} images a second of processor time")


if __name__ == "__main__":
    main()
