"""Baseline without a neural network: PCA of thumbnails, and a linear map from a caption's words to the principal components."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.builtins import TASKS
from harness.core.data import Floats, Retrieval
from harness.core.digests import digest_strings
from harness.core.errors import HarnessError
from harness.evaluation.data_folders import sample_folder
from harness.storage.store import Store

if TYPE_CHECKING:
    from PIL import Image

_SEMANTICS = "pixels encoder 1"
_SIDE, _WIDTH, IMAGES, RIDGE = 16, 64, 2000, 3.0
TASK, _SAMPLE, _VAL = "flickr30k", "sample", "@val"


@dataclass(frozen=True)
class FittedModel:
    """Fitted scikit-learn models: PCA of thumbnails, TF-IDF of words, and ridge regression from TF-IDF to the components."""

    components: Any
    words: Any
    regression: Any


class Pixels:
    """`pixels:FOLDER`: PCA of thumbnails and ridge regression from TF-IDF, fitted to a flickr30k folder's train split.

    `pixels:FOLDER@val` is fitted to the val split, for folders without train images. It must be measured on test only.
    `pixels:sample` is fitted to the val split of the embedded sample, which it looks for in the default store.
    At most 2,000 evenly spaced images are used, with all their English captions.
    An image is reduced to 16 x 16 pixels and embedded as its first 64 principal components.
    A caption is embedded as the components that the ridge regression predicts from its words.
    """

    def __init__(self, argument: str, device: str) -> None:  # noqa: ARG002
        if not argument:
            raise HarnessError("pixels learns from a folder's train split: write pixels:FOLDER, or pixels:sample for the sample")
        self.name = f"pixels:{argument}"
        self._argument = argument

    @cached_property
    def _training(self) -> Retrieval:
        """Training images and their English captions. Raises HarnessError if the folder lacks them."""
        task = TASKS.load(TASK)()
        place = self._argument.removesuffix(_VAL)
        if place == _SAMPLE:
            return task.load(sample_folder(task, TASK, Store.at(None)), "en", "val")
        if place != self._argument:
            return task.load(Path(place).expanduser(), "en", "val")
        try:
            return task.load(Path(place).expanduser(), "en", "train")
        except HarnessError as error:
            raise HarnessError(f"{error}; {self.name}{_VAL} would learn from val, to be measured on test only") from error

    @cached_property
    def _rows(self) -> list[int]:
        count = len(self._training.images.ids)
        rows: list[int] = np.unique(np.linspace(0, count - 1, min(count, IMAGES)).astype(int)).tolist()
        return rows

    @cached_property
    def _fingerprint(self) -> str:
        numbers = map(str, (_SIDE, _WIDTH, IMAGES, RIDGE, metadata.version("scikit-learn")))
        return digest_strings([_SEMANTICS, *numbers, self._training.images.digest(), self._training.texts_digest()])

    def fingerprint(self) -> str:
        """Return a digest of the training data, the hyperparameters and scikit-learn's version."""
        return self._fingerprint

    @cached_property
    def fitted(self) -> FittedModel:
        """The fitted model. Fitting happens at the first access."""
        from sklearn.decomposition import PCA
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import Ridge

        training = self._training
        pictures = thumbnails(training.images.open(row) for row in self._rows)
        components = PCA(min(_WIDTH, *pictures.shape), svd_solver="full").fit(pictures)
        places = {row: place for place, row in enumerate(self._rows)}
        every = zip(training.captions, training.caption_images.tolist(), strict=True)
        pairs = [(text, places[row]) for text, row in every if row in places]
        texts, owners = zip(*pairs, strict=True)
        words = TfidfVectorizer(sublinear_tf=True, min_df=2)
        regression = Ridge(RIDGE).fit(words.fit_transform(texts), components.transform(pictures)[list(owners)])
        return FittedModel(components, words, regression)

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed images as their principal components, (n, 64) or fewer columns."""
        out: Floats = self.fitted.components.transform(thumbnails(images)).astype(np.float32)
        return out

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:  # noqa: ARG002
        """Embed texts as the components predicted from their words, in the space of the images. Unknown words are ignored."""
        out: Floats = self.fitted.regression.predict(self.fitted.words.transform(texts)).astype(np.float32)
        return out


def thumbnails(images: Iterable[Image.Image]) -> Floats:
    """Return images as rows of 16 x 16 RGB values in [0, 1], (n, 768)."""
    from PIL.Image import Resampling

    rows = [np.asarray(image.convert("RGB").resize((_SIDE, _SIDE), Resampling.BOX), dtype=np.float32).ravel() for image in images]
    out: Floats = np.stack(rows) / np.float32(255)
    return out
