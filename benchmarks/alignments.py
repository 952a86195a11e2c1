"""Alternative alignments of a student's vocabulary: R@1 and R@10, text to image, on the val split, without training.

python -m benchmarks.alignments ENCODER DATA LANG[,LANG] PAIRS SEEDS

Means over the seeds 0, 1, ... About a minute a language and seed.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from harness.core.builtins import load_encoder
from harness.core.config import DistillConfig, RunConfig
from harness.core.data import Bitext, Doubles, Floats, Retrieval
from harness.core.protocols import Encoder, TokenEncoder, TokenLocator
from harness.distill.alignment.cooccurrence import Sparse, association, balance, occurrences
from harness.distill.alignment.distributional import DistributionalContext
from harness.distill.alignment.ibm1 import model1_posterior
from harness.distill.alignment.orthography import Spelling, bitext_spelling
from harness.distill.alignment.realignment import (
    LARGEST_COST,
    LOOSE_MARGINALS,
    ROUND_SHARPENING,
    ROUNDS,
    SHARPENING,
    lift_costs,
    realign,
    sharpen,
    token_transport_plan,
)
from harness.distill.alignment.token_bitext import TokenizedBitext
from harness.distill.data.bitext import MonolingualText, subset
from harness.distill.data.monolingual import select_monolingual_text
from harness.distill.data.subwords import subword_spans, tokenize
from harness.distill.initializers.aligned import mix_embeddings
from harness.distill.initializers.interface import layers_of
from harness.distill.model.student import new_student
from harness.distill.model.tower import DonatedLayers, TextTower
from harness.distill.transport.solvers import solve
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.retrieval.ranking import hit_rate, rank
from harness.storage.embeddings import embed_images
from harness.storage.store import Store
from harness.tasks.flickr30k import Flickr30k
from tests.support.alignments import RULES

SMALLER = (500, 1000)
CLOSENESS = 4.0
LEFT = 0.2
MET = replace(LOOSE_MARGINALS, method="sinkhorn")
MARGINALS = {
    "marginals half as firm": replace(LOOSE_MARGINALS, rho=LOOSE_MARGINALS.rho / 2),
    "marginals twice as firm": replace(LOOSE_MARGINALS, rho=LOOSE_MARGINALS.rho * 2),
    "marginals met (Sinkhorn)": MET,
}
SPELLING = 10.0


@dataclass(frozen=True)
class Trial:
    """An untrained student, the bitext that aligns its vocabulary, and the images and captions that measure it."""

    teacher: Encoder
    lent: DonatedLayers
    tokenizer: Tokenizer
    student: TextTower
    bitext: Bitext
    text: MonolingualText
    retrieval: Retrieval
    images: Floats

    @cached_property
    def longest(self) -> int:
        """The number of positions of the student."""
        return self.student.config.max_length

    @cached_property
    def foreign(self) -> list[list[int]]:
        """Ids of the foreign sentences."""
        return tokenize(self.tokenizer, self.bitext.foreign, self.longest)

    @cached_property
    def english(self) -> list[list[int]]:
        """Ids of the English sentences, as the teacher reads them."""
        return self.lent.tokenize(self.bitext.english)

    @cached_property
    def known(self) -> Doubles:
        """The teacher's English token embeddings."""
        return self.lent.weights["token_embedding.weight"].double().numpy()

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of subwords of both sides."""
        return self.student.config.vocab_size, len(self.known)

    @cached_property
    def counts(self) -> tuple[Sparse, Sparse]:
        """The counts of tokens in each sentence."""
        of_foreign, of_english = (
            occurrences(texts, size) for texts, size in zip((self.foreign, self.english), self.sizes, strict=True)
        )
        return of_foreign, of_english

    @property
    def pairs(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The sentence pairs, sorted by length to reduce padding."""
        return sorted(zip(map(tuple, self.foreign), map(tuple, self.english), strict=True), key=lambda pair: len(pair[0]))

    def weights(self, init: str, spelling: Spelling | None = None, context: DistributionalContext | None = None) -> Sparse:
        """Return the weights of an initializer for the subwords' embeddings."""
        return RULES[init](TokenizedBitext(self.foreign, self.english, self.sizes, spelling, context))

    def scores(self, weights: Sparse) -> tuple[float, float]:
        """Return R@1 and R@10 with the embeddings of these weights."""
        self.start_from(weights)
        texts = tokenize(self.tokenizer, self.retrieval.captions, self.longest)
        ranks = rank(self.images, self.student.embed(texts).numpy(), self.retrieval.caption_images)
        return hit_rate(ranks.t2i, 1), hit_rate(ranks.t2i, 10)

    @torch.no_grad()
    def start_from(self, weights: Sparse) -> None:
        """Set the student's embeddings to those of these weights."""
        rows = np.flatnonzero(np.diff(weights.indptr))
        made = torch.from_numpy(
            mix_embeddings(weights[rows], self.known, np.zeros_like(self.known[rows]), np.ones(len(rows)), rescale=True)
        ).float()
        self.student.token_embedding.weight[torch.from_numpy(rows)] = made


def prepared(
    teacher: Encoder,
    task: Flickr30k,
    data: str,
    lang: str,
    pairs: int,
    seed: int,
    vocabulary: int = 8000,
    sentences: int = 0,
    change: Callable[[Bitext], Bitext] = lambda bitext: bitext,
) -> Trial:
    """Prepare a language, with so many monolingual sentences of either side. change: applied to all pairs."""
    folder = Path(data)
    (guarded,) = load_guarded_bitext(task, folder, [task.language(lang)], RunConfig(lang=lang))
    bitext = subset(change(guarded.bitext), pairs, seed)
    text = select_monolingual_text([guarded], sentences, pairs, seed)
    config = DistillConfig(vocabulary=vocabulary, seed=seed)
    retrieval = task.load(folder, lang, "val")
    images = embed_images(teacher, retrieval.images, Store.at(None), lambda _: None)
    student, tokenizer = new_student(teacher, config, bitext, text)
    return Trial(teacher, layers_of(teacher), tokenizer, student, bitext, text, retrieval, images)


def rounds(trial: Trial, plan: Sparse, shared: Callable[[Doubles], Doubles], count: int) -> Sparse:
    """Realign a plan `count` times."""
    for _ in range(count):
        plan = realign(plan, trial.pairs, shared)
    return plan


def balanced(trial: Trial, kernel: Sparse) -> Sparse:
    """Return the plan of `ot-vocabulary` for a kernel."""
    return balance(kernel, *(counts.sum(0) for counts in trial.counts))


def agreed(lifts: Doubles) -> Doubles:
    """Return the geometric mean of Model 1's posteriors in both directions (agreement: Liang et al. 2006)."""
    back = model1_posterior(lifts.transpose(0, 2, 1)).transpose(0, 2, 1)
    return np.sqrt(model1_posterior(lifts) * back)


def with_rest(lifts: Doubles) -> Doubles:
    """Return plans in which each side moves a share of its mass to a dummy token at no cost."""
    rows, columns = lifts.any(2), lifts.any(1)
    shares = (np.pad(some / some.sum(1, keepdims=True), ((0, 0), (0, 1)), constant_values=LEFT) for some in (rows, columns))
    cost = np.pad(lift_costs(lifts), ((0, 0), (0, 1), (0, 1)))
    cost[:, -1, -1] = LARGEST_COST
    plans: Doubles = solve(torch.from_numpy(cost), *map(torch.from_numpy, shares), MET).plan.numpy()[:, :-1, :-1]
    shorter = np.minimum(rows.sum(1), columns.sum(1))
    return plans * shorter[:, None, None]


def contextual(trial: Trial, plan: Sparse) -> Sparse:
    """Realign a plan at costs that include the cosine of the student's and the teacher's token states in context."""
    trial.start_from(sharpen(plan, ROUND_SHARPENING))
    assert isinstance(trial.teacher, TokenEncoder)
    told = trial.teacher.encode_tokens(trial.bitext.english, "en")
    of_english = np.split(told.tokens, np.cumsum(told.lengths)[:-1])
    with torch.inference_mode():
        encoded = trial.student.encode(trial.foreign)
    cosines = [
        unit(states[: len(ids)]) @ unit(english).T
        for states, ids, english in zip(encoded.states.numpy(), trial.foreign, of_english, strict=True)
    ]
    place = iter(sorted(range(len(cosines)), key=lambda row: len(trial.foreign[row])))

    def shared(lifts: Doubles) -> Doubles:
        close = np.zeros_like(lifts)
        for of_pair, row in zip(close, place, strict=False):
            n, m = cosines[row].shape
            of_pair[:n, :m] = cosines[row]
        return token_transport_plan(lifts * np.exp(CLOSENESS * close))

    again = realign(plan, trial.pairs, shared)
    assert next(place, None) is None, "a pair without any association was passed over"
    return again


def unit(states: Floats) -> Floats:
    """Return rows of length 1."""
    rows: Floats = states / np.linalg.norm(states, axis=1, keepdims=True)
    return rows


def spelled_alike(trial: Trial) -> Spelling:
    """Return the spelling of a trial's tokens."""
    assert isinstance(trial.teacher, TokenLocator)
    spans = (
        subword_spans(trial.tokenizer, trial.bitext.foreign, trial.longest),
        trial.teacher.locate_tokens(trial.bitext.english, "en"),
    )
    return bitext_spelling(trial.bitext, (trial.foreign, trial.english), spans, SPELLING)


def variants(trial: Trial) -> Iterator[tuple[str, Sparse]]:
    """Yield each alignment with its name."""
    for way in ("association", "ibm1", "ot-vocabulary", "ot-sentences"):
        yield f"`{way}`", trial.weights(way)
    kernel = association(*trial.counts)
    start = balanced(trial, kernel)
    plan = rounds(trial, start, token_transport_plan, ROUNDS)
    yield "`ibm1` in both directions, agreed", sharpen(rounds(trial, kernel, agreed, ROUNDS), ROUND_SHARPENING)
    yield (
        "`ot-sentences` from a kernel not balanced",
        sharpen(rounds(trial, kernel, token_transport_plan, ROUNDS), ROUND_SHARPENING),
    )
    yield "one round", sharpen(rounds(trial, start, token_transport_plan, 1), ROUND_SHARPENING)
    yield "eight rounds", sharpen(rounds(trial, plan, token_transport_plan, ROUNDS), ROUND_SHARPENING)
    yield "not sharpened", sharpen(plan, 1.0)
    yield "sharpened by 3", sharpen(plan, SHARPENING)
    for name, solver in MARGINALS.items():
        firmly = rounds(trial, start, partial(token_transport_plan, solver=solver), ROUNDS)
        yield name, sharpen(firmly, ROUND_SHARPENING)
    yield f"a share of {LEFT:g} left over (partial)", sharpen(rounds(trial, start, with_rest, ROUNDS), ROUND_SHARPENING)
    again = contextual(trial, plan)
    yield "and a fifth round with contextual costs", sharpen(again, ROUND_SHARPENING)
    yield "and a sixth", sharpen(contextual(trial, again), ROUND_SHARPENING)
    yield (
        f"with `--spelling {SPELLING:g}`",
        trial.weights("ot-sentences", spelled_alike(trial)),
    )


Found = dict[str, dict[str, list[tuple[float, float]]]]


def main(spec: str, data: str, langs: Sequence[str], pairs: int, seeds: int) -> None:
    """Print a row for each alignment."""
    teacher, task = load_encoder(spec, "cpu"), Flickr30k()
    found: Found = defaultdict(lambda: defaultdict(list))
    for lang in langs:
        for seed in range(seeds):
            trial = prepared(teacher, task, data, lang, pairs, seed)
            for name, weights in variants(trial):
                found[name][lang].append(trial.scores(weights))
            for size in SMALLER:
                smaller = prepared(teacher, task, data, lang, pairs, seed, size)
                weights = smaller.weights("ot-sentences")
                found[f"`ot-sentences`, {size:,} subwords"][lang].append(smaller.scores(weights))
    print(f"{pairs:,} pairs, {seeds} seeds: R@1 / R@10, text to image, val\n")
    show(found, langs)


def show(found: Found, langs: Sequence[str]) -> None:
    """Print a Markdown table of means over the seeds."""
    print(f"| | {' | '.join(langs)} |\n| --- |{' --- |' * len(langs)}")
    for name, of in found.items():
        means = (np.mean(of[lang], axis=0) for lang in langs)
        print(f"| {name} | {' | '.join(f'{one:.1f} / {ten:.1f}' for one, ten in means)} |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3].split(","), int(sys.argv[4]), int(sys.argv[5]))
