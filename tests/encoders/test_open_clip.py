"""open_clip models as encoders: tiny random ones of each kind of text tower, and the real teacher where it is there."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from harness.core.data import TokenStates
from harness.core.errors import HarnessError
from harness.core.protocols import LayerDonor, TokenEncoder, TokenLocator
from harness.distill.model.tower import TextTower
from harness.encoders.open_clip.model_files import digest_file
from harness.encoders.open_clip.models import OpenClip, folder_encoder, hub_encoder, pretrained_encoder, sample_encoder
from harness.encoders.open_clip.text_towers import ClipText, TextReader
from harness.encoders.open_clip.tokenization import detect_framing, token_names, token_spans
from tests.support.open_clip_models import BERT, MODELS, TEXT, TEXTS, VISION, WORDS, error, write_model

REAL = Path(__file__).resolve().parents[3] / "shared" / "flickr8k-real"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("models")
    return lambda kind: root / kind if (root / kind).exists() else write_model(root / kind, kind)


@pytest.fixture(scope="module")
def encoders(folders: Callable[[str], Path]) -> Callable[[str], OpenClip]:
    made: dict[str, OpenClip] = {}

    def encoder(kind: str) -> OpenClip:
        if kind not in made:
            made[kind] = folder_encoder(str(folders(kind)), "cpu")
        return made[kind]

    return encoder


def plain(encoder: OpenClip, texts: list[str]) -> np.ndarray:
    """What open_clip's own, padded way gives."""
    loaded = encoder.loaded
    with torch.inference_mode():
        return np.asarray(loaded.model.encode_text(loaded.reader.tokenizer(texts), normalize=False))


def segments(states: TokenStates) -> list[np.ndarray]:
    return np.split(states.tokens, np.cumsum(states.lengths)[:-1])


@pytest.mark.parametrize("kind", MODELS)
def test_texts_are_as_open_clip_gives_them(encoders: Callable[[str], OpenClip], kind: str) -> None:
    encoder = encoders(kind)
    expected = plain(encoder, TEXTS)
    assert isinstance(encoder, TokenEncoder)
    assert isinstance(encoder, LayerDonor)
    assert error(encoder.encode_texts(TEXTS, "en"), expected) < 1e-6
    states = encoder.encode_tokens(TEXTS, "en")
    assert error(states.pooled, expected) < 1e-6
    assert states.tokens.shape == (states.lengths.sum(), 24)
    assert states.tokens.dtype == states.pooled.dtype == np.float32
    assert states.lengths.tolist() == [5, 2, 10, 3, 16, 7, 10]


@pytest.mark.parametrize("kind", ["clip", "custom", "siglip"])
def test_blocks_of_another_make_are_left_to_open_clip(folders: Callable[[str], Path], kind: str) -> None:
    encoder = folder_encoder(str(folders(kind)), "cpu")
    tower = encoder.loaded.reader.tower
    assert isinstance(tower, ClipText)
    blocks = tower.module.transformer.resblocks
    assert tower.blocks is not None
    assert tower.blocks[1].qkv.weight.data_ptr() == blocks[1].attn.in_proj_weight.data_ptr(), "weights are shared"
    blocks[1].ls_1 = nn.Sequential()
    reader = TextReader(encoder.loaded.model, encoder.loaded.reader.tokenizer, 24, "cpu")
    assert isinstance(reader.tower, ClipText)
    assert reader.tower.blocks is None
    assert error(reader.embed(TEXTS, "en"), plain(encoder, TEXTS)) < 1e-6


@pytest.mark.parametrize("kind", MODELS)
def test_neither_order_nor_company_changes_a_text(encoders: Callable[[str], OpenClip], kind: str) -> None:
    encoder = encoders(kind)
    together = encoder.encode_tokens(TEXTS * 60, "en")
    alone = [encoder.encode_tokens([text], "en") for text in TEXTS]
    for number, (segment, pooled) in enumerate(zip(segments(together), together.pooled, strict=True)):
        single = alone[number % len(TEXTS)]
        assert error(segment, single.tokens) < 2e-6
        assert error(pooled[None], single.pooled) < 1e-6


@pytest.mark.parametrize("kind", MODELS)
def test_every_token_says_where_it_stands_in_its_text(encoders: Callable[[str], OpenClip], kind: str) -> None:
    encoder, texts = encoders(kind), [*TEXTS, "  a   red dog", "a dog  on\tgrass"]
    assert isinstance(encoder, TokenLocator)
    located = encoder.locate_tokens(texts, "en")
    assert [len(spans) for spans in located] == encoder.encode_tokens(texts, "en").lengths.tolist()
    for text, spans in zip(texts, located, strict=True):
        inner = spans[1:-1]
        assert {spans[0], spans[-1]} == {(0, 0)}
        assert [text[start:end] for start, end in inner] == text.split()[: len(inner)]


def test_clip_s_tokens_stand_in_the_text_as_it_was_before_cleaning() -> None:
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    texts = ["Tom &amp; the  naïve DOG\u2019s red-hot caf\u00e9 \U0001f600 [1] .", "x" * 30]
    ids = tokenizer(texts)
    for text, spans in zip(texts, token_spans(tokenizer, texts, ids, detect_framing(tokenizer).real(ids)), strict=True):
        covered = {place for span in spans for place in range(*span)}
        left = "".join(char for place, char in enumerate(text) if place not in covered and not char.isspace())
        # What the cleaning takes out or changes stands nowhere.
        assert left == ("amp;\u2019" if "Tom" in text else "")
        assert [start for start, end in spans if end] == sorted(start for start, end in spans if end)
    names = token_names(tokenizer, ids[0].tolist())
    (dog,) = (place for place, name in enumerate(names) if name == "dog")
    start, end = token_spans(tokenizer, texts, ids, detect_framing(tokenizer).real(ids))[0][dog]
    assert texts[0][start:end] == "DOG"


def test_a_class_token_after_the_padding_stands_nowhere(folders: Callable[[str], Path]) -> None:
    tokenizer = open_clip.tokenizer.HFTokenizer(str(folders("bert")), context_length=9, tokenizer_mode="clips")
    tokenizer.tokenizer.add_special_tokens({"bos_token": "[CLS]", "eos_token": "[SEP]"})
    texts = ["a dog runs", "the red cat sits on the red grass"]
    ids = tokenizer(texts)
    located = token_spans(tokenizer, texts, ids, detect_framing(tokenizer).real(ids))
    words = [[text[start:end] for start, end in spans] for text, spans in zip(texts, located, strict=True)]
    assert words == [["", "a", "dog", "runs", "", ""], ["", "the", "red", "cat", "sits", "on", "the", "", ""]]


def test_a_tokenizer_that_does_not_tell_where_tokens_stand_is_named(folders: Callable[[str], Path]) -> None:
    class Letters:
        context_length = 8

        def __call__(self, texts: list[str]) -> torch.Tensor:
            return torch.ones(len(texts), 8, dtype=torch.long)

    reader = TextReader(folder_encoder(str(folders("bert")), "cpu").loaded.model, Letters(), 24, "cpu")
    with pytest.raises(HarnessError, match="a Letters does not provide the offsets of the tokens of 'a dog'"):
        reader.locate_tokens(["a dog"], "en")


@pytest.mark.parametrize("kind", ["clip", "custom"])
def test_clip_reads_the_sentence_at_its_end(encoders: Callable[[str], OpenClip], kind: str) -> None:
    states = encoders(kind).encode_tokens(TEXTS, "en")
    assert error(np.stack([segment[-1] for segment in segments(states)]), states.pooled) < 1e-6


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_mean_of_the_tokens_is_the_sentence(encoders: Callable[[str], OpenClip], kind: str) -> None:
    states = encoders(kind).encode_tokens(TEXTS, "en")
    assert error(np.stack([segment.mean(0) for segment in segments(states)]), states.pooled) < 1e-5


def test_siglip_keeps_its_padding(encoders: Callable[[str], OpenClip]) -> None:
    encoder = encoders("siglip")
    seen: list[torch.Tensor] = []
    hook = encoder.loaded.model.text.ln_final.register_forward_hook(lambda *call: seen.append(call[2]))
    plain(encoder, TEXTS)
    hook.remove()
    with torch.inference_mode():
        projected = encoder.loaded.reader.tower.project(seen[0]).numpy()
    for segment, full in zip(segments(encoder.encode_tokens(TEXTS, "en")), projected, strict=True):
        assert error(segment, full[: len(segment)]) < 2e-6


def test_no_texts_and_no_images(encoders: Callable[[str], OpenClip]) -> None:
    encoder = encoders("custom")
    assert encoder.encode_texts([], "en").shape == (0, 24)
    assert encoder.encode_tokens([], "en").tokens.shape == (0, 24)
    assert encoder.encode_images([]).shape == (0, 24)


def test_images_are_as_open_clip_gives_them(encoders: Callable[[str], OpenClip], folders: Callable[[str], Path]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (70, 40, 56, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    got = encoders("custom").encode_images(images)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folders('custom')}")
    with torch.inference_mode():
        expected = model.eval().encode_image(torch.stack([preprocess(image) for image in images])).numpy()
    assert got.dtype == np.float32
    assert error(got, expected) < 1e-6
    assert error(encoders("custom").encode_images(images[::-1])[::-1], got) < 1e-6


def reproduced(encoder: OpenClip, texts: list[str]) -> tuple[TokenStates, np.ndarray, np.ndarray]:
    """The teacher's states, and a student's with the teacher's layers and ids: states and mean-pooled sentences."""
    donated = encoder.donate_layers()
    tower = TextTower(donated.config)
    tower.load_state_dict(donated.weights)
    ids, real = encoder.loaded.reader.tokenize(texts)
    rows = [row[mask].tolist() for row, mask in zip(ids, real, strict=True)]
    assert {row[0] for row in rows} == {donated.start}
    assert {row[-1] for row in rows} == {donated.end}
    with torch.inference_mode():
        encoded = tower.encode(rows)
    return encoder.encode_tokens(texts, "en"), encoded.states[encoded.mask].numpy(), encoded.pooled.numpy()


@pytest.mark.parametrize("kind", ["clip", "custom", "bert", "roberta"])
def test_donated_layers_compute_what_the_teacher_computes(encoders: Callable[[str], OpenClip], kind: str) -> None:
    states, tokens, pooled = reproduced(encoders(kind), TEXTS)
    assert np.abs(tokens - states.tokens).max() < 1e-4
    if kind in ("bert", "roberta"):
        assert np.abs(pooled - states.pooled).max() < 1e-4


def test_donated_layers_are_copies(encoders: Callable[[str], OpenClip]) -> None:
    encoder = encoders("custom")
    encoder.donate_layers().weights["token_embedding.weight"].zero_()
    assert encoder.donate_layers().weights["token_embedding.weight"].abs().sum() > 0


@pytest.mark.parametrize(("kind", "why"), [("siglip", "attend to padding"), ("coca", "class token"), ("bert-cls", "not linear")])
def test_layers_without_a_counterpart_are_refused(encoders: Callable[[str], OpenClip], kind: str, why: str) -> None:
    with pytest.raises(HarnessError, match=why):
        encoders(kind).donate_layers()


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def fingerprint(folder: Path) -> str:
    return folder_encoder(str(folder), "cpu").fingerprint()


def test_fingerprint_follows_contents_not_names(folders: Callable[[str], Path], tmp_path: Path) -> None:
    original = folders("bert")
    folder = copy_of(original, tmp_path / "copy")
    seen = [fingerprint(original)]
    assert fingerprint(folder) == seen[0]
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    seen.append(fingerprint(folder))
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"dog"', '"hound"'))
    seen.append(fingerprint(folder))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    seen.append(fingerprint(folder))
    (folder / "config.json").write_text(json.dumps({**BERT, "hidden_act": "relu"}))
    seen.append(fingerprint(folder))
    assert len(set(seen)) == 5


@pytest.mark.parametrize("kind", ["custom", "bert"])
def test_fingerprint_does_not_import_torch(folders: Callable[[str], Path], kind: str) -> None:
    code = (
        "import sys; from harness.core.builtins import load_encoder; "
        f"encoder = load_encoder({f'local-dir:{folders(kind)}'!r}, 'auto'); print(encoder.name); print(encoder.fingerprint()); "
        "print([name for name in ('torch', 'open_clip', 'transformers') if name in sys.modules])"
    )
    root = str(Path(__file__).resolve().parents[2])
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout.split("\n")
    assert out[:3] == [f"local-dir:{folders(kind)}", fingerprint(folders(kind)), "[]"]


def test_works_from_any_folder_and_quietly(
    folders: Callable[[str], Path],
    encoders: Callable[[str], OpenClip],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(folders("bert").parent)
    encoder = folder_encoder("bert/", "auto")
    monkeypatch.chdir(tmp_path)
    assert encoder.name == "local-dir:bert"
    assert error(encoder.encode_texts(TEXTS, "en"), encoders("bert").encode_texts(TEXTS, "en")) < 1e-6
    assert capfd.readouterr() == ("", "")


def edit_config(folder: Path, **text: Any) -> None:
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"].update(text)
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def test_folder_without_weights_is_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(folders("custom"), tmp_path / "copy")
    weights = folder / "open_clip_model.safetensors"
    weights.rename(folder / "one.safetensors")
    assert fingerprint(folder) == fingerprint(folders("custom"))
    shutil.copy(folder / "one.safetensors", folder / "two.safetensors")
    with pytest.raises(HarnessError, match="several weights"):
        folder_encoder(str(folder), "cpu")
    (folder / "one.safetensors").unlink()
    (folder / "two.safetensors").unlink()
    with pytest.raises(HarnessError, match="holds no weights"):
        folder_encoder(str(folder), "cpu")
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(HarnessError, match="no open_clip configuration"):
        folder_encoder(str(folder), "cpu")
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(HarnessError, match=r"open_clip_config.json is missing"):
        folder_encoder(str(folder), "cpu")
    with pytest.raises(HarnessError, match="is no folder"):
        folder_encoder(str(folder / "nowhere"), "cpu")


def test_weights_that_do_not_fit_are_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(folders("custom"), tmp_path / "copy")
    edit_config(folder, layers=3)
    with pytest.raises(HarnessError, match=r"cannot load .*Missing key"):
        folder_encoder(str(folder), "cpu").encode_texts(["a"], "en")


def test_tokenizer_that_does_not_fit_is_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(folders("custom"), tmp_path / "copy")
    tokenizer = folder / "tokenizer.json"
    text = json.loads(tokenizer.read_text())
    tokenizer.write_text(json.dumps({**text, "post_processor": None}))
    with pytest.raises(HarnessError, match="end every text with its largest id"):
        folder_encoder(str(folder), "cpu").encode_texts(["a"], "en")
    text["model"]["vocab"]["one more"] = len(WORDS) + 3
    tokenizer.write_text(json.dumps(text))
    with pytest.raises(HarnessError, match="has 13 entries, but the model embeds 12"):
        folder_encoder(str(folder), "cpu").encode_texts(["a"], "en")
    tokenizer.unlink()
    with pytest.raises(HarnessError, match=r"must hold its tokenizer.json"):
        folder_encoder(str(folder), "cpu")


def test_text_model_that_lies_elsewhere_is_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(folders("bert"), tmp_path / "copy")
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(HarnessError, match=r"by the path ../elsewhere"):
        folder_encoder(str(folder), "cpu")


def test_missing_transformers_is_said(folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "transformers" else find(name, *rest))
    with pytest.raises(HarnessError, match=r"pip install 'flickr30k-harness\[hf\]'"):
        folder_encoder(str(folders("bert")), "cpu")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("ViT-B-32", "names no weights.*laion2b_s34b_b79k.*"),
        ("ViT-B32/openai", "did you mean .*ViT-B-32"),
        ("ViT-B-32/laion2b_s34b", "did you mean .*laion2b_s34b_b79k"),
        ("ViT-B-32/openai", "use open_clip:ViT-B-32-quickgelu/openai"),
        ("coca_base", "coca_base has no tag, so name a checkpoint file"),
    ],
)
def test_tags_that_open_clip_lacks(argument: str, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        pretrained_encoder(argument, "cpu")


def test_names_without_a_model() -> None:
    with pytest.raises(HarnessError, match="expected hf-hub:ORG/REPO"):
        hub_encoder("laion", "cpu")
    with pytest.raises(HarnessError, match="expected local-dir:FOLDER"):
        folder_encoder("", "cpu")
    with pytest.raises(HarnessError, match="takes no argument"):
        sample_encoder("x", "cpu")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def cached(cache: Path, repo: str) -> Path:
    """An empty snapshot of a repository in a cache of the hub."""
    place = cache / f"models--{repo.replace('/', '--')}"
    commit = "0123456789" * 4
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    (place / "snapshots" / commit).mkdir(parents=True)
    return place / "snapshots" / commit


def test_missing_weights_offline_are_one_clear_line(offline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cached(offline, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    for encoder in (
        pretrained_encoder("ViT-B-32/laion2b-s34b-b79k", "cpu"),
        hub_encoder("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "cpu"),
    ):
        with pytest.raises(HarnessError, match="not on this machine and could not be downloaded") as caught:
            encoder.fingerprint()
        assert str(caught.value).startswith(encoder.name)
        assert "local-dir:" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert pretrained_encoder("ViT-B-32/laion2b-s34b-b79k", "cpu").name == "open_clip:ViT-B-32/laion2b_s34b_b79k"
    assert capfd.readouterr() == ("", "")


def test_cache_of_the_hub_serves_without_network(offline: Path, folders: Callable[[str], Path]) -> None:
    shutil.copytree(folders("clip"), cached(offline, "someone/tiny"), dirs_exist_ok=True)
    encoder = hub_encoder("someone/tiny", "cpu")
    assert encoder.fingerprint() == fingerprint(folders("clip"))
    assert encoder.encode_texts(TEXTS, "en").shape == (len(TEXTS), 24)
    weights = cached(offline, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K") / "open_clip_pytorch_model.bin"
    seen = set()
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        seen.add(pretrained_encoder("ViT-B-32/laion2b_s34b_b79k", "cpu").fingerprint())
    assert len(seen) == 2


def test_files_of_the_hubs_cache_are_known_by_their_name(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"weights that are too large to be read")
    (tmp_path / "link").symlink_to(blob)
    assert digest_file(tmp_path / "link") == blob.name


@pytest.fixture
def tiny_arch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `weights.pt` of the architecture `tiny-arch`, which open_clip then has built in."""
    torch.manual_seed(0)
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
    (tmp_path / "tiny-arch.json").write_text(json.dumps(config))
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIG_PATHS", [tmp_path / "tiny-arch.json"])
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", {"tiny-arch": config})
    torch.save(open_clip.CLIP(**config).state_dict(), tmp_path / "weights.pt")
    return tmp_path


def test_checkpoint_file_of_a_built_in_architecture(tiny_arch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_arch)
    encoder = pretrained_encoder("tiny-arch/weights.pt", "cpu")
    monkeypatch.chdir("/")
    assert encoder.name == "open_clip:tiny-arch/weights.pt"
    assert error(encoder.encode_texts(TEXTS, "en"), plain(encoder, TEXTS)) < 1e-6


def test_checkpoint_file_for_weights_of_either_activation_is_refused_until_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    with pytest.raises(HarnessError) as caught:
        pretrained_encoder(f"ViT-B-32/{file}", "cpu")
    assert f"use open_clip:ViT-B-32-quickgelu/{file} if it was, open_clip:ViT-B-32/{file}@gelu if" in str(caught.value)
    assert "was trained with QuickGELU, as openai, " in str(caught.value)
    for meant in (f"ViT-B-32/{file}@gelu", f"ViT-B-32-quickgelu/{file}"):
        assert pretrained_encoder(meant, "cpu").name == f"open_clip:{meant}"
    assert pretrained_encoder(f"ViT-L-16-SigLIP-256/{file}", "cpu").name, "published with one activation alone"
    with pytest.raises(HarnessError, match=r"computes QuickGELU: for weights trained with GELU use open_clip:ViT-B-32/.*@gelu"):
        pretrained_encoder(f"ViT-B-32-quickgelu/{file}@gelu", "cpu")
    with pytest.raises(HarnessError, match="is neither a tag of ViT-B-32 nor a checkpoint file"):
        pretrained_encoder(f"ViT-B-32/{tmp_path / 'nowhere.pt'}@gelu", "cpu")


def test_checkpoint_file_that_is_said_to_be_of_gelu_is_the_same_model(tiny_arch: Path) -> None:
    plain_name, meant = (pretrained_encoder(f"tiny-arch/{tiny_arch}/weights.pt{end}", "cpu") for end in ("", "@gelu"))
    assert meant.fingerprint() == plain_name.fingerprint()
    assert np.array_equal(meant.encode_texts(TEXTS, "en"), plain_name.encode_texts(TEXTS, "en"))


@pytest.mark.parametrize("kind", MODELS)
def test_models_saved_in_half_precision_are_computed_in_float32(
    folders: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    folder = copy_of(folders(kind), tmp_path / "copy")
    file = folder / "open_clip_model.safetensors"
    weights = {name: value.to(torch.bfloat16) for name, value in load_file(file).items()}
    save_file({name: value.float() for name, value in weights.items()}, file)
    expected = folder_encoder(str(folder), "cpu").encode_texts(TEXTS, "en")
    save_file(weights, file)
    halved = folder_encoder(str(folder), "cpu")
    assert {parameter.dtype for parameter in halved.loaded.model.parameters()} == {torch.float32}
    assert np.array_equal(halved.encode_texts(TEXTS, "en"), expected)
    if MODELS[kind][1]:
        before = halved.fingerprint()
        for key, dtype in (("dtype", "bfloat16"), ("torch_dtype", "float16")):
            (folder / "config.json").write_text(json.dumps({**MODELS[kind][1], key: dtype}))
            halved = folder_encoder(str(folder), "cpu")
            assert halved.files.corrections() == ["float32 text tower"]
            assert halved.fingerprint() != before
            assert np.array_equal(halved.encode_texts(TEXTS, "en"), expected)


@pytest.mark.parametrize("kind", MODELS)
def test_fingerprints_of_models_that_were_right_stay(encoders: Callable[[str], OpenClip], kind: str) -> None:
    assert encoders(kind).files.corrections() == []


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_texts_padded_on_the_left_keep_their_positions(folders: Callable[[str], Path], kind: str, tmp_path: Path) -> None:
    folder = copy_of(folders(kind), tmp_path / "copy")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    encoder, right = folder_encoder(str(folder), "cpu"), folder_encoder(str(folders(kind)), "cpu")
    assert np.array_equal(encoder.encode_texts(TEXTS, "en"), right.encode_texts(TEXTS, "en"))
    assert encoder.encode_tokens(TEXTS, "en").lengths.tolist() == [5, 2, 10, 3, 16, 7, 10]
    assert encoder.files.corrections() == ["padding on the right"]


def test_siglip_pictures_are_not_prepared_as_clip_s_for_want_of_a_word(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(folders("siglip"), tmp_path / "copy")
    config = json.loads((folder / "open_clip_config.json").read_text())
    del config["preprocess_cfg"]["mean"], config["preprocess_cfg"]["resize_mode"]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(HarnessError, match=r"preprocess_cfg lacks mean, resize_mode, and open_clip would use the values of"):
        folder_encoder(str(folder), "cpu")


def test_a_way_to_resize_that_open_clip_lacks_is_one_line(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of(folders("custom"), tmp_path / "copy")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["interpolation"] = "cubic"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(HarnessError, match="open_clip cannot load"):
        folder_encoder(str(folder), "cpu").encode_images([Image.new("RGB", (8, 8))])


@pytest.fixture(scope="module")
def teacher() -> OpenClip:
    if not (REAL / "teacher").is_dir():
        pytest.skip(f"no real teacher: {REAL / 'teacher'} is absent")
    return folder_encoder(str(REAL / "teacher"), "cpu")


@pytest.fixture(scope="module")
def captions(teacher: OpenClip) -> list[str]:  # noqa: ARG001  skips where there is none
    photos = json.loads((REAL / "dataset_flickr30k.json").read_text())["images"]
    return [sentence["raw"] for photo in photos[:20] for sentence in photo["sentences"]]


@pytest.mark.real
def test_real_teacher_is_as_open_clip_gives_it(
    teacher: OpenClip, captions: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert error(teacher.encode_texts(captions, "en"), plain(teacher, captions)) < 2e-6
    photo = next((REAL / "flickr30k-images").glob("*.jpg"))
    assert teacher.encode_images([Image.open(photo)]).shape == (1, 256)


@pytest.mark.real
def test_real_teacher_lends_its_layers(teacher: OpenClip, captions: list[str]) -> None:
    states, tokens, pooled = reproduced(teacher, captions)
    assert np.abs(tokens - states.tokens).max() < 1e-4
    assert np.abs(pooled - states.pooled).max() < 1e-4
