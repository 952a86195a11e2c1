"""Load the retrieval data that a run measures, with the measures that it chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.data import CaptionReader, PicturesError, Retrieval, TextRetrieval
from harness.core.errors import HarnessError, MissingError
from harness.core.protocols import Encoder, KnownFeatures, Task


def load_retrieval(task: Task, data: Path, lang: str, split: str, source: str | None, encoder: Encoder) -> Retrieval:
    """Return the captions and images of one language and split.

    An encoder that looks up embeddings by id does not open the images, so the folder may lack them. Raises as `Task.load` does.
    """
    try:
        return task.load(data, lang, split, source)
    except PicturesError:
        if not (isinstance(encoder, KnownFeatures) and isinstance(task, CaptionReader)):
            raise
        return task.load_captions(data, lang, split, source)


def with_measures(names: Sequence[str], retrieval: Retrieval) -> Retrieval:
    """Return a copy with other measures. The first one becomes the headline. Without names, nothing changes.

    Raises HarnessError for an unknown measure, and for measures of anything but text-to-text retrieval.
    """
    if isinstance(retrieval, TextRetrieval):
        from harness.retrieval.metrics import spell_measure

        measures = tuple(dict.fromkeys(map(spell_measure, names or retrieval.measures)))
        return replace(retrieval, measures=measures, headline=measures[0] if names else retrieval.headline)
    if names:
        raise HarnessError(f"--measures is for text-to-text retrieval, and {retrieval.task} has its own measures: omit it")
    return retrieval


def all_english_captions(retrieval: Retrieval, measures: Sequence[str], task: Task, data: Path) -> Retrieval | None:
    """Return all English captions of a retrieval's images.

    Returns None if there are none, or if they are the captions that the retrieval's own were translated from.
    """
    try:
        english = with_measures(measures, task.load(data, "en", retrieval.split))
    except MissingError:
        return None
    # A phrase is grounded in its own image, so further images do not make the task harder.
    english = english if english.sought == "regions" else english.among(retrieval.images)
    same = retrieval.english is not None and retrieval.in_english().texts_digest() == english.texts_digest()
    return None if same else english
