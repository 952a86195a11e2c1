"""Alignment by captions of the same picture that are not translations: R@1 and R@10, text to image, on val.

python -m benchmarks.comparable ENCODER DATA LANG[,LANG] PAIRS SEEDS [FOLDER]

Before any training, the bitext's English sentences changing places with others of their picture's captions in Karpathy's file.
Means over the seeds 0, 1, ... A quarter of a minute a language and seed with 1,000 pairs. FOLDER: where all such pairs are
written, for `run --bitext` and a training.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.alignments import Found, prepared, show
from harness.core.builtins import load_encoder
from harness.core.config import RunConfig
from harness.core.data import Bitext
from harness.distill.data.leakage import normalise
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.tasks.flickr30k import Flickr30k
from harness.tasks.readers.karpathy import JSON_NAME, read_photos

KINDS: Mapping[str, Callable[[Bitext, list[list[str]]], Sequence[str]]] = {
    "translations": lambda pairs, _: pairs.english,
    "another caption": lambda _, others: [texts[0] for texts in others],
    "all other captions": lambda _, others: [" ".join(texts) for texts in others],
}
WAYS = ("association", "ibm1", "ot-vocabulary", "ot-sentences")


def changed(bitext: Bitext, captions: Mapping[str, Sequence[str]], kind: str) -> Bitext:
    """Return the pairs whose English sentence is a caption of their picture, with English of this kind."""
    rows, others = [], []
    for row, (image, english) in enumerate(zip(bitext.image_ids, bitext.english, strict=True)):
        known = captions.get(image, ())
        other = [text for text in known if normalise(text) != normalise(english)]
        if len(other) == len(known) - 1 > 0:
            rows.append(row)
            others.append(other)
    pairs = bitext.take(rows)
    return replace(pairs, english=tuple(KINDS[kind](pairs, others)))


def write(path: Path, bitext: Bitext) -> None:
    """Write English, translation and image id, one pair a line."""
    rows = zip(bitext.english, bitext.foreign, bitext.image_ids, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{english}\t{foreign}\t{image}\n" for english, foreign, image in rows), encoding="utf-8")


def main(spec: str, data: str, langs: Sequence[str], pairs: int, seeds: int, folder: str = "") -> None:
    """Print a row for each kind of English and each alignment."""
    teacher, task = load_encoder(spec, "cpu"), Flickr30k()
    captions = {photo.id: photo.captions for photo in read_photos(Path(data) / JSON_NAME)}
    found: Found = defaultdict(lambda: defaultdict(list))
    for lang in langs:
        for seed in range(seeds):
            for kind in KINDS:
                trial = prepared(teacher, task, data, lang, pairs, seed, change=partial(changed, captions=captions, kind=kind))
                for way in WAYS:
                    weights = trial.weights(way)
                    found[f"{kind}, `{way}`"][lang].append(trial.scores(weights))
        if folder:
            (guarded,) = load_guarded_bitext(task, Path(data), [task.language(lang)], RunConfig(lang=lang))
            for kind in KINDS:
                write(Path(folder) / f"{kind.replace(' ', '-')}.{lang}.tsv", changed(guarded.bitext, captions, kind))
    print(f"{pairs:,} pairs, {seeds} seeds: R@1 / R@10, text to image, val\n")
    show(found, langs)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3].split(","), int(sys.argv[4]), int(sys.argv[5]), *sys.argv[6:7])
