"""Students of every family of text models, against transformers' own forward pass on tiny random models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from harness.core.config import DistillConfig
from harness.core.errors import HarnessError
from harness.distill.model.tower import TextTower
from harness.encoders.hugging_face.initial_models import HuggingFaceInitializer
from tests.support.nllb_tokenizers import NLLB, write_nllb
from tests.support.transformers_models import TEXT, TEXTS, shaken, write_tokenizer

POSITIONS = {"max_position_embeddings": 40}
DISTILBERT = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2, "vocab_size": 13, "pad_token_id": 0}
BART = {name: value for name, value in NLLB.items() if name != "model_type"} | {"vocab_size": 13, "pad_token_id": 0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", TEXT | POSITIONS | {"hidden_act": "relu"}),
    "roberta": ("Roberta", TEXT | POSITIONS | {"type_vocab_size": 1}),
    "camembert": ("Camembert", TEXT | POSITIONS | {"type_vocab_size": 1}),
    "electra": ("Electra", TEXT | POSITIONS | {"embedding_size": 32}),
    "distilbert": ("DistilBert", DISTILBERT | POSITIONS),
    "distilbert-sinusoids": ("DistilBert", DISTILBERT | POSITIONS | {"sinusoidal_pos_embds": True}),
    "bart": ("Bart", BART | {"scale_embedding": True}),
}


def write_text_model(folder: Path, family: str) -> Any:
    """Write a random model and return it."""
    name, sizes = FAMILIES[family]
    torch.manual_seed(3)
    model = shaken(getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes)))
    model.save_pretrained(folder)
    write_tokenizer(folder, 40)
    return model


def states(initializer: HuggingFaceInitializer, ids: list[list[int]]) -> list[torch.Tensor]:
    """The token states (L, width) of each text before the projection."""
    donated = initializer.donate_layers()
    tower = TextTower(donated.config)
    tower.load_state_dict(donated.weights)
    with torch.inference_mode():
        encoded = tower.eval().encode(ids)
    return [own[mask] for own, mask in zip(encoded.states, encoded.mask, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_token_states_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    model = write_text_model(tmp_path, family)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = [tokenizer(text, truncation=True, max_length=30)["input_ids"] for text in TEXTS]
    encoder = model.encoder if family == "bart" else model
    for own, text in zip(states(HuggingFaceInitializer(str(tmp_path)), ids), ids, strict=True):
        with torch.inference_mode():
            theirs = encoder(input_ids=torch.tensor([text])).last_hidden_state[0]
        torch.testing.assert_close(own, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_an_nllb_reads_texts_behind_the_mark_of_their_language(weights: str, tmp_path: Path) -> None:
    model = write_nllb(tmp_path)
    if weights == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / weights)
    initializer = HuggingFaceInitializer(str(tmp_path))
    tokenizer = initializer.student_tokenizer(DistillConfig(), "de")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, src_lang="deu_Latn")
    ids = [theirs(text)["input_ids"] for text in TEXTS]
    assert [tokenizer.encode(text).ids for text in TEXTS] == ids
    assert tokenizer.encode("a dog").tokens[0] == "deu_Latn"
    for own, text in zip(states(initializer, ids), ids, strict=True):
        with torch.inference_mode():
            expected = model.model.encoder(input_ids=torch.tensor([text])).last_hidden_state[0]
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)


def test_a_language_without_a_mark_is_refused(tmp_path: Path) -> None:
    write_nllb(tmp_path)
    initializer = HuggingFaceInitializer(str(tmp_path))
    for lang, line in (("cs", "has none for cs"), ("de,qu", "de,qu cannot share a tower of it")):
        with pytest.raises(HarnessError, match=line):
            initializer.student_tokenizer(DistillConfig(), lang)


@pytest.mark.parametrize("family", ["mpnet", "deberta-v2", "t5", "modernbert", "mbart"])
def test_another_family_is_refused_before_its_weights_are_read(family: str, tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(HarnessError, match=rf"has the architecture {family}, .*: name a BERT, .* or NLLB, or use --init scratch"):
        HuggingFaceInitializer(str(tmp_path)).fingerprint()


def test_a_small_electra_is_refused(tmp_path: Path) -> None:
    config = transformers.ElectraConfig(**TEXT | POSITIONS | {"embedding_size": 16})
    transformers.ElectraModel(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, 40)
    with pytest.raises(HarnessError, match="embeddings that are narrower than its layers"):
        HuggingFaceInitializer(str(tmp_path)).donate_layers()
