"""Where samples lie near to each other: one vector for each, by an encoder if there is one.

Without: of tokens, how often each token and each pair of tokens that follow one another occurs, hashed to DIMENSIONS
with signs (feature hashing, Weinberger et al. 2009), as a random projection of the counts. Of images, means of 8 x 8
fields. Of rows, features over their standard deviations. What is longer is projected at random. All have the length 1.

Shape suffixes: B = samples of a batch, T = tokens, D = dimensions.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from costopt_trainer.data.sampler import mix
from costopt_trainer.data.selection.samples import Samples
from costopt_trainer.data.training_data import Batch

DIMENSIONS = 128
FIELDS = 8


def embedded(samples: Samples, batch: Batch) -> NDArray[np.float32]:
    """The vectors of a batch, float32 (B, D), each of length 1 (or 0, of a sample with nothing in it)."""
    if samples.vectors is not None:
        vectors_BD = samples.vectors(batch).astype(np.float64)
    elif samples.data.vocabulary_size is not None:
        vectors_BD = _counts(*samples.tokens(batch), samples.data.vocabulary_size)
    elif samples.data.image_shape is not None:
        vectors_BD = _projected(adaptive_avg_pool2d(batch[0], FIELDS).flatten(1))
    else:
        scales = samples.data.feature_scales
        rows_BF = batch[0] if scales is None else (batch[0] - scales.means_F) / scales.deviations_F
        vectors_BD = _projected(rows_BF)
    lengths_B = np.linalg.norm(vectors_BD, axis=1, keepdims=True)
    return (vectors_BD / np.maximum(lengths_B, 1e-12)).astype(np.float32)


def _counts(tokens_BT: NDArray[np.int64], lengths_B: NDArray[np.int64], vocabulary_size: int) -> NDArray[np.float64]:
    vectors_BD = np.zeros((len(tokens_BT), DIMENSIONS))
    for words_BT, ahead in (
        (tokens_BT, 0),
        (tokens_BT[:, :-1] * vocabulary_size + tokens_BT[:, 1:] + vocabulary_size, 1),
    ):
        row, place = np.nonzero(np.arange(words_BT.shape[1]) < lengths_B[:, np.newaxis] - ahead)
        hashes = mix(words_BT[row, place].astype(np.uint64))
        signs = (hashes >> np.uint64(63)).astype(np.float64) * 2 - 1
        np.add.at(vectors_BD, (row, (hashes % np.uint64(DIMENSIONS)).astype(np.int64)), signs)
    return vectors_BD


def _projected(vectors_BF: torch.Tensor) -> NDArray[np.float64]:
    if vectors_BF.shape[1] > DIMENSIONS:
        drawn = np.random.default_rng(0).standard_normal((vectors_BF.shape[1], DIMENSIONS))
        return vectors_BF.numpy().astype(np.float64) @ drawn
    return vectors_BF.numpy().astype(np.float64)
