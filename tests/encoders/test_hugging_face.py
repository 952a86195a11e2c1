"""Models in transformers' form, and text towers beside them: tiny random ones of each kind, written to a folder and read back."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, processors

from harness.core.builtins import load_encoder
from harness.core.digests import digest_file, digest_strings
from harness.core.errors import HarnessError
from harness.core.plugins import fingerprint
from harness.core.protocols import PatchEncoder, TokenEncoder, TokenLocator
from harness.encoders.hugging_face.initial_models import HuggingFaceInitializer
from harness.encoders.hugging_face.models import HuggingFace, fingerprinted_files, hugging_face_encoder
from harness.encoders.text_preparation import missing_steps
from harness.encoders.weights import loads_in_half
from tests.support.transformers_models import (
    KINDS,
    PICTURES,
    TEXT,
    TEXTS,
    VISION,
    shaken,
    write_mclip,
    write_model,
    write_tokenizer,
)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HuggingFace]:
    root, made = tmp_path_factory.mktemp("models"), dict[str, HuggingFace]()

    def encoder(kind: str) -> HuggingFace:
        if kind not in made:
            made[kind] = hugging_face_encoder(str(write_model(root / kind, kind)), "cpu")
        return made[kind]

    return encoder


def plain(encoder: HuggingFace, texts: list[str]) -> np.ndarray:
    """What transformers gives, a text at a time."""
    loaded = encoder.loaded
    fixed = encoder.name.rpartition("/")[2].startswith("siglip")
    rows = []
    for text in texts:
        ids = loaded.tokenizer(text, padding="max_length" if fixed else False, truncation=True, max_length=16)
        with torch.inference_mode():
            out = loaded.model.get_text_features(input_ids=torch.tensor([ids["input_ids"]]))
        rows.append(out.pooler_output[0].numpy())
    return np.stack(rows)


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_as_transformers_gives_them(encoders: Callable[[str], HuggingFace], kind: str) -> None:
    encoder = encoders(kind)
    assert error(encoder.encode_texts(TEXTS, "en"), plain(encoder, TEXTS)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_token_states_lie_in_the_joint_space(encoders: Callable[[str], HuggingFace], kind: str) -> None:
    encoder = encoders(kind)
    assert isinstance(encoder, TokenEncoder)
    states = encoder.encode_tokens(TEXTS, "en")
    own = [len(encoder.loaded.tokenizer(text, truncation=True, max_length=16)["input_ids"]) for text in TEXTS]
    assert states.lengths.tolist() == own
    assert len(states.tokens) == sum(own)
    assert error(states.pooled, encoder.encode_texts(TEXTS, "en")) < 1e-5
    starts = np.cumsum(states.lengths) - states.lengths
    if kind == "clip":
        assert error(states.tokens[starts + states.lengths - 1], states.pooled) < 1e-5
    if kind in ("altclip", "chinese-clip"):
        assert error(states.tokens[starts], states.pooled) < 1e-5
    if kind == "siglip":  # read at the last position, which is a token of the one text that fills the context
        assert error(states.tokens[starts + states.lengths - 1][4:5], states.pooled[4:5]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_says_where_it_stands_in_its_text(encoders: Callable[[str], HuggingFace], kind: str) -> None:
    encoder = encoders(kind)
    assert isinstance(encoder, TokenLocator)
    located = encoder.locate_tokens(TEXTS, "en")
    assert [len(spans) for spans in located] == encoder.encode_tokens(TEXTS, "en").lengths.tolist()
    for text, spans in zip(TEXTS, located, strict=True):
        # Whatever the tokenizer makes of them, its tokens lie side by side, from the beginning on.
        said = "".join(text[start:end] for start, end in spans).replace(" ", "")
        assert said == text.replace(" ", "")[: len(said)]
        assert bool(said) == bool(text)


def test_a_tokenizer_that_does_not_tell_where_tokens_stand_is_named(
    encoders: Callable[[str], HuggingFace], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoders("clip")
    monkeypatch.setattr(type(encoder.loaded.tokenizer), "is_fast", False)
    with pytest.raises(HarnessError, match=r"hf:.*clip: a \w+ does not provide the offsets of its tokens"):
        encoder.locate_tokens(TEXTS, "en")


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_as_transformers_gives_them(encoders: Callable[[str], HuggingFace], kind: str) -> None:
    encoder = encoders(kind)
    got = encoder.encode_images(PICTURES)
    processor = transformers.AutoImageProcessor.from_pretrained(encoder.folder)
    with torch.inference_mode():
        expected = [encoder.loaded.model.get_image_features(**processor(images=p, return_tensors="pt")) for p in PICTURES]
    assert error(got, np.concatenate([out.pooler_output.numpy() for out in expected])) < 1e-5
    assert error(encoder.encode_images(PICTURES[::-1])[::-1], got) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_s_state_is_what_the_head_makes_of_it_alone(encoders: Callable[[str], HuggingFace], kind: str) -> None:
    encoder = encoders(kind)
    assert isinstance(encoder, PatchEncoder)
    states = encoder.encode_patches(PICTURES)
    assert error(states.pooled, encoder.encode_images(PICTURES)) < 1e-5
    assert len(states.tokens) == states.lengths.sum()
    assert states.tokens.shape[1] == states.pooled.shape[1]
    # Two patches down and two across; SigLIP 2 keeps the picture's shape, and may have fewer of at most four.
    assert states.lengths.tolist() == ([4] * 5 if kind != "siglip2" else states.lengths.clip(1, 4).tolist())
    model = encoder.loaded.model
    batch = encoder.loaded.prepare(images=PICTURES[:1], return_tensors="pt")
    with torch.inference_mode():
        hidden = model.get_image_features(**batch).last_hidden_state
        if kind.startswith("siglip"):
            expected = [model.vision_model.head(hidden[:, [place]]) for place in range(int(states.lengths[0]))]
        else:
            # The embedding is the class token's: the same head, asked about a patch in its place.
            head = torch.nn.Sequential(model.vision_model.post_layernorm, model.visual_projection)
            assert error(head(hidden[:, 0]).numpy(), states.pooled[:1]) < 1e-5
            expected = [head(hidden[:, place]) for place in range(1, 5)]
    assert error(states.tokens[: states.lengths[0]], torch.cat(expected).numpy()) < 1e-5


GEMMA = {
    "tokenizer_class": "GemmaTokenizer",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def write_siglip2(folder: Path, **settings: Any) -> Path:
    """A SigLIP 2 of fixed resolution as on the hub: a `siglip` with Gemma's tokenizer, here of letters, and 64 positions."""
    text = {**TEXT, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "max_position_embeddings": 64}
    torch.manual_seed(0)
    config = transformers.SiglipConfig(text_config={**text, "projection_size": 24}, vision_config=VISION)
    shaken(transformers.SiglipModel(config)).save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    ids = {token: index for index, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *LETTERS, "▁", "."])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**GEMMA, **settings}))
    return folder


def as_trained(encoder: HuggingFace, text: str) -> np.ndarray:
    """SigLIP 2's own way (arXiv 2502.14786, section 2.1): lower case, the end's token, padding on its right, 64 in all."""
    ids = [*encoder.loaded.tokenizer.convert_tokens_to_ids([*text.lower().replace(" ", "▁")])[:63], 1]
    with torch.inference_mode():
        out = encoder.loaded.model.get_text_features(input_ids=torch.tensor([ids + [0] * (64 - len(ids))]))
    return np.asarray(out.pooler_output)


@pytest.mark.parametrize("settings", [{}, {"padding_side": "left"}, {"padding_side": "right", "model_max_length": 16}])
def test_siglip_2_of_fixed_resolution_reads_as_it_was_trained(settings: dict[str, Any], tmp_path: Path) -> None:
    encoder = hugging_face_encoder(str(write_siglip2(tmp_path / "model", **settings)), "cpu")
    texts = ["A Dog runs.", "a dog RUNS.", "a", "The Red Cat sits on the grass"]
    rows = encoder.encode_texts(texts, "en")
    for text, row in zip(texts, rows, strict=True):
        assert error(row[None], as_trained(encoder, text)) < 1e-5
    assert error(rows[:1], rows[1:2]) < 1e-6
    assert error(rows[:1], rows[2:3]) > 1e-2
    text = "A Dog İ runs."
    assert [text[start:end] for start, end in encoder.locate_tokens([text], "en")[0][:5]] == ["A", "", "D", "o", "g"]


def test_only_siglip_s_case_is_folded(encoders: Callable[[str], HuggingFace]) -> None:
    for kind in KINDS:
        rows = encoders(kind).encode_texts(["a red dog", "A RED DOG"], "en")
        assert (error(rows[:1], rows[1:]) < 1e-6) == kind.startswith("siglip"), kind


@pytest.mark.parametrize(
    ("model", "tokenizer", "normalizer", "undone"),
    [
        ({"model_type": "siglip"}, {"tokenizer_class": "SiglipTokenizer"}, None, ()),
        ({"model_type": "siglip"}, {}, None, ()),
        ({"model_type": "siglip"}, {"tokenizer_class": "SiglipTokenizer", "do_lower_case": False}, None, ("lower case",)),
        ({"model_type": "siglip"}, {"tokenizer_class": "Siglip2Tokenizer", "padding_side": "right"}, None, ()),
        ({"model_type": "siglip"}, {"tokenizer_class": "GemmaTokenizerFast", "padding_side": "right"}, None, ("lower case",)),
        ({"model_type": "siglip"}, {"tokenizer_class": "GemmaTokenizer"}, None, ("padding on the right", "lower case")),
        ({"model_type": "siglip"}, {"tokenizer_class": "TokenizersBackend"}, {"type": "Lowercase"}, ()),
        ({"model_type": "siglip2"}, {"tokenizer_class": "GemmaTokenizer", "padding_side": "right"}, None, ()),
        (
            {"model_type": "siglip", "text_config": {"max_position_embeddings": 64}},
            {"tokenizer_class": "SiglipTokenizer", "model_max_length": 16},
            None,
            ("fixed length",),
        ),
        (
            {"model_type": "siglip", "text_config": {"max_position_embeddings": 16}},
            {"tokenizer_class": "SiglipTokenizer", "model_max_length": 16},
            None,
            (),
        ),
        ({"model_type": "clip"}, {"tokenizer_class": "CLIPTokenizer"}, None, ()),
        ({"model_type": "clip"}, {"tokenizer_class": "CLIPTokenizer", "padding_side": "left"}, None, ("padding on the right",)),
    ],
)
def test_what_a_folder_s_tokenizer_leaves_undone(
    model: dict[str, Any], tokenizer: dict[str, Any], normalizer: Any, undone: tuple[str, ...], tmp_path: Path
) -> None:
    files = {"config": model, "tokenizer_config": tokenizer, "tokenizer": {"normalizer": normalizer}}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert missing_steps(tmp_path) == undone


def test_fingerprints_of_models_that_were_right_stay(encoders: Callable[[str], HuggingFace], tmp_path: Path) -> None:
    def before(encoder: HuggingFace) -> str:
        return fingerprint("hugging face encoder 1, float32", transformers.__version__, *fingerprinted_files(encoder.folder))

    for kind in ("clip", "altclip", "chinese-clip"):
        assert encoders(kind).fingerprint() == before(encoders(kind))
    wrong = hugging_face_encoder(str(write_siglip2(tmp_path / "model")), "cpu")
    assert wrong.fingerprint() != before(wrong)


def test_texts_padded_on_the_left_keep_their_positions(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "clip", "clip")
    right = hugging_face_encoder(str(folder), "cpu").encode_texts(TEXTS, "en")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    assert error(hugging_face_encoder(str(folder), "cpu").encode_texts(TEXTS, "en"), right) < 1e-6


def test_a_tokenizer_without_padding_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "clip", "clip")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(HarnessError, match=r"the tokenizer in .*clip has no pad_token"):
        hugging_face_encoder(str(folder), "cpu").encode_texts(["a"], "en")


def halve(folder: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """Save a folder's model in half precision, and say so in its configuration; its weights are then these, in float32."""
    file = folder / "model.safetensors"
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}))
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_models_saved_in_half_precision_are_computed_in_float32(kind: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / kind, kind)
    weights = halve(folder)
    halved = hugging_face_encoder(str(folder), "cpu")
    assert {parameter.dtype for parameter in halved.loaded.model.parameters()} == {torch.float32}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    whole = hugging_face_encoder(str(folder), "cpu")
    assert np.array_equal(halved.encode_texts(TEXTS, "en"), whole.encode_texts(TEXTS, "en"))
    assert np.array_equal(halved.encode_images(PICTURES), whole.encode_images(PICTURES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pickled", [False, True])
def test_half_precision_is_told_without_loading(dtype: torch.dtype, pickled: bool, tmp_path: Path) -> None:
    weights = {"a.weight": torch.ones(2, 3, dtype=dtype)}
    if pickled:
        torch.save(weights, tmp_path / "pytorch_model.bin")
    else:
        save_file(weights, tmp_path / "model.safetensors")
    assert loads_in_half(tmp_path) == (dtype != torch.float32)
    (tmp_path / "config.json").write_text('{"torch_dtype": "float32"}')
    assert not loads_in_half(tmp_path)
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16"}')
    assert loads_in_half(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]", b'\x07\0\0\0\0\0\0\0{"a":1}'])
def test_broken_weights_are_not_called_half(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert not loads_in_half(tmp_path)


def write_bert(folder: Path) -> Path:
    torch.manual_seed(2)
    shaken(transformers.BertModel(transformers.BertConfig(**TEXT, max_position_embeddings=16))).save_pretrained(folder)
    write_tokenizer(folder, 16)
    return folder


def start_digest(folder: Path) -> str:
    return digest_strings([digest_file(folder / name) for name in ("config.json", "model.safetensors", "tokenizer.json")])


def test_a_student_starts_from_half_precision_in_float32(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert")
    assert HuggingFaceInitializer(str(folder)).fingerprint() == start_digest(folder)
    weights = halve(folder)
    start = HuggingFaceInitializer(str(folder))
    got = start.donate_layers().weights["position_embedding"]
    # Summed in half precision, they would be rounded once more.
    types = weights["embeddings.token_type_embeddings.weight"]
    assert torch.equal(got, weights["embeddings.position_embeddings.weight"] + types[0])
    assert start.fingerprint() != start_digest(folder)


def drop_bias(file: Path) -> None:
    weights = load_file(file)
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, file, {"format": "pt"})


def test_a_student_does_not_start_from_weights_that_are_made_up(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert")
    drop_bias(folder / "model.safetensors")
    with pytest.raises(HarnessError, match=r"lacks 1 weights of BertModel, first encoder.layer.1.output.dense.bias"):
        HuggingFaceInitializer(str(folder)).donate_layers()


def test_an_adapter_is_not_left_out_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find(name, *rest))
    clip, bert = write_model(tmp_path / "clip", "clip"), write_bert(tmp_path / "bert")
    for folder in (clip, bert):
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for make in (hugging_face_encoder(str(clip), "cpu").fingerprint, HuggingFaceInitializer(str(bert)).fingerprint):
        with pytest.raises(
            HarnessError, match=r"adapter_config.json belongs to an adapter, which would be ignored: pip install peft"
        ):
            make()


def test_a_folder_without_one_of_its_shards_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "clip", "clip")
    model = transformers.CLIPModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    assert hugging_face_encoder(str(folder), "cpu").encode_texts(["a dog"], "en").shape == (1, 24)
    second = sorted(folder.glob("model-*"))[1]
    second.unlink()
    with pytest.raises(HarnessError, match=rf"{second.name} is missing: copy the complete model again"):
        hugging_face_encoder(str(folder), "cpu").fingerprint()
    # transformers reads one file before many.
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    assert hugging_face_encoder(str(folder), "cpu").fingerprint()


def test_what_transformers_needs_beside_itself_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ImportError("\nSiglipTokenizer requires the protobuf library but it was not found")

    folder = write_model(tmp_path / "siglip", "siglip")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(HarnessError, match=r"pip install 'flickr30k-harness\[hf\]' \(SiglipTokenizer requires the protobuf"):
        hugging_face_encoder(str(folder), "cpu").encode_texts(["a"], "en")


def test_the_extra_hf_brings_what_siglip_s_tokenizer_needs() -> None:
    root = Path(__file__).resolve().parents[2]
    needed = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["hf"]
    assert {re.split("[<>=]", each)[0] for each in needed} == {"transformers", "sentencepiece", "protobuf"}


def test_the_fingerprint_follows_contents(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "clip", "clip")
    seen = [hugging_face_encoder(str(folder), "cpu").fingerprint()]
    for name, old, new in (
        ("preprocessor_config.json", "0.48", "0.49"),
        ("tokenizer.json", '"dog"', '"hound"'),
        ("config.json", "quick_gelu", "gelu"),
    ):
        text = (folder / name).read_text()
        assert old in text, name
        (folder / name).write_text(text.replace(old, new))
        seen.append(hugging_face_encoder(str(folder), "cpu").fingerprint())
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + b"\x00")
    seen.append(hugging_face_encoder(str(folder), "cpu").fingerprint())
    assert len(set(seen)) == 5


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "clip", "clip")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(HarnessError, match=r"lacks 16 weights of CLIPModel, first text_model"):
        hugging_face_encoder(str(folder), "cpu").encode_texts(["a"], "en")


def test_models_that_will_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(HarnessError, match=r"holds no config.json"):
        hugging_face_encoder(str(tmp_path / "empty"), "cpu")
    with pytest.raises(HarnessError, match="neither a folder nor the name of a repository"):
        hugging_face_encoder("./nowhere", "cpu").fingerprint()
    bert = transformers.BertModel(transformers.BertConfig(**TEXT, max_position_embeddings=16))
    bert.save_pretrained(tmp_path / "bert")
    write_tokenizer(tmp_path / "bert", 16)
    transformers.CLIPImageProcessor().save_pretrained(tmp_path / "bert")
    with pytest.raises(HarnessError, match="is a BertModel, which lacks an image or a text tower"):
        hugging_face_encoder(str(tmp_path / "bert"), "cpu").encode_texts(["a"], "en")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(HarnessError, match=r"hf:someone/clip: .*could not be downloaded.* use hf:FOLDER"):
        hugging_face_encoder("someone/clip", "cpu").fingerprint()


def test_a_multilingual_clip_tower_beside_another_model_s_images(encoders: Callable[[str], HuggingFace], tmp_path: Path) -> None:
    folder = write_mclip(tmp_path / "mclip")
    images = encoders("clip")
    encoder = load_encoder(f"text:{folder}+{images.name}", "cpu")
    assert encoder.name == f"text:{folder}+{images.name}"
    assert np.array_equal(encoder.encode_images(PICTURES), images.encode_images(PICTURES))
    weights = torch.load(folder / "pytorch_model.bin")
    transformer = transformers.XLMRobertaModel(transformers.XLMRobertaConfig.from_pretrained(folder / "base")).eval()
    names = transformer.state_dict()
    transformer.load_state_dict({name: weights[f"transformer.{name}"] for name in names})
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, row in zip(TEXTS, encoder.encode_texts(TEXTS, "de"), strict=True):
        ids = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            mean = transformer(**ids).last_hidden_state[0].mean(0)
        expected = weights["LinearTransformation.weight"] @ mean + weights["LinearTransformation.bias"]
        assert row == pytest.approx(expected.numpy(), abs=1e-5)
    before = encoder.fingerprint()
    del weights["transformer.encoder.layer.1.output.dense.bias"]
    torch.save(weights, folder / "pytorch_model.bin")
    broken = load_encoder(f"text:{folder}+{images.name}", "cpu")
    assert broken.fingerprint() != before
    with pytest.raises(HarnessError, match=r"lacks 1 weights of base, first encoder.layer.1.output.dense.bias"):
        broken.encode_texts(["a"], "de")


def test_a_sentence_transformers_tower_beside_another_model_s_images(
    encoders: Callable[[str], HuggingFace], tmp_path: Path
) -> None:
    st = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    torch.manual_seed(2)
    shaken(transformers.BertModel(transformers.BertConfig(**TEXT, max_position_embeddings=16))).save_pretrained(tmp_path / "bert")
    write_tokenizer(tmp_path / "bert", 16)
    transformer = modules.Transformer(str(tmp_path / "bert"))
    dense = modules.Dense(32, 24, bias=False, activation_function=torch.nn.Identity())
    model = st.SentenceTransformer(modules=[transformer, modules.Pooling(32), dense], device="cpu")
    model.save(str(tmp_path / "st"))
    encoder = load_encoder(f"text:{tmp_path / 'st'}+{encoders('clip').name}", "cpu")
    rows = encoder.encode_texts(TEXTS, "de")
    assert rows.shape == (len(TEXTS), 24)
    bert = transformers.BertModel.from_pretrained(tmp_path / "bert").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "bert")
    for text, row in zip(TEXTS, rows, strict=True):
        with torch.inference_mode():
            states = bert(**tokenizer(text, truncation=True, return_tensors="pt")).last_hidden_state[0]
            assert row == pytest.approx(dense.linear(states.mean(0)).numpy(), abs=1e-5)


def test_a_multilingual_clip_tower_is_computed_in_float32_and_cuts_long_texts(tmp_path: Path) -> None:
    folder = write_mclip(tmp_path / "mclip")
    texts = [*TEXTS, "dog " * 300]
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": int(1e30)}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    rows = load_encoder(f"text:{folder}+sample", "cpu").encode_texts(texts, "de")
    config = json.loads((folder / "base" / "config.json").read_text())
    (folder / "base" / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    assert np.array_equal(load_encoder(f"text:{folder}+sample", "cpu").encode_texts(texts, "de"), rows)
    before = load_encoder(f"text:{folder}+sample", "cpu").fingerprint()
    parts = ["text tower beside 1", fingerprint(folder), load_encoder("sample", "cpu").fingerprint()]
    assert before == digest_strings(parts)
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "padding_side": "left"}))
    assert np.array_equal(load_encoder(f"text:{folder}+sample", "cpu").encode_texts(texts, "de"), rows)


def write_sentences(root: Path) -> Path:
    """A sentence-transformers model whose transformer lies in its root, as clip-ViT-B-32-multilingual-v1's does."""
    st = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    write_bert(root / "bert")
    parts = [modules.Transformer(str(root / "bert")), modules.Pooling(32), modules.Normalize()]
    st.SentenceTransformer(modules=parts, device="cpu").save(str(root / "st"))
    return root / "st"


def test_a_sentence_transformers_tower_is_computed_in_float32(tmp_path: Path) -> None:
    folder = write_sentences(tmp_path)

    def plain_digest() -> str:
        return digest_strings(["text tower beside 1", fingerprint(folder), load_encoder("sample", "cpu").fingerprint()])

    assert load_encoder(f"text:{folder}+sample", "cpu").fingerprint() == plain_digest()
    weights = halve(folder)
    encoder = load_encoder(f"text:{folder}+sample", "cpu")
    assert encoder.fingerprint() != plain_digest()
    bert = transformers.BertModel(transformers.BertConfig.from_pretrained(folder)).float().eval()
    bert.load_state_dict(weights, strict=False)
    ids = transformers.AutoTokenizer.from_pretrained(folder)("a dog runs", return_tensors="pt")
    with torch.inference_mode():
        mean = bert(**ids).last_hidden_state[0].mean(0)
    assert encoder.encode_texts(["a dog runs"], "de")[0] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-6)


def test_a_sentence_transformers_tower_without_all_its_weights_is_refused(tmp_path: Path) -> None:
    folder = write_sentences(tmp_path)
    drop_bias(folder / "model.safetensors")
    with pytest.raises(HarnessError, match=r"lacks 1 weights of BertModel, first encoder.layer.1.output.dense.bias"):
        load_encoder(f"text:{folder}+sample", "cpu").encode_texts(["a"], "de")
    (folder / "modules.json").write_text('[{"path": 1}]')
    with pytest.raises(HarnessError, match=r"modules.json is no list of modules, each with its type and path"):
        load_encoder(f"text:{folder}+sample", "cpu").fingerprint()


def test_text_towers_that_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"expected text:TOWER\+ENCODER"):
        load_encoder("text:tower", "cpu")
    with pytest.raises(HarnessError, match="no encoder is called 'smaple': did you mean sample"):
        load_encoder("text:tower+smaple", "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(HarnessError, match=r"is no text tower: expected a modules.json .*modelBase"):
        load_encoder(f"text:{tmp_path}+sample", "cpu").encode_texts(["a"], "de")
