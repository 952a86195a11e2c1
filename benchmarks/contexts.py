"""The benefit of monolingual text for an alignment: R@1 and R@10, text to image, on the val split, without training.

python -m benchmarks.contexts ENCODER DATA LANG[,LANG] PAIRS SENTENCES SEEDS

Means over the seeds 0, 1, ... Half a minute a language and seed.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence

from benchmarks.alignments import SPELLING, Found, Trial, prepared, show, spelled_alike
from harness.core.builtins import load_encoder
from harness.distill.alignment.cooccurrence import Sparse
from harness.distill.alignment.distributional import DistributionalContext
from harness.distill.alignment.realignment import ROUND_SHARPENING, sharpen
from harness.distill.data.subwords import tokenize
from harness.tasks.flickr30k import Flickr30k

SUBWORDS = 3000


class Nearest(DistributionalContext):
    """Contexts matched token by token, without transport."""

    def transport_plan(self, weights: Sparse) -> Sparse:
        """Return the kernel without balancing it."""
        return self.in_vocabulary(self.similarity_kernel(weights))


class Again(DistributionalContext):
    """Rotation and transport, alternated twice."""

    def transport_plan(self, weights: Sparse) -> Sparse:
        """Return the plan from the weights of the first plan."""
        return super().transport_plan(sharpen(super().transport_plan(weights), ROUND_SHARPENING))


def contexts(trial: Trial, share: float = 1.0) -> DistributionalContext:
    """Return a trial's texts with a share of its monolingual sentences."""
    foreign, english = (side[: round(share * len(side))] for side in (trial.text.foreign, trial.text.english))
    of_foreign = [*trial.foreign, *tokenize(trial.tokenizer, foreign, trial.longest)]
    return DistributionalContext(of_foreign, [*trial.english, *trial.lent.tokenize(english)], trial.sizes)


def variants(trial: Trial) -> Iterator[tuple[str, Sparse]]:
    """Yield each alignment with its name."""
    texts = contexts(trial)
    whole = texts.foreign, texts.english, texts.sizes
    without = trial.weights("ot-sentences")
    yield "`ot-sentences`, the same subwords", without
    yield "from the contexts without transport", trial.weights("ot-contexts", context=Nearest(*whole))
    yield "rotation and transport twice", trial.weights("ot-contexts", context=Again(*whole))
    yield "from the contexts alone", sharpen(texts.transport_plan(without), ROUND_SHARPENING)
    spelling = spelled_alike(trial)
    yield f"with `--spelling {SPELLING:g}`", trial.weights("ot-contexts", spelling, texts)
    yield "with a tenth of the texts", trial.weights("ot-contexts", context=contexts(trial, 0.1))
    yield "with the texts of the pairs alone", trial.weights("ot-contexts", context=contexts(trial, 0.0))


def main(spec: str, data: str, langs: Sequence[str], pairs: int, sentences: int, seeds: int) -> None:
    """Print a row for each alignment."""
    teacher, task = load_encoder(spec, "cpu"), Flickr30k()
    found: Found = defaultdict(lambda: defaultdict(list))
    for lang in langs:
        for seed in range(seeds):
            plain = prepared(teacher, task, data, lang, pairs, seed)
            weights = plain.weights("ot-sentences")
            found["`ot-sentences`, subwords of the pairs"][lang].append(plain.scores(weights))
            for vocabulary in (8000, 2000, SUBWORDS):
                trial = prepared(teacher, task, data, lang, pairs, seed, vocabulary, sentences)
                weights = trial.weights("ot-contexts", context=contexts(trial))
                found[f"`ot-contexts`, {vocabulary:,} subwords"][lang].append(trial.scores(weights))
            for name, weights in variants(trial):
                found[name][lang].append(trial.scores(weights))
    print(f"{pairs:,} pairs, {sentences:,} sentences a side, {seeds} seeds: R@1 / R@10, text to image, val\n")
    show(found, langs)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3].split(","), *map(int, sys.argv[4:7]))
