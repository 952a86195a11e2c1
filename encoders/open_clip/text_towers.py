"""Text towers of open_clip, with their token states.

Computation on padding is skipped where that does not change the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from harness.core.data import Floats, Spans, TokenStates
from harness.encoders.open_clip.clip_layers import convert_blocks
from harness.encoders.open_clip.tokenization import Tokenizer, detect_framing, mark_language, token_names, token_spans

# Measured on a CPU: 512 to 1,024 tokens fit into its cache, and batches of 4,096 are slower. A GPU needs large batches.
TOKENS_A_BATCH = {"cpu": 1024, "cuda": 32_768}


class OpenClipTextTower(Protocol):
    """A text tower in two steps, so that tokens are projected only if token states are requested."""

    trims: bool
    """Whether columns of padding on the right can be removed without changing other results."""
    pad: int | None
    """The id that the tower itself masks as padding; None if it masks none."""

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states (B, L, width) and sentence embeddings (B, d) of ids (B, L)."""
        ...

    def project(self, hidden: Tensor) -> Tensor:
        """Project hidden states (..., width) into the joint space, (..., d)."""
        ...


class ClipText:
    """open_clip's own transformer, which is part of a `CLIP` or the `text` of a `CustomTextCLIP`."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.pad: int | None = None
        held = "text_" if hasattr(module, "text_pool_type") else ""
        self.pooling: str = getattr(module, f"{held}pool_type")
        self.end: int = getattr(module, f"{held}eos_id")
        # With the causal mask, no token attends to tokens after the end, and the sentence embedding is read at the end.
        # Without the mask, tokens attend to the padding. SigLIP was trained that way.
        self.trims = self.module.attn_mask is not None and self.pooling in ("argmax", "eos")

    @cached_property
    def blocks(self) -> nn.Sequential | None:
        """The blocks as `Block` modules; None if they are not the standard ones."""
        return convert_blocks(self.module)

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states and sentence embeddings."""
        module, length = self.module, ids.shape[1]
        x = module.token_embedding(ids) + module.positional_embedding[:length]
        if self.blocks is None:
            mask = None if module.attn_mask is None else module.attn_mask[:length, :length]
            x = module.transformer(x, attn_mask=mask)
        else:
            x = self.blocks(x)
        hidden = module.ln_final(x)
        return hidden, self.project(text_global_pool(hidden, ids, self.pooling, eos_token_id=self.end))

    def project(self, hidden: Tensor) -> Tensor:
        """Project hidden states into the joint space."""
        projection = self.module.text_projection
        if projection is None:
            return hidden
        out: Tensor = projection(hidden) if isinstance(projection, nn.Linear) else hidden @ projection
        return out


class ClassTokenText(ClipText):
    """CoCa's transformer, which reads the sentence embedding from a class token after the padding."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.module.output_tokens = True
        self.trims = False

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states, without that of the class token, and sentence embeddings."""
        pooled, hidden = self.module(ids)
        return self.module.ln_final(hidden), pooled


class HuggingFaceText:
    """A Hugging Face model, which receives an attention mask for padding."""

    trims = True

    def __init__(self, module: Any) -> None:
        self.module = module
        self.pad: int | None = self.module.config.pad_token_id

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states and sentence embeddings."""
        mask = ids.ne(self.module.config.pad_token_id).long()
        out = self.module.transformer(input_ids=ids, attention_mask=mask)
        return out.last_hidden_state, self.project(self.module.pooler(out, mask))

    def project(self, hidden: Tensor) -> Tensor:
        """Project hidden states into the joint space."""
        out: Tensor = self.module.proj(hidden)
        return out


def wrap_text_tower(model: nn.Module) -> OpenClipTextTower:
    """Return the text tower of an open_clip model."""
    module = getattr(model, "text", model)
    if isinstance(module, HFTextEncoder):
        return HuggingFaceText(module)
    return ClassTokenText(module) if getattr(module, "cls_emb", None) is not None else ClipText(module)


@dataclass(frozen=True)
class EncodedBatch:
    """A batch of encoded texts.

    rows: (B,), positions of the texts in the input. hidden, pooled: results of `OpenClipTextTower.read`.
    real: (B, L) booleans, false for padding.
    """

    rows: Tensor
    hidden: Tensor
    pooled: Tensor
    real: Tensor


class TextReader:
    """The tokenizer and the text tower of one model."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, dim: int, device: str) -> None:
        self.tower = wrap_text_tower(model)
        self.tokenizer = tokenizer
        self.framing = detect_framing(tokenizer)
        self.dim = dim
        self.device = device

    def embed(self, texts: Sequence[str], lang: str) -> Floats:
        """Return sentence embeddings (n, d), in the order of the texts. Raises HarnessError as `tokenize` does."""
        pooled = np.zeros((len(texts), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for batch in self.batches(*self.tokenize(texts, lang)):
                pooled[batch.rows.numpy()] = batch.pooled.float().cpu().numpy()
        return pooled

    def states(self, texts: Sequence[str], lang: str) -> TokenStates:
        """Return token states and sentence embeddings, in the order of the texts. Raises HarnessError as `tokenize` does."""
        ids, real = self.tokenize(texts, lang)
        lengths = real.sum(1)
        starts = lengths.cumsum(0) - lengths
        tokens = np.zeros((int(lengths.sum()), self.dim), dtype=np.float32)
        pooled = np.zeros((len(texts), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for batch in self.batches(ids, real):
                states = self.tower.project(batch.hidden[batch.real.to(self.device)])
                places = (starts[batch.rows][:, None] + batch.real.cumsum(1) - 1)[batch.real]
                tokens[places.numpy()] = states.float().cpu().numpy()
                pooled[batch.rows.numpy()] = batch.pooled.float().cpu().numpy()
        return TokenStates(tokens, lengths.numpy(), pooled)

    def name_tokens(self, text: str) -> list[str]:
        """Return a name for each token of a text, without padding."""
        ids, real = self.tokenize([text])
        return token_names(self.tokenizer, ids[real].tolist())

    def locate_tokens(self, texts: Sequence[str], lang: str) -> list[Spans]:
        """Return the character span of each token in its text, without padding.

        Raises HarnessError if the tokenizer does not provide offsets.
        """
        return token_spans(self.tokenizer, texts, *self.tokenize(texts, lang))

    def tokenize(self, texts: Sequence[str], lang: str = "en") -> tuple[Tensor, Tensor]:
        """Return token ids (n, context), and booleans of that shape that are false for padding.

        Raises HarnessError if the model marks texts with their language and has no mark for this language.
        """
        if not texts:
            return torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1, dtype=torch.bool)
        mark_language(self.tokenizer, lang)
        ids = self.tokenizer(list(texts))
        return ids, self.framing.real(ids) if self.tower.pad is None else ids.ne(self.tower.pad)

    def batches(self, ids: Tensor, real: Tensor) -> Iterator[EncodedBatch]:
        """Encode all rows in batches of texts of similar length, the longest first."""
        context = ids.shape[1]
        ends = (real * torch.arange(1, context + 1)).amax(1) if self.tower.trims else torch.full((len(ids),), context)
        order = ends.argsort(descending=True, stable=True)
        budget = TOKENS_A_BATCH["cpu" if self.device == "cpu" else "cuda"]
        start = 0
        while start < len(order):
            width = int(ends[order[start]])
            rows = order[start : start + max(1, budget // width)]
            hidden, pooled = self.tower.read(ids[rows, :width].to(self.device))
            yield EncodedBatch(rows, hidden, pooled, real[rows, :width])
            start += len(rows)
