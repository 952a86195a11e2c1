"""Translation models in transformers' format for the tower `translate-test`, such as NLLB, M2M-100 and opus-mt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.core.languages import all_languages, resolve_language
from harness.encoders.hub import quiet
from harness.encoders.hugging_face.models import (
    TransformersModel,
    check_no_missing_weights,
    name_and_folder,
    one_line_loading_errors,
)

_TEXTS_A_BATCH = 32
_ENGLISH_MARKS = ("en", "eng_Latn")


def hugging_face_translator(argument: str, device: str) -> HuggingFaceTranslator:
    """`hf:ORG/REPO` or `hf:FOLDER`: a translation model in transformers' format (NLLB, M2M-100, opus-mt); needs the extra [mt].

    Raises HarnessError if transformers is not installed, or if the folder has no model.
    """
    return HuggingFaceTranslator(*name_and_folder(argument), device)


@dataclass(frozen=True)
class LoadedTranslator:
    """A translation model in memory, with its tokenizer."""

    model: Any
    tokenizer: Any


class HuggingFaceTranslator(TransformersModel):
    """A translation model. It decodes by its own generation configuration, but without sampling."""

    semantics = "hugging face translator 1, float32"

    @cached_property
    def loaded(self) -> LoadedTranslator:
        """The model in memory. Raises HarnessError if it cannot be loaded completely."""
        with quiet():
            return load_translation_model(self.name, self.folder, self.device)

    def translate(self, texts: Sequence[str], lang: str) -> list[str]:
        """Return the texts in English. Texts of similar length share a batch.

        Raises HarnessError if the model has no mark for the language.
        """
        import torch

        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        options = mark_languages(self.name, tokenizer, lang)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        english = [""] * len(texts)
        for start in range(0, len(order), _TEXTS_A_BATCH):
            rows = order[start : start + _TEXTS_A_BATCH]
            batch = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt").to(model.device)
            with torch.inference_mode(), quiet():
                out = model.generate(**batch, do_sample=False, **options)
            for row, text in zip(rows, tokenizer.batch_decode(out, skip_special_tokens=True), strict=True):
                english[row] = " ".join(text.split())
        return english


def mark_languages(name: str, tokenizer: Any, lang: str) -> dict[str, int]:
    """Set the source language of a multilingual model, and return the generation option that selects English.

    A model of a single language pair needs neither, and the result is empty.
    Raises HarnessError if the model has no mark for the source language or for English.
    """
    if not hasattr(tokenizer, "src_lang"):
        return {}
    known = tokenizer.get_vocab()
    # The table of languages also lists the codes of FLORES-200, which NLLB uses.
    codes = (lang, *resolve_language(lang, all_languages()).aliases)
    marks = [code for code in codes if language_mark(code, known)]
    english = [mark for code in _ENGLISH_MARKS if (mark := language_mark(code, known))]
    if not marks or not english:
        raise HarnessError(f"{name} starts every text with a language mark, and has none for {lang if english else 'English'}")
    tokenizer.src_lang = marks[0]
    return {"forced_bos_token_id": known[english[0]]}


def language_mark(code: str, known: dict[str, int]) -> str:
    """Return a language's mark in a vocabulary, such as NLLB's `swh_Latn` or M2M-100's `__sw__`, or an empty string."""
    mark = code if re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", code) else f"__{code}__"
    return mark if mark in known else ""


def load_translation_model(name: str, folder: Path, device: str) -> LoadedTranslator:
    """Build the model and load its weights. Raises HarnessError for missing weights, which transformers would randomize."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    with one_line_loading_errors(name, folder):
        model, report = AutoModelForSeq2SeqLM.from_pretrained(str(folder), dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    check_no_missing_weights(name, folder, model, report)
    return LoadedTranslator(model.eval().to(device), tokenizer)
