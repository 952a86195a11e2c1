"""Translation models in transformers' form, for the tower `translate-test`: NLLB, M2M-100, opus-mt and their like."""

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
    """`hf:ORG/REPO` or `hf:FOLDER`: a translation model in transformers' form (NLLB, M2M-100, opus-mt); needs the extra [mt].

    Raises HarnessError if transformers is not installed, or for a folder without a model.
    """
    return HuggingFaceTranslator(*name_and_folder(argument), device)


@dataclass(frozen=True)
class LoadedTranslator:
    """A model in memory, ready to translate."""

    model: Any
    tokenizer: Any


class HuggingFaceTranslator(TransformersModel):
    """A translation model. It decodes as its own generation config says, but never by chance."""

    semantics = "hugging face translator 1, float32"

    @cached_property
    def loaded(self) -> LoadedTranslator:
        """The model in memory. Raises HarnessError if it cannot be loaded whole."""
        with quiet():
            return load_translation_model(self.name, self.folder, self.device)

    def translate(self, texts: Sequence[str], lang: str) -> list[str]:
        """The texts in English, those of like length together. Raises HarnessError if the model has no mark for the language."""
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
    """Tell a model of many languages which one it reads, and give the option by which it writes English.

    Models of one pair know neither. Raises HarnessError if there is no mark for the language.
    """
    if not hasattr(tokenizer, "src_lang"):
        return {}
    known = tokenizer.get_vocab()
    # The table of languages also has them by the codes of FLORES-200, which NLLB uses.
    codes = (lang, *resolve_language(lang, all_languages()).aliases)
    marks = [code for code in codes if language_mark(code, known)]
    english = [mark for code in _ENGLISH_MARKS if (mark := language_mark(code, known))]
    if not marks or not english:
        raise HarnessError(
            f"{name} begins every text with a mark of its language, and has none for {lang if english else 'English'}"
        )
    tokenizer.src_lang = marks[0]
    return {"forced_bos_token_id": known[english[0]]}


def language_mark(code: str, known: dict[str, int]) -> str:
    """The mark of a language in a vocabulary: NLLB's `swh_Latn`, M2M-100's `__sw__`; nothing if it has none."""
    mark = code if re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", code) else f"__{code}__"
    return mark if mark in known else ""


def load_translation_model(name: str, folder: Path, device: str) -> LoadedTranslator:
    """Build the model with its weights. Raises HarnessError if some are missing: transformers would make them up."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    with one_line_loading_errors(name, folder):
        model, report = AutoModelForSeq2SeqLM.from_pretrained(str(folder), dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    check_no_missing_weights(name, folder, model, report)
    return LoadedTranslator(model.eval().to(device), tokenizer)
