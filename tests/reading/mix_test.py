"""Tests of MixUp and CutMix: shares, soft targets, and draws from keys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tfrecord_tools import order
from tfrecord_tools.errors import UserError
from tfrecord_tools.mix import cutmix, mixup

COUNT = 400
KEYS = order.hash64(0, np.arange(COUNT)).view(np.int64)
# Image i has the gray level 255 * (i % 2) and the target i % 2, so both show the share of the mix.
IMAGES = np.broadcast_to((np.arange(COUNT) % 2 * 255).astype(np.uint8)[:, None, None, None], (COUNT, 20, 30, 3))
TARGETS = (np.arange(COUNT) % 2).astype(np.float32)[:, None]


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_targets_equal_the_shares_of_the_pixels(function: Callable[..., tuple[tf.Tensor, tf.Tensor]]) -> None:
    images, targets = function(tf.constant(IMAGES), tf.constant(TARGETS), tf.constant(KEYS))
    assert images.dtype == tf.uint8
    np.testing.assert_allclose(images.numpy().mean((1, 2, 3)) / 255, targets.numpy()[:, 0], atol=0.003)
    own = np.abs(targets.numpy()[:, 0] - (1 - TARGETS[:, 0]))
    assert scipy.stats.kstest(own, "uniform").pvalue > 1e-4 if function is mixup else 0.4 < own.mean() < 0.6


def test_one_hot_targets() -> None:
    one_hot = tf.one_hot(np.arange(COUNT) % 5, 5)
    _, targets = mixup(tf.constant(IMAGES), one_hot, tf.constant(KEYS))
    np.testing.assert_allclose(tf.reduce_sum(targets, 1), 1, rtol=1e-6)
    assert (np.count_nonzero(targets, axis=1) == 2).all()


def test_cutmix_pastes_one_rectangle() -> None:
    images, _ = cutmix(tf.constant(IMAGES), tf.constant(TARGETS), tf.constant(KEYS))
    for image, own in zip(images.numpy()[..., 0], IMAGES[:, 0, 0, 0]):
        rows, columns = np.nonzero(image != own)
        assert len(rows) == 0 or len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_probability(function: Callable[..., tuple[tf.Tensor, tf.Tensor]]) -> None:
    images, targets = function(tf.constant(IMAGES), tf.constant(TARGETS), tf.constant(KEYS), 0.0)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(targets, TARGETS)
    _, targets = function(tf.constant(IMAGES), tf.constant(TARGETS), tf.constant(KEYS), 0.3)
    assert 80 < np.sum(targets != TARGETS) < 160
    with pytest.raises(UserError, match=r"probability=2: must be from 0 to 1\."):
        function(IMAGES, TARGETS, KEYS, 2)


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_equal_in_a_pipeline(function: Callable[..., tuple[tf.Tensor, tf.Tensor]]) -> None:
    data = tf.data.Dataset.from_tensor_slices((IMAGES, TARGETS, KEYS)).batch(8).map(function, 4)
    images, targets = next(iter(data))
    expected = function(tf.constant(IMAGES[:8]), tf.constant(TARGETS[:8]), tf.constant(KEYS[:8]))
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(targets, expected[1])


def test_both_choose_independently() -> None:
    chosen = [
        np.any(
            function(tf.constant(IMAGES), tf.constant(TARGETS), tf.constant(KEYS), 0.5)[1].numpy() != TARGETS, axis=1
        )
        for function in (mixup, cutmix)
    ]
    assert 0.15 < np.mean(chosen[0] & chosen[1]) < 0.35


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_errors(function: Callable[..., tuple[tf.Tensor, tf.Tensor]]) -> None:
    images, labels, keys = tf.constant(IMAGES[:4]), tf.constant([0, 1, 0, 1]), tf.constant(KEYS[:4])
    with pytest.raises(
        UserError,
        match=r"targets of shape \(4,\): images must be uint8, and targets must have the shape \(batch size, number of"
        r" classes\)\. Make",
    ):
        function(images, labels, keys)
    with pytest.raises(UserError, match=r"images of tf\.float32"):
        function(tf.cast(images, tf.float32), labels[:, None], keys)
    message = r"keys of shape \(3,\) for images of shape \(4, 20, 30, 3\): must be one key per image"
    with pytest.raises(UserError, match=message):
        function(images, labels[:, None], keys[:3])
