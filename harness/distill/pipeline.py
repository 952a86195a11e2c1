"""From a recipe to a distilled tower in the store."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from harness.core.arms import ENGLISH_FITTED, FITTED, objective_code_digests, reads_entities
from harness.core.builtins import INITIALIZERS, default_learning_rate, initializer_sources, is_pretrained, marks_language
from harness.core.config import DistillConfig
from harness.core.data import Bitext, Retrieval
from harness.core.digests import digest_json
from harness.core.errors import HarnessError
from harness.core.languages import ENGLISH
from harness.core.protocols import Encoder, TokenLocator
from harness.core.registry import split_spec
from harness.distill.data.bitext import MonolingualText, join_bitexts, subset, without_translations
from harness.distill.data.leakage import GuardedBitext, seen_hashes
from harness.distill.data.monolingual import select_monolingual_text
from harness.distill.data.subwords import english_tokenizer, tokenize
from harness.records.files import CARD_FILE, SEEN_FILE
from harness.records.provenance import current_provenance
from harness.records.schema import BitextCard, TowerCard, Trial
from harness.records.towers import check_stored_tower
from harness.runtime.device import resolve_device
from harness.storage.embeddings import embed_images, embed_texts
from harness.storage.seals import (
    clear_damaged,
    is_undamaged,
    load_json_entry,
    new_sealed_folder,
    read_json_entry,
    write_json_entry,
)
from harness.storage.store import BusyError, DamagedError, Store, remove_leftovers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from harness.distill.checkpoint import TrainingState
    from harness.distill.distributed import Processes
    from harness.distill.entity_marks import EntityMarks
    from harness.distill.model.teacher import TeacherStates
    from harness.distill.model.tower import TextTower, Tokens
    from harness.runtime.console import Console

# Part of every tower's digest. Increase it when the same recipe no longer gives the same weights.
TRAINER_VERSION = 3
CURVE_POINTS = 100
# The learning rates that `--tune` tries, by the initializer's default.
LEARNING_RATES = {1e-3: (1e-4, 3e-4, 1e-3, 3e-3), 1e-4: (3e-5, 1e-4, 3e-4, 1e-3)}
# Part of the digest of towers with a tuned learning rate. Increase it when the same trials no longer choose the same rate.
SEARCH_VERSION = 2


@dataclass(frozen=True)
class LearningRateSearch:
    """The val images and captions that score learning rates, and the seed of the trial towers."""

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
    objectives that read them. search: the images that score learning rates; None for a tenth of the pairs.
    Raises HarnessError if the objective reads entities, or the initializer spelling, and the teacher does not give the character
    spans of its tokens. Raises HarnessError if `ridge-english` meets a student that learns its subwords from the pairs.
    """

    config: DistillConfig
    teacher: Encoder
    guarded: tuple[GuardedBitext, ...]
    tag: Callable[[Bitext], Bitext]
    search: LearningRateSearch | None = None

    def __post_init__(self) -> None:
        name, _ = split_spec(self.config.init)
        if self.reads_english_alone and not is_pretrained(self.config.init) and INITIALIZERS.find(name).builtin:
            raise HarnessError(
                f"{ENGLISH_FITTED} reads no sentence pair, and --init {name} makes its student of them: name a multilingual "
                "model with --init hf:NAME-or-FOLDER"
            )
        needs = (
            (self.reads_entities, f"{self.config.objective} needs them to find the tokens of entities"),
            (self.config.spelling > 0, "--spelling needs them to compare spellings"),
        )
        for needed, reason in needs:
            if needed and not isinstance(self.teacher, TokenLocator):
                raise HarnessError(
                    f"{self.teacher.name} does not give the character spans of its tokens (locate_tokens), and {reason}: use a "
                    "teacher in open_clip's or transformers' form"
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
        """The learning rates that `--tune` tries. The initializer's default is among them."""
        return LEARNING_RATES[default_learning_rate(self.config.init)]

    @property
    def steps(self) -> int:
        """The number of optimiser steps."""
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


def distill(
    recipe: Recipe, device: str, store: Store, console: Console, wait: bool = True, ranks: Processes | None = None
) -> None:
    """Train the recipe's tower and store it, resuming from the checkpoint of an earlier run.

    An existing undamaged tower is not trained again. ranks: this process among those that train the tower together.
    Raises HarnessError if the teacher gives no token states or the training diverges, and BusyError if another run is training
    the tower and `wait` is False.
    """
    folder = store.tower(recipe.digest)
    if ranks is None and is_undamaged(folder, check_stored_tower):  # asked before torch is imported
        return
    from harness.distill.distributed import ALONE

    ranks = ranks or ALONE

    def load(path: Path) -> Path | None:
        return path if ranks.from_leader(ranks.leads and is_undamaged(path, check_stored_tower)) else None

    def make(path: Path) -> Path:
        if ranks.leads:
            clear_damaged(path, check_stored_tower)
            remove_leftovers(store.training(recipe.digest))
        make_tower(recipe, resolve_device(device), store, console, ranks)
        return path

    store.get_or_create(folder, load, make, wait, claim=ranks.leads)


def make_tower(recipe: Recipe, device: str, store: Store, console: Console, ranks: Processes) -> None:
    """Train and store the recipe's tower, even if one exists."""
    from harness.distill.agreement import agreement_note
    from harness.distill.checkpoint import save_tower
    from harness.distill.model.low_rank import require_peft

    if recipe.config.lora:
        require_peft()
    tuning = tune_learning_rate(recipe, device, store, console, ranks)
    best = max(tuning, key=lambda trial: trial.score, default=None)
    rate = best.learning_rate if best else recipe.config.peak_learning_rate
    config = recipe.config.model_copy(update={"learning_rate": rate})
    student, tokenizer, state = train_student(replace(recipe, config=config), recipe.digest, device, store, console, ranks)
    if not ranks.leads:
        return
    if note := agreement_note(state.agreement, state.step, config):
        console.say(f"note: {note}")
    card = TowerCard(
        digest=recipe.digest,
        lang=recipe.bitext.lang,
        config=config,
        teacher=recipe.teacher.name,
        teacher_fingerprint=recipe.teacher.fingerprint(),
        bitext=bitext_card(recipe),
        steps=state.step,
        losses=loss_curve(state.losses),
        validations=tuple(state.validations),
        unconverged=state.unconverged,
        agreement=None if state.agreement is None else round(state.agreement, 4),
        notes=(note,) if note else (),
        tuning=tuning,
        seconds=round(state.seconds, 1),
        provenance=current_provenance(device if ranks.count == 1 else f"{device}, {ranks.count} processes"),
    )
    with new_sealed_folder(store.tower(recipe.digest), recipe.digest) as folder:
        save_tower(folder, student, tokenizer)
        np.save(folder / SEEN_FILE, seen_hashes(recipe.bitext, recipe.text))
        (folder / CARD_FILE).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    store.training(recipe.digest).unlink(missing_ok=True)


@dataclass(frozen=True)
class LearningRateTrial:
    """A short training that tries a learning rate. search: the images that score it; None for its held-out pairs."""

    recipe: Recipe
    search: LearningRateSearch | None

    @property
    def digest(self) -> str:
        """The name of its score in the store."""
        return digest_json([self.recipe.digest, self.search.digest]) if self.search else self.recipe.digest


def learning_rate_trials(recipe: Recipe) -> list[LearningRateTrial]:
    """Return a trial of each of the recipe's searched rates, or none if the recipe is not tuned.

    A trial has a third of the steps and as many warm-up steps as the full training. With a search, trials have the seed of the
    search, so that towers of all seeds share them. Without, a tenth of the pairs are held out and score the trials.
    """
    config, search = recipe.config, recipe.search
    if not (config.tune and recipe.steps):
        return []
    steps = max(1, recipe.steps // 3)
    # A rate that suits the full training can diverge if the warm-up is three times as fast.
    warmup = min(0.9, config.warmup * recipe.steps / steps)
    choices: dict[str, object] = {"tune": False, "patience": None, "steps": steps, "warmup": warmup}
    choices |= {"seed": search.seed} if search else {"held_out": max(2, len(recipe.bitext) // 10)}
    configs = [config.model_copy(update=choices | {"learning_rate": rate}) for rate in recipe.searched_rates]
    return [LearningRateTrial(replace(recipe, config=each, search=None), search) for each in configs]


def tune_learning_rate(recipe: Recipe, device: str, store: Store, console: Console, ranks: Processes) -> tuple[Trial, ...]:
    """Return the scores of a recipe's learning rates, which are stored.

    Rates that other processes are trying come last, so that towers of several seeds share the work of the search.
    """
    scores: dict[str, float] = {}
    left = tries = learning_rate_trials(recipe)
    # All ranks of a training try the rates in the same order.
    for wait in (True,) if ranks.count > 1 else (False, True):
        for attempt in left:
            with suppress(BusyError):
                scores[attempt.digest] = trial_score(attempt, device, store, console, ranks, wait)
        left = [attempt for attempt in left if attempt.digest not in scores]
    return tuple(Trial(learning_rate=each.recipe.config.peak_learning_rate, score=scores[each.digest]) for each in tries)


def trial_score(attempt: LearningRateTrial, device: str, store: Store, console: Console, ranks: Processes, wait: bool) -> float:
    """Return a trial's score, stored or new. Raises BusyError if another process runs the trial and `wait` is False."""

    def load(path: Path) -> float | None:
        score = ranks.from_leader(stored_score(path) if ranks.leads else math.nan)
        return None if math.isnan(score) else score

    def make(path: Path) -> float:
        if ranks.leads:
            clear_damaged(path, read_json_entry)
        return run_trial(attempt, path, device, store, console, ranks)

    return store.get_or_create(store.trial(attempt.digest), load, make, wait, claim=ranks.leads)


def stored_score(path: Path) -> float:
    """Return the score in a trial's file, or NaN if the file is missing, damaged or of another recipe."""
    try:
        content = load_json_entry(path)
    except DamagedError:
        return math.nan
    return Trial.model_validate(content).score if content is not None else math.nan


def run_trial(attempt: LearningRateTrial, path: Path, device: str, store: Store, console: Console, ranks: Processes) -> float:
    """Train for a trial, store its score and return it."""
    recipe = attempt.recipe
    if ranks.leads:
        remove_leftovers(store.training(attempt.digest))
    student, tokenizer, state = train_student(recipe, attempt.digest, device, store, console, ranks)
    if attempt.search:
        score = ranks.from_leader(
            image_retrieval_score(student, tokenizer, recipe.teacher, attempt.search.retrieval, store, console)
        )
    else:
        score = max(score for _, score in state.validations)
    if ranks.leads:
        write_json_entry(path, Trial(learning_rate=recipe.config.peak_learning_rate, score=score).model_dump())
        store.training(attempt.digest).unlink(missing_ok=True)
    return score


def image_retrieval_score(
    student: TextTower, tokenizer: Tokenizer, teacher: Encoder, retrieval: Retrieval, store: Store, console: Console
) -> float:
    """Return the mean reciprocal rank of image-text retrieval, averaged over both directions, in percent."""
    from harness.retrieval.ranking import mean_reciprocal_rank, rank

    with console.stage("embeds val images", len(retrieval.images.ids), "images") as advance:
        images = embed_images(teacher, retrieval.images, store, lambda count: advance(count, ""))
    texts = tokenize(tokenizer, retrieval.captions, student.config.max_length)
    ranks = rank(images, student.embed(texts).cpu().numpy(), retrieval.caption_images)
    return mean_reciprocal_rank(ranks)


def train_student(
    recipe: Recipe, name: str, device: str, store: Store, console: Console, ranks: Processes
) -> tuple[TextTower, Tokenizer, TrainingState]:
    """Train the recipe's student on the teacher's states. Some objectives take no step.

    name: the name of the checkpoint in the store.
    """
    from harness.distill.checkpoint import TrainingState
    from harness.distill.model.ridge import fit_projection
    from harness.distill.model.student import new_student
    from harness.distill.model.teacher import teacher_states
    from harness.distill.trainer import EnglishSide, train

    config, bitext = recipe.config, recipe.bitext
    learned = bitext.take(range(len(bitext) - config.held_out))
    student, tokenizer = new_student(recipe.teacher, config, learned, recipe.text)
    if recipe.is_fitted:
        if recipe.reads_english_alone:
            read = tokenize(english_tokenizer(tokenizer), learned.english, student.config.max_length)
        else:
            read = tokenize(tokenizer, learned.foreign, student.config.max_length)
        embeddings = embed_texts(recipe.teacher, learned.english, ENGLISH, store)
        fit_projection(student.to(device).eval(), read, embeddings, towards_zero=is_pretrained(config.init))
        # All ranks start from the same weights, to the bit.
        ranks.copy_from_leader(student.projection.weight.detach())
    if recipe.steps == 0:
        return student.eval(), tokenizer, TrainingState()
    student.to(device)
    with (
        ranks.leader_first(),
        console.stage("teacher reads the English side", len(bitext), "sentences") as advance,
    ):
        states = teacher_states(recipe.teacher, bitext.english, store, lambda count: advance(count, ""))
    texts, marks = student_side(recipe, bitext, states, tokenizer, student.config.max_length)
    english = None
    if config.english_side:
        in_english = replace(bitext, foreign=bitext.english, foreign_entities=bitext.english_entities)
        english = EnglishSide(*student_side(recipe, in_english, states, english_tokenizer(tokenizer), student.config.max_length))
    with console.stage(f"distils {bitext.lang} by {config.objective}", recipe.steps, "steps") as progress:
        state = train(
            student,
            texts,
            states,
            config,
            bitext.places,
            store.training(name),
            lambda step, losses: progress.reach(step, f"loss {recent_loss(losses):.4f}"),
            marks,
            ranks,
            english,
        )
    if state.unconverged:
        problems = state.step * config.batch * (2 if english else 1)
        console.say(f"{state.unconverged:,} transport problems of {problems:,} had not converged")
    return student, tokenizer, state


def student_side(
    recipe: Recipe, bitext: Bitext, states: TeacherStates, tokenizer: Tokenizer, longest: int
) -> tuple[Tokens, EntityMarks | None]:
    """Return the token ids of a bitext's foreign side, at most `longest` each, and its entities if the objective reads them."""
    from harness.distill.entity_marks import mark_entities

    texts = tokenize(tokenizer, bitext.foreign, longest)
    if not recipe.reads_entities:
        return texts, None
    return texts, mark_entities(bitext, cast(TokenLocator, recipe.teacher), states, tokenizer, longest)


def bitext_card(recipe: Recipe) -> BitextCard:
    """Return the part of the record that describes the sentence pairs."""
    used = recipe.bitext
    return BitextCard(
        lang=used.lang,
        source=used.source,
        kind=used.kind,
        offered=sum(each.offered for each in recipe.guarded),
        dropped=sum(each.dropped for each in recipe.guarded),
        used=len(used),
        digest=used.digest(),
        notes=used.notes,
    )


def loss_curve(losses: Sequence[float], points: int = CURVE_POINTS) -> tuple[float, ...]:
    """Return the mean losses of at most `points` equal parts of the training; nothing without losses.

    >>> loss_curve([4.0, 2.0, 1.0, 1.0], points=2)
    (3.0, 1.0)
    """
    stretches = np.array_split(np.array(losses), min(points, len(losses))) if losses else []
    return tuple(float(f"{part.mean():.6g}") for part in stretches)


def recent_loss(losses: Sequence[float]) -> float:
    """Return the last value of `loss_curve`, so that the loss shown during training is the one on the tower's card.

    >>> recent_loss([4.0, 2.0, 1.0])
    1.0
    """
    stretch = len(losses) // min(CURVE_POINTS, len(losses))
    return loss_curve(losses[-stretch:], points=1)[0]
