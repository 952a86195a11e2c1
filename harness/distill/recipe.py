"""A recipe: everything that decides the weights of a distilled tower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from harness.core.arms import ENGLISH_FITTED, FITTED, objective_code_digests, reads_entities
from harness.core.builtins import INITIALIZERS, default_learning_rate, initializer_sources, is_pretrained, marks_language
from harness.core.config import DistillConfig
from harness.core.data import Bitext, Retrieval
from harness.core.digests import digest_json
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH
from harness.core.protocols import Encoder
from harness.core.registry import split_spec
from harness.distill.data.bitext import MonolingualText, join_bitexts, subset, without_translations
from harness.distill.data.leakage import GuardedBitext
from harness.distill.data.monolingual import select_monolingual_text

# Part of every tower's digest. Increase it when the same recipe no longer gives the same weights.
TRAINER_VERSION = 3
# The learning rates that `--tune` tries, by the initializer's default.
LEARNING_RATES = {1e-3: (1e-4, 3e-4, 1e-3, 3e-3), 1e-4: (3e-5, 1e-4, 3e-4, 1e-3)}
# Part of the digest of towers with a tuned learning rate. Increase it when the same trials no longer choose the same rate.
SEARCH_VERSION = 2


@dataclass(frozen=True)
class SearchImages:
    """The val images and captions that score the trials of a search, and the seed of the trial towers."""

    retrieval: Retrieval
    seed: int

    @cached_property
    def digest(self) -> str:
        """Digest of images, captions and seed."""
        return digest_json([self.retrieval.texts_digest(), self.retrieval.images.digest(), self.seed])


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights of a distilled tower.

    guarded: the bitext of its language, or of each language that shares the tower. tag: finds the entities of sentence pairs, for
    objectives that read them. search: the images that score its trials; None for a tenth of the pairs.
    Raises HarnessError if `ridge-english` meets a student that learns its subwords from the pairs.
    """

    config: DistillConfig
    teacher: Encoder
    guarded: tuple[GuardedBitext, ...]
    tag: Callable[[Bitext], Bitext]
    search: SearchImages | None = None

    def __post_init__(self) -> None:
        name, _ = split_spec(self.config.init)
        if self.reads_english_alone and not is_pretrained(self.config.init) and INITIALIZERS.find(name).builtin:
            raise HarnessError(
                f"{ENGLISH_FITTED} reads no sentence pair, and --init {name} makes its student of them: name a multilingual "
                "model with --init hf:NAME-or-FOLDER"
            )

    @property
    def reads_entities(self) -> bool:
        """Whether the objective reads the tokens of entities."""
        return reads_entities(self.config.objective)

    @property
    def is_fitted(self) -> bool:
        """Whether the student's projection is fitted in closed form before any step.

        It is for `ridge` and `ridge-english`, and for every pretrained student that is trained. Its projection is random, and the
        gradients of a random projection distort pretrained layers (Kumar et al., ICLR 2022).
        """
        return self.config.objective in (FITTED, ENGLISH_FITTED) or (is_pretrained(self.config.init) and self.steps > 0)

    @property
    def reads_english_alone(self) -> bool:
        """Whether the objective reads English text and no translation."""
        return self.config.objective == ENGLISH_FITTED

    @property
    def bitext(self) -> Bitext:
        """The sentence pairs of the training: `config.pairs` of each language, with held-out pairs at the end.

        For `ridge-english`, its English sentences without translations: see `training_english`.
        """
        config = self.config
        if self.reads_english_alone:
            return self.english[0]
        if not self.reads_entities:
            return training_pairs(self.guarded, config.pairs, config.seed, config.held_out)[0]
        parts = [self.tag(subset(each.bitext, config.pairs, config.seed)) for each in self.guarded]
        return join_bitexts(parts, config.held_out)

    @property
    def english(self) -> tuple[Bitext, str]:
        """The English sentences of `ridge-english` and their digest: see `training_english`."""
        config = self.config
        lang = ",".join(each.bitext.lang for each in self.guarded) if marks_language(config.init) else ENGLISH
        return training_english(self.guarded, config.unpaired, config.pairs, config.seed, config.held_out, lang)

    @property
    def text(self) -> MonolingualText:
        """The monolingual text of the training: `config.unpaired` sentences of each side of each language."""
        return training_text(self.guarded, self.config.unpaired, self.config.pairs, self.config.seed)[0]

    @cached_property
    def digest(self) -> str:
        """The tower's name in the store."""
        # Defaults are left out, so that a new option does not change the digests of existing towers.
        choices = self.config.chosen()
        seed, held_out = self.config.seed, self.config.held_out
        if self.reads_english_alone:
            _, pairs = self.english
        else:
            _, pairs = training_pairs(self.guarded, self.config.pairs, seed, held_out)
        parts = [TRAINER_VERSION, choices, self.teacher.fingerprint(), pairs]
        others = [*initializer_sources(self.config.init), *objective_code_digests(self.config.objective)]
        entities = [self.bitext.english_entities, self.bitext.foreign_entities] if self.reads_entities else []
        if self.is_fitted and is_pretrained(self.config.init):
            # Earlier towers were shrunk towards their random projection, or trained from it.
            others.append("shrunk towards 0")
        if self.config.unpaired and not self.reads_english_alone:
            others.append(training_text(self.guarded, self.config.unpaired, self.config.pairs, self.config.seed)[1])
        images = [self.search.digest] if self.search else []
        searched = [SEARCH_VERSION, self.searched_rates, *images] if self.config.tune else []
        return digest_json([*parts, *others, *entities, *searched])

    @property
    def searched_rates(self) -> tuple[float, ...]:
        """The learning rates that `--tune` tries: the given ones, else four with the initializer's default among them."""
        return self.config.tune_rates or LEARNING_RATES[default_learning_rate(self.config.init)]

    @property
    def steps(self) -> int:
        """The number of optimiser steps; the largest that is tried if steps are searched."""
        if self.config.tune_steps:
            return max(self.config.tune_steps)
        return self.config.steps_for(len(self.bitext) - self.config.held_out)


@lru_cache(maxsize=4)
def training_pairs(guarded: tuple[GuardedBitext, ...], pairs: int | None, seed: int, held_out: int) -> tuple[Bitext, str]:
    """Return a training's sentence pairs and their digest. Few are cached: a study plans many recipes over the same pairs."""
    bitext = join_bitexts([subset(each.bitext, pairs, seed) for each in guarded], held_out)
    return bitext, bitext.digest()


@lru_cache(maxsize=4)
def training_english(
    guarded: tuple[GuardedBitext, ...], sentences: int, pairs: int | None, seed: int, held_out: int, lang: str
) -> tuple[Bitext, str]:
    """Return the English sentences of `ridge-english` as a bitext with empty translations, and its digest.

    They are the monolingual English of `--unpaired`, else the English side of the pairs. lang: the tower's language, or English
    for a student that reads all languages alike, so that they share one tower.
    """
    whole, _ = training_pairs(guarded, pairs, seed, held_out)
    if sentences:
        english = training_text(guarded, sentences, pairs, seed)[0].english
        whole = replace(whole, english=english, image_ids=("",) * len(english), places=())
    bitext = without_translations(replace(whole, lang=lang))
    return bitext, bitext.digest()


@lru_cache(maxsize=4)
def training_text(
    guarded: tuple[GuardedBitext, ...], sentences: int, pairs: int | None, seed: int
) -> tuple[MonolingualText, str]:
    """Return the monolingual text of a training and its digest, cached like its pairs."""
    text = select_monolingual_text(guarded, sentences, pairs, seed)
    return text, digest_json([text.english, text.foreign])
