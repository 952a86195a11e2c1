"""Scorers with a bias for each candidate, against their formulas over the whole score matrix, and against POT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from harness.core.config import RunConfig, ScoringConfig
from harness.core.data import Retrieval
from harness.core.errors import HarnessError
from harness.evaluation.planning import make_plans
from harness.retrieval import cosines
from harness.retrieval.ranking import TOLERANCE, Biases
from harness.retrieval.scorers import scorer_spec
from harness.retrieval.scorers.biased import BiasedScorer, BiasRule, Sides
from harness.retrieval.scorers.csls import Csls
from harness.retrieval.scorers.inverted_softmax import InvertedSoftmax
from harness.retrieval.scorers.qb_norm import QueryBankNorm
from harness.retrieval.scorers.sinkhorn import Sinkhorn
from harness.runtime.vectors import unit_rows
from harness.storage.store import Store
from tests.support.command_line import SMALL_RUN, harness

RULES: list[BiasRule] = [Sinkhorn(0.05, 10), Sinkhorn(0.01, 3), InvertedSoftmax(0.05), Csls(3), QueryBankNorm(0.05)]
BY_RULE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name} {rule.options}")


def sides(seed: int, images: int, texts: int, width: int = 6, shared: float = 1.0) -> Sides:
    """Return unit embeddings. shared: length of a vector that all share, by which some of them become hubs."""
    random = np.random.default_rng(seed)
    common = shared * random.standard_normal(width)
    rows = (unit_rows(random.standard_normal((count, width)) + common) for count in (images, texts))
    return Sides(*(torch.from_numpy(each.astype(np.float32)) for each in rows))


def matrix(texts: torch.Tensor, images: torch.Tensor) -> Any:
    """Return the cosines (m, n) in float64."""
    return texts.double().numpy() @ images.double().numpy().T


def sinkhorn(scores: Any, tau: float, iterations: int) -> tuple[Any, Any]:
    """Return log v and log u by alternating normalisations of the whole matrix."""
    m, n = scores.shape
    log_u, log_v = np.zeros(m), np.zeros(n)
    for _ in range(iterations):
        log_v = -np.log(n) - logsumexp(scores / tau + log_u[:, None], axis=0)
        log_u = -np.log(m) - logsumexp(scores / tau + log_v, axis=1)
    return log_v, log_u


def scores_by_formula(rule: BiasRule, queries: Any, bank: Any, other: Any = None) -> Any:
    """Return the scores (q, c) of one direction. queries: (q, c) cosines. bank: (b, c), those of the bank's queries.

    other: the cosines (b', q) of the plan that gives u, where the queries are images.
    """
    match rule:
        case Sinkhorn():
            return queries + rule.tau * (sinkhorn(bank, rule.tau, rule.iterations)[0] if other is None else other)
        case Csls():
            return queries - np.sort(bank, axis=0)[-rule.neighbours :].mean(0) / 2
        case InvertedSoftmax():
            return queries - rule.tau * logsumexp(bank / rule.tau, axis=0)
        case QueryBankNorm():
            activated = np.unique(bank.argmax(1))
            normalised = queries - rule.tau * logsumexp(bank / rule.tau, axis=0)
            return np.where(np.isin(queries.argmax(1), activated)[:, None], normalised, queries)
    raise AssertionError(rule)


def applied(scores: Any, bias: Any) -> Any:
    """Return scores (q, c) with a bias."""
    return scores + (bias.values if bias.queries is None else bias.values * bias.queries[:, None])


def assert_same_up_to_rows(got: Any, want: Any) -> None:
    """Compare scores up to a constant of each query, which changes no rank."""
    np.testing.assert_allclose(got - got.mean(1, keepdims=True), want - want.mean(1, keepdims=True), atol=1e-9)


@BY_RULE
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 30), texts=st.integers(1, 60), banked=st.booleans())
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_the_formula(rule: BiasRule, seed: int, images: int, texts: int, banked: bool) -> None:
    test = sides(seed, images, texts)
    bank = sides(seed + 1, 17, 23) if banked else test
    biases = rule.biases(test, bank)
    direct = matrix(test.texts, test.images)
    assert_same_up_to_rows(applied(direct, biases.t2i), scores_by_formula(rule, direct, matrix(bank.texts, test.images)))
    to_bank = matrix(test.texts, bank.images)
    other = sinkhorn(to_bank, rule.tau, rule.iterations)[1] if isinstance(rule, Sinkhorn) else None
    assert_same_up_to_rows(applied(direct.T, biases.i2t), scores_by_formula(rule, direct.T, to_bank.T, other))


@BY_RULE
def test_biases_do_not_depend_on_the_stripes(rule: BiasRule, monkeypatch: pytest.MonkeyPatch) -> None:
    test, bank = sides(3, 40, 70), sides(4, 30, 50)
    whole = rule.biases(test, bank)
    monkeypatch.setattr(cosines, "STRIPE_BYTES", 8 * 100)
    for one, other in zip(all_values(whole), all_values(rule.biases(test, bank)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def all_values(biases: Biases) -> list[Any]:
    """Return the values of both directions and the queries that receive them."""
    return [each for side in (biases.t2i, biases.i2t) for each in (side.values, side.queries) if each is not None]


@pytest.mark.parametrize("tau", [0.05, 0.01])
def test_sinkhorn_s_plan_is_that_of_pot(tau: float) -> None:
    test = sides(5, 30, 80)
    biases, scores = Sinkhorn(tau, 10).biases(test, test), matrix(test.texts, test.images)
    m, n = scores.shape
    _, log = ot.sinkhorn(np.full(m, 1 / m), np.full(n, 1 / n), 1 - scores, tau, numItermax=10, stopThr=0, log=True, warn=False)
    for ours, theirs in ((biases.t2i.values, log["v"]), (biases.i2t.values, log["u"])):
        np.testing.assert_allclose(ours - ours.mean(), tau * (np.log(theirs) - np.log(theirs).mean()), atol=1e-9)


def test_sinkhorn_s_plan_has_uniform_marginals() -> None:
    test, tau = sides(6, 20, 50), 0.1
    biases = Sinkhorn(tau, 300).biases(test, test)
    plan = np.exp((matrix(test.texts, test.images) + biases.t2i.values + biases.i2t.values[:, None]) / tau)
    plan /= plan.sum()
    np.testing.assert_allclose(plan.sum(0), 1 / 20, rtol=1e-6)
    np.testing.assert_allclose(plan.sum(1), 1 / 50, rtol=1e-6)


@pytest.mark.parametrize("rule", [Sinkhorn(1e-3, 5), InvertedSoftmax(1e-3), QueryBankNorm(1e-3)], ids=lambda rule: rule.name)
def test_opposite_vectors_overflow_nothing_at_the_smallest_temperature(rule: BiasRule) -> None:
    axes = torch.eye(3)
    test = Sides(torch.cat([axes, -axes[:1]]), torch.cat([axes, axes[:1], -axes[1:]]))
    biases = rule.biases(test, test)
    assert all(np.isfinite(values).all() for values in all_values(biases))
    direct = matrix(test.texts, test.images)
    assert_same_up_to_rows(applied(direct, biases.t2i), scores_by_formula(rule, direct, direct))


def test_the_first_half_of_an_iteration_is_the_inverted_softmax() -> None:
    test, bank = sides(7, 12, 30), sides(8, 9, 25)
    one, other = Sinkhorn(0.05, 1).biases(test, bank).t2i.values, InvertedSoftmax(0.05).biases(test, bank).t2i.values
    np.testing.assert_allclose(one, other, atol=1e-12)


def test_querybank_normalisation_by_the_queries_themselves_is_the_inverted_softmax() -> None:
    test = sides(9, 25, 60)
    one, other = QueryBankNorm(0.05).biases(test, test), InvertedSoftmax(0.05).biases(test, test)
    for ours, theirs in ((one.t2i, other.t2i), (one.i2t, other.i2t)):
        assert ours.queries is not None
        assert ours.queries.all()
        np.testing.assert_array_equal(ours.values, theirs.values)


def test_a_candidate_that_ties_for_the_first_place_is_in_the_activation_set() -> None:
    """Two copies of an image: whichever of them rounding puts first, both are."""
    image, other, query = torch.eye(3)
    test, bank = Sides(torch.stack([image, image, other]), query[None]), Sides(other[None], image[None])
    receives = QueryBankNorm(0.05).biases(replace_texts(test, torch.stack([image, other])), bank).t2i.queries
    assert receives is not None
    assert receives.tolist() == [True, False]


def replace_texts(test: Sides, texts: torch.Tensor) -> Sides:
    """Return a copy with other texts."""
    return test._replace(texts=texts)


@BY_RULE
def test_a_banked_score_of_one_query_does_not_depend_on_the_others(rule: BiasRule) -> None:
    test, bank = sides(10, 15, 40), sides(11, 12, 30)
    whole = rule.biases(test, bank)
    few = rule.biases(replace_texts(test, test.texts[:3]), bank).t2i
    np.testing.assert_allclose(few.values, whole.t2i.values, atol=1e-12)
    if whole.t2i.queries is not None:
        np.testing.assert_array_equal(few.queries, whole.t2i.queries[:3])


@BY_RULE
def test_equal_embeddings_get_equal_biases(rule: BiasRule) -> None:
    """A collapsed encoder stays collapsed: its scores tie."""
    test = Sides(torch.eye(4)[:1].repeat(9, 1), torch.eye(4)[:1].repeat(20, 1))
    for side in (rule.biases(test, test).t2i, rule.biases(test, test).i2t):
        assert np.ptp(side.values) < TOLERANCE / 100


def test_a_hub_loses_its_first_places() -> None:
    """An image between all texts is first for many of them. Every rule makes it first for fewer."""
    texts = sides(12, 1, 300).texts
    hub = torch.nn.functional.normalize(texts.mean(0, keepdim=True), dim=1)
    test = Sides(torch.cat([hub, sides(13, 29, 1, shared=0.0).images]), texts)
    direct = matrix(test.texts, test.images)
    before = (direct.argmax(1) == 0).sum()
    assert before > 150
    for rule in RULES:
        after = (applied(direct, rule.biases(test, test).t2i).argmax(1) == 0).sum()
        assert after < before, rule.name


# runs


def scorers_of(folder: Path, tmp_path: Path, scorer: str, **choices: Any) -> list[BiasedScorer]:
    """Return the requested scorers of a planned run in one language."""
    scoring = ScoringConfig(**{name: choices.pop(name) for name in list(choices) if name in ScoringConfig.model_fields})
    config = RunConfig(
        **{"lang": "en", "objectives": (), **choices}, data=str(folder), encoder="random", scorer=scorer, scoring=scoring
    )
    ((plan,), _) = make_plans(config, Store(tmp_path / "store"))
    return [cell.scorer for cell in plan.cells if isinstance(cell.scorer, BiasedScorer)]


def test_the_name_tells_form_and_options(flickr30k_folder: Path, tmp_path: Path) -> None:
    names = {
        "sinkhorn:transductive": "sinkhorn, transductive, tau 0.05, 10 iterations",
        "inverted-softmax:banked": "inverted-softmax, banked, tau 0.05",
        "csls:banked": "csls, banked, k 10",
        "qb-norm:transductive": "qb-norm, transductive, tau 0.05",
    }
    for spec, name in names.items():
        assert [scorer.name for scorer in scorers_of(flickr30k_folder, tmp_path, spec)] == [name]
        assert scorer_spec(name) == spec


def test_the_bank_is_the_val_split_of_the_same_captions(flickr30k_folder: Path, tmp_path: Path) -> None:
    (own, english, every) = scorers_of(flickr30k_folder, tmp_path, "csls:banked", lang="de")
    banks = [each.bank for each in (own, english, every)]
    assert [bank and (bank.split, bank.images.ids, bank.captions) for bank in banks] == [
        ("val", ("21",), ("Bildtext von 21.",)),
        ("val", ("21",), ("Caption 1 of 21.",)),
        ("val", ("21",), ("Caption 0 of 21.", "Caption 1 of 21.")),
    ]


def test_a_cell_depends_on_form_options_and_bank(flickr30k_folder: Path, tmp_path: Path) -> None:
    def key(spec: str, **choices: Any) -> str:
        (scorer,) = scorers_of(flickr30k_folder, tmp_path, spec, **choices)
        return json.dumps(scorer.cache_key_parts())

    keys = [
        key("csls:banked"),
        key("csls:transductive"),
        key("csls:banked", score_neighbours=5),
        key("sinkhorn:banked"),
        key("sinkhorn:banked", score_temperature=0.02),
        key("sinkhorn:banked", score_iterations=5),
    ]
    file = flickr30k_folder / "dataset_flickr30k.json"
    file.write_text(file.read_text().replace("Caption 0 of 21.", "Another caption."))
    assert len({*keys, key("csls:banked")}) == 7
    assert key("csls:transductive") == keys[1]


@pytest.mark.parametrize(
    ("scorer", "choices", "message"),
    [
        ("sinkhorn", {}, r"--scorer sinkhorn: write sinkhorn:banked, .* or sinkhorn:transductive"),
        ("csls:both", {}, r"--scorer csls:both: write csls:banked"),
        ("maxsim:banked", {}, "--scorer maxsim:banked: maxsim takes no argument"),
        ("csls:banked", {"split": "val"}, r"--split val ranks itself: use csls:transductive"),
        (
            "csls:banked",
            {"score_temperature": 0.1},
            r"--score-temperature 0.1 has no use with --scorer csls: .* by sinkhorn, inv",
        ),
        ("plain", {"score_neighbours": 5}, "--score-neighbours 5 has no use with --scorer plain: it is read by csls"),
        (
            "csls:banked",
            {"task": "flickr30k-clir", "lang": "de"},
            "csls:banked needs images as candidates, and flickr30k-clir",
        ),
        (
            "csls:banked",
            {"task": "flickr30k-entities"},
            "--scorer csls:banked is for retrieval, and flickr30k-entities is",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    scorer: str, choices: dict[str, Any], message: str, flickr30k_folder: Path, tmp_path: Path
) -> None:
    if choices.get("task") == "flickr30k-entities":
        choices = {**choices, "data": None}
        with pytest.raises(HarnessError, match=message):
            make_plans(RunConfig(lang="en", task="flickr30k-entities", scorer=scorer), Store(tmp_path / "store"))
        return
    with pytest.raises(HarnessError, match=message):
        scorers_of(flickr30k_folder, tmp_path, scorer, **choices)


def test_a_source_without_the_val_split_has_no_bank(flickr30k_folder: Path, tmp_path: Path) -> None:
    (flickr30k_folder / "multi30k" / "data" / "task1" / "raw" / "val.de").unlink()
    with pytest.raises(HarnessError, match=r"needs the val split of multi30k in de as its bank: .*; csls:transductive needs"):
        scorers_of(flickr30k_folder, tmp_path, "csls:banked", lang="de")


class Known:
    """Embeddings of two retrievals, by split."""

    device = "cpu"

    def __init__(self, test: Sides, bank: Sides, owner: Any) -> None:
        self.sides = {"test": test, "val": bank}
        self.owner = owner

    def pictures(self, images: Any, what: str = "images") -> Any:
        return self.sides[images.split].images.numpy()

    def captions(self, retrieval: Any) -> Any:
        return self.sides[retrieval.split].texts.numpy()


class Gallery:
    """The images of one split."""

    def __init__(self, split: str, count: int) -> None:
        self.split, self.ids = split, tuple(map(str, range(count)))

    def open(self, index: int) -> Any:
        raise NotImplementedError

    def digest(self) -> str:
        return self.split


def made_up(split: str, test: Sides) -> Retrieval:
    """Return a retrieval of as many images and captions."""
    images, texts = len(test.images), len(test.texts)
    owner = np.arange(texts) % images
    captions = tuple(map(str, range(texts)))
    return Retrieval("t", "en", split, "s", "original", Gallery(split, images), captions, captions, owner)


@BY_RULE
@pytest.mark.parametrize("banked", [False, True])
def test_ranks_and_hubness_are_those_of_the_biased_scores(rule: BiasRule, banked: bool) -> None:
    test, bank = sides(20, 12, 60), sides(21, 10, 30)
    retrieval = made_up("test", test)
    embed: Any = Known(test, bank, retrieval.caption_images)
    found = BiasedScorer(rule, made_up("val", bank) if banked else None).rank(retrieval, embed)
    biases, direct = rule.biases(test, bank if banked else test), matrix(test.texts, test.images)
    own = retrieval.caption_images[:, None] == np.arange(12)
    for side, scores, relevant in (("t2i", direct, own), ("i2t", direct.T, own.T)):
        biased = applied(scores, getattr(biases, side))
        best = np.where(relevant, biased, -np.inf).max(1, keepdims=True)
        np.testing.assert_array_equal(getattr(found.ranks, side), 1 + (~relevant & (biased >= best - TOLERANCE)).sum(1))
        counts = np.bincount(np.argsort(-biased, axis=1)[:, :10].ravel(), minlength=biased.shape[1])
        spread = counts - counts.mean()
        skewness = (spread**3).mean() / (spread**2).mean() ** 1.5 if spread.any() else 0.0
        assert found.hubness[side] == pytest.approx(skewness)


@pytest.mark.slow
def test_a_run_reports_a_transductive_scorer_as_such(tmp_path: Path) -> None:
    words = ("run", "--lang", "de", *SMALL_RUN, "--objectives", "kd-mse", "--scorer")
    for spec in ("sinkhorn:transductive", "csls:banked"):
        done = harness(*words, spec, store=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"kd-mse + {spec}" in done.stdout
        assert f"scorer: {spec.replace(':', ', ')}" in done.stdout
        assert ("not zero-shot retrieval of single queries" in done.stdout) == (spec == "sinkhorn:transductive")
        assert "hubness" in done.stdout
    records = [json.loads(path.read_text()) for path in tmp_path.glob("records/*/record.json")]
    assert {record["scorer"] for record in records} == {
        "plain",
        "sinkhorn, transductive, tau 0.05, 10 iterations",
        "csls, banked, k 10",
    }
    assert all(set(record["hubness"]) == {"t2i", "i2t"} for record in records)
