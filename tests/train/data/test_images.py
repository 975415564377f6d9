"""Crops and flips as functions of (seed, step, place in the global batch)."""

import numpy as np
import pytest
import tensorflow as tf

from train.data import images

NOISE = np.random.default_rng(3).normal(size=(7, 6, 3)).astype(np.float32)


def crops(
    *, seed: int = 1, step: int = 0, places: range = range(400), batch_size: int = 400, pad: int = 2
) -> np.ndarray:
    """The same image at all places."""
    return images.pad_crop_flip(
        tf.constant(np.broadcast_to(NOISE, (len(places), *NOISE.shape))),
        tf.constant(list(places), tf.int64),
        images.key_of(seed, step),
        batch_size=batch_size,
        pad=pad,
    ).numpy()


def found(crop: np.ndarray, pad: int) -> list[tuple[int, int, bool]]:
    """(top, left, flipped) of the crops of the zero-padded image that are equal to `crop`."""
    height, width, _ = NOISE.shape
    padded = np.pad(NOISE, ((pad, pad), (pad, pad), (0, 0)))
    return [
        (top, left, flipped)
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
        for flipped in (False, True)
        if np.array_equal(
            crop, padded[top : top + height, left : left + width][:, :: -1 if flipped else 1]
        )
    ]


def test_every_crop_lies_inside_the_zero_padded_image() -> None:
    seen = [found(crop, 2) for crop in crops()]
    assert all(len(windows) == 1 for windows in seen)
    tops, lefts, flips = zip(*(windows[0] for windows in seen), strict=True)
    assert set(tops) == set(lefts) == set(range(5))
    assert 160 <= sum(flips) <= 240  # of 400: half, within four standard deviations
    counts = np.bincount(5 * np.array(tops) + lefts, minlength=25)
    assert counts.min() >= 4  # of 16 expected at each of the 25 corners
    assert counts.max() <= 32


def test_crop_is_a_function_of_seed_step_and_place() -> None:
    here = crops()
    np.testing.assert_array_equal(here, crops())
    np.testing.assert_array_equal(here[6:9], crops(places=range(6, 9)))
    for other in (crops(seed=2), crops(step=1)):
        assert (here != other).any(axis=(1, 2, 3)).sum() > 350
    assert (here[:-1] != here[1:]).any(axis=(1, 2, 3)).sum() > 350


def test_without_padding_half_of_the_images_are_flipped_by_place() -> None:
    seen = crops(pad=0)
    flips = [not np.array_equal(x, NOISE) for x in seen]
    assert all(np.array_equal(x, NOISE[:, ::-1]) for x in seen[flips])
    assert 160 <= sum(flips) <= 240
    np.testing.assert_array_equal(seen[200:210], crops(pad=0, places=range(200, 210)))


def windows(height: int, width: int, count: int) -> np.ndarray:
    @tf.function
    def draw(places: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            lambda place: images.random_window(
                tf.constant([height, width, 3]), images.key_of(1, 0, place)
            ),
            places,
            fn_output_signature=tf.int32,
        )

    return draw(tf.range(count)).numpy()


def test_random_window_stays_in_the_image_and_in_the_ranges_of_area_and_ratio() -> None:
    height, width = 190, 240
    seen = windows(height, width, 500)
    top, left, rows, columns = seen.T
    assert min(top.min(), left.min()) == 0
    assert (top + rows).max() == height
    assert (left + columns).max() == width
    area, ratio = rows * columns / (height * width), columns / rows
    # Sides are rounded to pixels: at most 1 % of the smallest part.
    assert 0.079 < area.min() < 0.12
    assert 0.9 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.76
    assert 1.31 < ratio.max() < 1.35
    assert abs(np.log(ratio).mean()) < 0.03
    assert len({tuple(window) for window in seen}) > 490


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(10, 1000, [0, 493, 10, 13]), (1000, 10, [493, 0, 13, 10])],
)
def test_image_that_no_part_fits_gives_its_middle(
    height: int, width: int, expected: list[int]
) -> None:
    assert windows(height, width, 3).tolist() == [expected] * 3


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_part_of_an_encoded_image_is_that_part_of_its_pixels(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = tf.image.resize(NOISE * 60 + 128, [90, 70])
    pixels = tf.cast(tf.clip_by_value(smooth, 0, 255), tf.uint8)
    encoded = {"jpeg": tf.io.encode_jpeg, "png": tf.io.encode_png}[kind](pixels)
    whole = images.decode(encoded, 3)
    asked: list[list[int]] = []

    def window(shape: tf.Tensor, key: None) -> tf.Tensor:
        asked.append(shape.numpy().tolist())
        return tf.constant([11, 5, 40, 40])

    monkeypatch.setattr(images, "random_window", window)
    part = images.random_resized_crop(encoded, None, size=40, channels=3)  # resized to itself
    edge = {"jpeg": slice(2, -2), "png": slice(None)}[kind]  # a JPEG's colours reach over the edge
    np.testing.assert_array_equal(part[edge, edge], whole[11:51, 5:45][edge, edge])
    same = images.random_resized_crop(whole, None, size=40, channels=3)
    np.testing.assert_array_equal(same, whole[11:51, 5:45])
    assert asked == [[90, 70, 3]] * 2


@pytest.mark.parametrize(("height", "width"), [(256, 256), (256, 400), (300, 256)])
def test_single_crop_is_the_middle_of_an_image_whose_shorter_side_is_right(
    height: int, width: int
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    top, left = (height - 224) // 2, (width - 224) // 2
    crop = images.single_crop(tf.constant(image), 224)
    np.testing.assert_array_equal(crop, image[top : top + 224, left : left + 224])


@pytest.mark.parametrize(("height", "width"), [(512, 768), (100, 64), (33, 500)])
def test_single_crop_keeps_the_aspect_ratio_and_the_middle(height: int, width: int) -> None:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = tf.constant(np.stack([y, x], axis=-1))
    crop = images.single_crop(image, 28).numpy()
    assert crop.shape == (28, 28, 2)
    scale = min(height, width) / 32  # pixels of the image in one of the crop
    middle = crop[13:15, 13:15].mean(axis=(0, 1))
    np.testing.assert_allclose(middle, [(height - 1) / 2, (width - 1) / 2], atol=scale)
    steps = crop[20, 20] - crop[10, 10]
    np.testing.assert_allclose(steps / 10, [scale, scale], rtol=0.05)
