"""Late interaction: the double loop written out, patch states against the towers' own heads, what is stored, and a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor
from torch.nn import functional

from harness.core.builtins import load_encoder
from harness.core.data import Floats, Ints, TokenStates
from harness.core.errors import HarnessError
from harness.core.protocols import PatchEncoder, TokenEncoder
from harness.distill.checkpoint import save_tower
from harness.distill.data.subwords import tokenize, train_tokenizer
from harness.distill.distilled_tower import DistilledTower
from harness.distill.model.tower import TextTower, TowerConfig
from harness.encoders.open_clip.image_patches import patch_reader
from harness.retrieval import late_interaction
from harness.retrieval.late_interaction import maxsim_scores, rank_patches
from harness.retrieval.ranking import TOLERANCE, rank, rank_by_score
from harness.storage.embeddings import embed_patches, embed_tokens
from harness.storage.packed_states import PackedStates
from harness.storage.store import Store
from tests.support.command_line import harness
from tests.support.synthetic_records import ImageIds


def bags(draw: np.random.Generator, items: int, longest: int, width: int = 6, ties: bool = False) -> PackedStates:
    lengths = draw.integers(1, longest + 1, items)
    shape = (int(lengths.sum()), width)
    rows = draw.integers(-1, 2, shape) if ties else draw.standard_normal(shape)
    return PackedStates(rows.astype(np.float32), lengths)


def by_the_double_loop(texts: PackedStates, candidates: PackedStates) -> Any:
    """1/|t| sum_i max_j cos(t_i, c_j), a pair at a time."""

    def states(of: PackedStates, item: int) -> Any:
        rows = of.rows[of.starts[item] : of.starts[item] + of.lengths[item]].astype(np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(norms > 0, norms, 1)

    table = np.empty((len(texts), len(candidates)))
    for t in range(len(texts)):
        for c in range(len(candidates)):
            table[t, c] = np.mean([max(float(token @ state) for state in states(candidates, c)) for token in states(texts, t)])
    return table


@given(seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([1, 7, 4096]), ties=st.booleans())
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_the_double_loop(seed: int, rows: int, ties: bool) -> None:
    draw = np.random.default_rng(seed)
    texts, candidates = bags(draw, 9, 5, ties=ties), bags(draw, 8, 7, ties=ties)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(late_interaction, "STATES_AT_ONCE", rows)
        np.testing.assert_allclose(maxsim_scores(texts, candidates), by_the_double_loop(texts, candidates), atol=3e-7)


def test_items_of_one_state_are_compared_by_their_cosine() -> None:
    draw = np.random.default_rng(0)
    texts, images = draw.standard_normal((2, 9, 6)).astype(np.float32)
    unit = [functional.normalize(torch.from_numpy(rows), dim=1).numpy() for rows in (texts, images)]
    np.testing.assert_allclose(
        maxsim_scores(PackedStates.single(texts), PackedStates.single(images)), unit[0] @ unit[1].T, atol=1e-6
    )


@pytest.mark.parametrize("seed", range(10))
def test_for_a_text_the_mean_orders_candidates_as_the_sum_does(seed: int) -> None:
    draw = np.random.default_rng(seed)
    texts, candidates = bags(draw, 5, 9), bags(draw, 30, 4)
    scores = maxsim_scores(texts, candidates)
    sums = by_the_double_loop(texts, candidates) * texts.lengths[:, None]
    assert (np.argsort(-scores, 1) == np.argsort(-sums, 1)).all()


def test_a_long_caption_does_not_come_first_for_every_picture() -> None:
    """By the sum, a caption of many vague words would beat the one that fits."""
    picture = PackedStates(np.eye(4, dtype=np.float32), np.array([4]))
    fits, vague = np.eye(4, dtype=np.float32)[:2], np.tile(np.array([[1, 1, 0, 0]], np.float32), (9, 1))
    scores = maxsim_scores(PackedStates(np.concatenate([fits, vague]), np.array([2, 9])), picture)[:, 0]
    assert scores[0] > scores[1]
    assert 2 * scores[0] < 9 * scores[1]


@given(
    seed=st.integers(0, 2**32 - 1),
    extra=st.integers(0, 120),
    chunk=st.sampled_from([1, 200, 64 << 20]),
    steps=st.sampled_from([2, 5, 1000]),
)
@settings(max_examples=80, deadline=None)
def test_ranks_by_any_score_are_the_definition(seed: int, extra: int, chunk: int, steps: int) -> None:
    """Scores of few values tie often; chunks of one caption and of all give the same ranks."""
    draw, n = np.random.default_rng(seed), 12
    owner = draw.permutation(np.concatenate([np.arange(n), draw.integers(n, size=extra)]))
    table = (draw.integers(-steps, steps + 1, (len(owner), n)) / steps).astype(np.float32)
    got = rank_by_score(lambda captions, images: table[np.ix_(captions, images)], owner, n, chunk=chunk)
    bar = TOLERANCE
    t2i = [1 + np.count_nonzero(np.delete(row, own) >= row[own] - bar) for row, own in zip(table, owner, strict=True)]
    i2t = [1 + np.count_nonzero(table[owner != i, i] >= table[owner == i, i].max() - bar) for i in range(n)]
    assert got.t2i.tolist() == t2i
    assert got.i2t.tolist() == i2t


def test_single_states_are_ranked_as_the_plain_scorer_ranks_them() -> None:
    draw = np.random.default_rng(3)
    owner = np.concatenate([np.arange(20), draw.integers(20, size=40)])
    images = draw.standard_normal((20, 8)).astype(np.float32)
    texts = (images[owner] + draw.standard_normal((60, 8))).astype(np.float32)
    found, plain = rank_patches(PackedStates.single(images), PackedStates.single(texts), owner), rank(images, texts, owner)
    assert (found.t2i == plain.t2i).all()
    assert (found.i2t == plain.i2t).all()


def test_an_encoder_that_says_the_same_of_everything_finds_nothing() -> None:
    same = PackedStates(np.ones((30, 4), np.float32), np.full(10, 3))
    found = rank_patches(same, same, np.arange(10))
    assert (found.t2i == 10).all()
    assert (found.i2t == 10).all()


def test_negative_cosines_are_scores_like_others() -> None:
    patches = PackedStates(-np.eye(3, dtype=np.float32), np.ones(3, np.int64))
    texts = PackedStates((np.eye(3) + 0.3).astype(np.float32), np.ones(3, np.int64))
    # The right picture is the one whose cosine is most negative.
    assert rank_patches(patches, texts, np.arange(3)).t2i.tolist() == [3, 3, 3]


def test_states_of_two_widths_are_refused() -> None:
    with pytest.raises(HarnessError, match="patch states have 4 dimensions and token states 3: not one space"):
        rank_patches(
            PackedStates.single(np.ones((1, 4), np.float32)),
            PackedStates.single(np.ones((1, 3), np.float32)),
            np.zeros(1, np.int64),
        )


# patches


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Far from the initial values, so that no part is so small that leaving it out would go unseen."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def transformer(**changes: Any) -> VisionTransformer:
    return VisionTransformer(32, 8, width=32, layers=2, heads=2, mlp_ratio=2.0, output_dim=12, **changes)


def read(visual: torch.nn.Module, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a tower gives by itself, and what is read of it: embeddings and patch states."""
    torch.manual_seed(1)
    pixels = torch.randn(3, 3, size, size)
    with torch.inference_mode():
        return visual(pixels), *patch_reader(visual, "a model")(pixels)


@pytest.mark.parametrize("late_norm", [False, True])
@pytest.mark.parametrize("pooling", ["tok", "avg"])
def test_a_transformer_s_patches_go_through_its_norm_and_projection(pooling: str, late_norm: bool) -> None:
    visual = shaken(transformer(pool_type=pooling, final_ln_after_pool=late_norm))
    whole, pooled, states = read(visual, 32)
    torch.testing.assert_close(pooled, whole)
    assert states.shape == (3, 16, 12)
    visual.output_tokens = True
    torch.manual_seed(1)
    with torch.inference_mode():
        _, tokens = visual(torch.randn(3, 3, 32, 32))
        expected = (visual.ln_post(tokens) if late_norm else tokens) @ visual.proj
    torch.testing.assert_close(states, expected)


def test_a_resnet_s_embedding_mixes_its_patch_states() -> None:
    """Head h of the attention mixes the values of all places by its weights; a patch's state is the value of one."""
    visual = shaken(ModifiedResNet((1, 1, 1, 1), output_dim=12, heads=4, image_size=64, width=8))
    whole, pooled, states = read(visual, 64)
    torch.testing.assert_close(pooled, whole)
    assert states.shape == (3, 4, 12)
    torch.manual_seed(1)
    with torch.inference_mode():
        x = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(torch.randn(3, 3, 64, 64))))))
        pool = visual.attnpool
        places = x.flatten(2).transpose(1, 2)
        places = torch.cat([places.mean(1, keepdim=True), places], 1) + pool.positional_embedding
        heads = [part.unflatten(2, (4, -1)) for part in (pool.q_proj(places[:, :1]), pool.k_proj(places), pool.v_proj(places))]
        weights = (torch.einsum("bqhd,bkhd->bhk", heads[0], heads[1]) / heads[0].shape[3] ** 0.5).softmax(2)
        mixed = torch.einsum("bhk,bkhd->bhd", weights, heads[2]).flatten(1)
        alone = [pool.c_proj(heads[2][:, place].flatten(1)) for place in range(1, 5)]
        torch.testing.assert_close(pool.c_proj(mixed), pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.stack(alone, 1), states, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "pool"), [("test_efficientnet", ""), ("test_resnet", "avg"), ("test_vit", "avg")])
def test_where_the_head_takes_the_mean_it_is_the_mean_of_the_patch_states(name: str, pool: str) -> None:
    visual = shaken(TimmModel(name, embed_dim=12, image_size=160, pool=pool, proj="linear"))
    whole, pooled, states = read(visual, 160)
    torch.testing.assert_close(pooled, whole)
    if name == "test_vit":  # normalised after the mean
        visual.trunk.fc_norm = torch.nn.Identity()
        whole, _, states = read(visual, 160)
    torch.testing.assert_close(states.mean(1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "pool"), [("test_vit", "token"), ("test_vit3", "map")])
def test_timm_s_other_heads_are_asked_about_one_patch(name: str, pool: str) -> None:
    visual = shaken(TimmModel(name, embed_dim=12, image_size=160, pool=pool, proj="linear"))
    whole, pooled, states = read(visual, 160)
    torch.testing.assert_close(pooled, whole)
    trunk = visual.trunk
    torch.manual_seed(1)
    with torch.inference_mode():
        hidden = trunk.forward_features(torch.randn(3, 3, 160, 160))
        patch = hidden[:, trunk.num_prefix_tokens + 2]
        attended = trunk.attn_pool(patch[:, None]) if pool == "map" else patch
        expected = visual.head(trunk.head_drop(trunk.fc_norm(attended)))
    torch.testing.assert_close(states[:, 2], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("visual", [transformer(attentional_pool=True, attn_pooler_heads=2), open_clip.transformer.LayerNorm(4)])
def test_towers_whose_heads_say_nothing_of_one_patch_are_refused(visual: torch.nn.Module) -> None:
    with pytest.raises(HarnessError, match="a model gives no patch states: "):
        patch_reader(visual, "a model")


def test_the_sample_s_teacher_gives_patch_states() -> None:
    encoder = load_encoder("sample", "cpu")
    assert isinstance(encoder, PatchEncoder)
    pictures = [Image.fromarray(pixels) for pixels in np.random.default_rng(0).integers(0, 255, (9, 40, 50, 3), dtype=np.uint8)]
    states = encoder.encode_patches(pictures)
    assert states.lengths.tolist() == [4] * 9
    np.testing.assert_allclose(states.pooled, encoder.encode_images(pictures), atol=1e-5)
    alone = encoder.encode_patches(pictures[7:8])
    np.testing.assert_allclose(alone.tokens, states.tokens[28:32], atol=1e-5)


# token states of a distilled tower


def test_a_distilled_tower_gives_its_token_states(tmp_path: Path) -> None:
    texts = ["zwei Hunde", "ein Hund rennt über die Wiese", "", "Hund " * 30, "ein Hund"]
    tokenizer = train_tokenizer(texts * 3, 100)
    shape = {"width": 16, "layers": 2, "heads": 2, "mlp_width": 24, "joint_dim": 8, "max_length": 12}
    torch.manual_seed(0)
    tower = TextTower(TowerConfig(vocab_size=tokenizer.get_vocab_size(), **shape)).eval()
    save_tower(tmp_path, tower, tokenizer)
    encoder = DistilledTower(tmp_path, "cpu")
    assert isinstance(encoder, TokenEncoder)
    states = encoder.encode_tokens(texts, "de")
    rows = tokenize(tokenizer, texts, 12)
    assert states.lengths.tolist() == [len(row) for row in rows]
    np.testing.assert_allclose(states.pooled, encoder.encode_texts(texts, "de"), atol=1e-6)
    ends = np.cumsum(states.lengths)
    for place, (row, end) in enumerate(zip(rows, ends, strict=True)):
        with torch.inference_mode():
            alone = tower.encode([row]).states[0].numpy()
        own = states.tokens[end - len(row) : end]
        np.testing.assert_allclose(own, alone, atol=1e-5)
        np.testing.assert_allclose(own.mean(0), states.pooled[place], atol=1e-5)


# what is stored


class Words:
    """A text tower whose tokens are words: a direction drawn for each, and of any length."""

    def __init__(self, name: str = "words") -> None:
        self.name, self.calls = name, 0

    def fingerprint(self) -> str:
        return self.name

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        return self.encode_tokens(texts, lang).pooled

    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        self.calls += 1
        rows = [[np.random.default_rng(len(word)).standard_normal(5) * 1e6 for word in text.split()] for text in texts]
        lengths: Ints = np.array([len(row) for row in rows])
        tokens = np.array([word for row in rows for word in row], dtype=np.float32)
        return TokenStates(tokens, lengths, np.array([np.mean(row, 0) for row in rows], dtype=np.float32))


def test_token_states_are_computed_once_for_each_tower_language_and_list(tmp_path: Path) -> None:
    store, tower, texts = Store(tmp_path), Words(), ["a dog runs", "cats"]
    first = embed_tokens(tower, texts, "en", store)
    again = embed_tokens(tower, texts, "en", store)
    assert tower.calls == 1
    assert (again.rows == first.rows).all()
    assert first.lengths.tolist() == [3, 1]
    embed_tokens(tower, texts, "de", store)
    embed_tokens(tower, texts[::-1], "en", store)
    embed_tokens(Words("the same name with new weights"), texts, "en", store)
    assert len(list((tmp_path / "states").iterdir())) == 4


def test_states_are_kept_as_directions_in_half_precision(tmp_path: Path) -> None:
    """Half precision ends at 65,504, and these states are longer than that; their directions lose a thousandth at the most."""
    kept = embed_tokens(Words(), ["a dog runs", "cats"], "en", Store(tmp_path))
    assert kept.rows.dtype == np.float16
    exact = Words().encode_tokens(["a dog runs", "cats"], "en").tokens
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(kept.rows.astype(np.float32), exact, atol=2**-11)


class Broken(Words):
    def encode_tokens(self, texts: Sequence[str], lang: str) -> TokenStates:
        states = super().encode_tokens(texts, lang)
        if self.name == "empty":
            return TokenStates(states.tokens, np.array([0, *states.lengths[1:]]), states.pooled)
        if self.name == "short":
            return TokenStates(states.tokens[:-1], states.lengths, states.pooled)
        return TokenStates(states.tokens * np.nan, states.lengths, states.pooled)


@pytest.mark.parametrize(
    ("name", "message"), [("empty", "an item without states"), ("short", r"shape \(3, 5\) for 4 items"), ("nan", "NaN")]
)
def test_broken_states_are_refused_and_nothing_is_kept(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=message):
        embed_tokens(Broken(name), ["a dog runs", "cats"], "en", Store(tmp_path))
    assert not list((tmp_path / "states").iterdir())


def test_an_encoder_without_states_says_so(tmp_path: Path) -> None:
    encoder, store = load_encoder("random", "cpu"), Store(tmp_path)
    with pytest.raises(HarnessError, match="this text tower has no token states"):
        embed_tokens(encoder, ["a"], "en", store)
    with pytest.raises(HarnessError, match="this image encoder has no patch states"):
        embed_patches(encoder, ImageIds(("1",)), store, print)


# a run

RUN = ("run", "--lang", "en", "--split", "val", "--resamples", "200", "--scorer")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.mark.slow
def test_a_run_reports_late_interaction_beside_the_plain_scorer(store: Path) -> None:
    done = harness(*RUN, "maxsim", store=store)
    assert done.returncode == 0, done.stderr
    assert "English tower on English + maxsim − English tower on English = " in done.stdout
    assert "scorer: maxsim" in done.stdout
    records = [json.loads(path.read_text()) for path in store.glob("records/*/record.json")]
    found = {record["scorer"]: record for record in records}
    assert set(found) == {"plain", "maxsim"}
    assert found["maxsim"]["scores"] != found["plain"]["scores"]
    assert found["maxsim"]["images_digest"] == found["plain"]["images_digest"]
    again = harness(*RUN, "maxsim", store=store)
    assert again.stdout == done.stdout
    assert "embeds" not in again.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--scorer", "maxsim", "--encoder", "random"), "this text tower has no token states"),
        (("--scorer", "maxism"), "error: no scorer is called 'maxism': did you mean maxsim"),
        (("--scorer", "maxsim", "--task", "flickr30k-entities"), "error: --scorer maxsim is for retrieval"),
    ],
)
@pytest.mark.slow
def test_what_late_interaction_cannot_score_is_said_in_one_line(words: tuple[str, ...], line: str, tmp_path: Path) -> None:
    done = harness("run", "--lang", "en", "--split", "val", *words, store=tmp_path)
    assert done.returncode == 1
    # The plain scorer's cells are measured all the same: what failed stands in the closing table.
    assert line in done.stdout + done.stderr
