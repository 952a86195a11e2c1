"""Prefixes of students' tokenizers, against transformers' tokenizer of the text with the prefix in front."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from harness.core.builtins import load_initializer
from harness.core.config import DistillConfig
from harness.core.errors import HarnessError
from harness.distill.data.subwords import subword_spans, tokenize
from harness.encoders.hugging_face.initial_models import HuggingFaceInitializer
from harness.encoders.hugging_face.student_tokenizers import add_prefix, default_prefix

TEXTS = ["Hallo Welt", "", "  zwei   Hunde ", " ", "ein <s> Hund", "ＡＢ 12", "Hund, Hund (rot)!", "hund " * 60]


def unigram() -> Tokenizer:
    """A tokenizer in the form of XLM-RoBERTa's and E5's."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁query", ":", "▁Hund", "▁hund", "Hund", "▁rot", "ery"]
    pieces = [*words, *map(chr, range(33, 123))]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(place)) for place, piece in enumerate(dict.fromkeys(pieces))], 3))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer


def word_pieces() -> Tokenizer:
    """A tokenizer in the form of BERT's."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "query",
        ":",
        "hund",
        "welt",
        "##e",
        "(",
        ")",
        ",",
        "!",
        "rot",
        "1",
        "##2",
        "ein",
    ]
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


@pytest.mark.parametrize("make", [unigram, word_pieces])
@pytest.mark.parametrize("prefix", ["query: ", "query : query: "])
def test_ids_are_those_of_the_prefixed_text(make, prefix: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make().save(str(tmp_path / "tokenizer.json"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    tokenizer = make()
    add_prefix(tokenizer, prefix)
    stored = Tokenizer.from_str(tokenizer.to_str())
    for longest in (12, 77):
        full = [theirs(prefix + text)["input_ids"] for text in TEXTS]
        expected = [ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]] for ids in full]
        assert tokenize(stored, TEXTS, longest) == expected


def test_the_tokens_of_the_prefix_cover_no_character_of_the_text() -> None:
    tokenizer = unigram()
    before = subword_spans(tokenizer, TEXTS, 77)
    add_prefix(tokenizer, "query: ")
    after = subword_spans(tokenizer, TEXTS, 77)
    for old, new in zip(before[:-1], after[:-1], strict=True):
        assert new == (*[(0, 0)] * 3, *old[1:])


def test_a_tokenizer_without_framing_gets_the_prefix_alone() -> None:
    tokenizer = unigram()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    whole = tokenizer.encode("query: Hund").ids
    add_prefix(tokenizer, "query: ")
    assert tokenizer.encode("Hund").ids == whole


def test_a_prefix_that_runs_into_the_text_is_refused() -> None:
    with pytest.raises(HarnessError, match=r"joins the prefix 'query:H' to the words after it: .* ends in a space"):
        add_prefix(unigram(), "query:H")


@pytest.mark.parametrize(
    ("name", "files", "prefix"),
    [
        ("intfloat/multilingual-e5-small", {}, "query: "),
        ("../models/multilingual-e5-small", {}, "query: "),
        ("intfloat/multilingual-e5-large-instruct", {}, ""),
        ("BAAI/beef5-bert", {}, ""),
        ("student", {"config.json": {"_name_or_path": "intfloat/e5-base"}}, "query: "),
        ("student", {"config_sentence_transformers.json": {"prompts": {"query": "find: ", "passage": "text: "}}}, "find: "),
        (
            "student",
            {"config_sentence_transformers.json": {"prompts": {"query": "q: ", "sts": "s: "}, "default_prompt_name": "sts"}},
            "s: ",
        ),
        ("e5", {"config_sentence_transformers.json": {"prompts": {"query": "", "document": ""}}}, ""),
        ("e5", {"config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None}}, "query: "),
        ("student", {"config_sentence_transformers.json": {"prompts": ["query: "]}}, ""),
    ],
)
def test_the_prefix_that_a_model_wants(name: str, files: dict[str, object], prefix: str, tmp_path: Path) -> None:
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(content))
    assert default_prefix(name, tmp_path) == prefix


def test_the_option_replaces_the_model_s_own_prefix(tmp_path: Path) -> None:
    (folder := tmp_path / "e5").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    unigram().save(str(folder / "tokenizer.json"))
    initializer = load_initializer(f"hf:{folder}")
    assert isinstance(initializer, HuggingFaceInitializer)
    read = {
        prefix: initializer.student_tokenizer(DistillConfig(prefix=prefix), "de").encode("Hund").tokens
        for prefix in (None, "", "ery: ")
    }
    assert read[None] == ["<s>", "▁query", ":", "▁Hund", "</s>"]
    assert read[""] == ["<s>", "▁Hund", "</s>"]
    assert read["ery: "] == ["<s>", "▁", "ery", ":", "▁Hund", "</s>"]
    before = initializer.fingerprint()
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "ery: "}}')
    assert load_initializer(f"hf:{folder}").fingerprint() != before
