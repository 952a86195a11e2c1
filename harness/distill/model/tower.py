"""The transformer text tower, the model of students and the form of donated teacher layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from harness.runtime.matmul import Linear

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from harness.core.protocols import TextEncoder

Tokens = Sequence[Sequence[int]]
Pooling = Literal["mean", "last", "attention"]

# Measured (docs/performance.md): on a CPU a part should fit the cache. An accelerator is bound by launches and takes one part.
TOKENS_A_CHUNK = defaultdict(lambda: 1 << 20, cpu=512)
TEXTS_AT_ONCE = 256


class TowerConfig(BaseModel):
    """Shape of a text tower. CLIP's has `norm="pre", causal=True`, BERT's `norm="post", causal=False`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(gt=0, description="entries of the token embedding")
    width: int = Field(gt=0, description="width of the residual stream")
    layers: int = Field(ge=0, description="transformer blocks")
    heads: int = Field(gt=0, description="attention heads; divides the width")
    mlp_width: int = Field(gt=0, description="hidden width of the feed-forward part")
    joint_dim: int = Field(gt=0, description="width d of the joint image-text space")
    max_length: int = Field(gt=1, description="positions; longer texts are truncated")
    norm: Literal["pre", "post"] = Field("pre", description="layer norm before each part (CLIP) or after it (BERT)")
    causal: bool = Field(False, description="whether a token sees only those before it")
    activation: Literal["gelu", "quick_gelu", "gelu_tanh", "relu"] = "gelu"
    norm_eps: float = 1e-5
    pooling: Pooling = Field("mean", description="sentence embedding: mean of the real tokens' states, the last, or attention")


@dataclass(frozen=True)
class DonatedLayers:
    """A teacher's text layers in the form of `TextTower`: a state dict, and the ids of its first and last special token.

    The teacher's texts are `start ... end`. A student with the same framing copies these two rows of the token embedding. Either
    is None if the teacher frames its texts without it.
    tokenize: maps n texts to their ids as the teacher reads them, with framing and without padding.
    tokenizer: the same as a tokenizer that a student can keep, or None if the teacher's has no such form.
    """

    config: TowerConfig
    weights: dict[str, Tensor]
    start: int | None
    end: int | None
    tokenize: Callable[[Sequence[str]], list[list[int]]]
    tokenizer: Tokenizer | None = None


def joint_dim(teacher: TextEncoder) -> int:
    """Return the width d of the teacher's joint space."""
    return int(teacher.encode_texts(["a"], "en").shape[1])


@dataclass(frozen=True)
class Encoded:
    """A batch that a tower has encoded.

    states: (B, L, d), zero where mask is False. mask: (B, L). pooled: (B, d), not normalised.
    entities: (B, L), 1 for the tokens of entities, 0 for others and padding, NaN throughout a text without tags. None unless the
    objective reads it.
    """

    states: Tensor
    mask: Tensor
    pooled: Tensor
    entities: Tensor | None = None


def chunk_rows(order: Tensor, lengths: Tensor, budget: int) -> Iterator[Tensor]:
    """Split texts, sorted from short to long, into parts of at most `budget` tokens, padding included.

    >>> [rows.tolist() for rows in chunk_rows(torch.tensor([2, 0, 1]), torch.tensor([3, 4, 2]), 7)]
    [[2, 0], [1]]
    """
    start = 0
    for end, length in enumerate(lengths[order].tolist()):
        if (end + 1 - start) * length > budget and end > start:
            yield order[start:end]
            start = end
    yield order[start:]


def pad_token_ids(texts: Tokens) -> Tensor:
    """Return the token ids (B, L) of texts, padded with zeros on the right.

    >>> pad_token_ids([[1, 2], [3]]).tolist()
    [[1, 2], [3, 0]]
    """
    lengths = np.array([len(text) for text in texts])
    ids = np.zeros((len(texts), lengths.max()), dtype=np.int64)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(texts), np.int64, lengths.sum())
    return torch.from_numpy(ids)


class Block(nn.Module):
    """One transformer block: self-attention and a feed-forward part, each with a residual."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.attention_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.qkv = Linear(width, 3 * width)
        self.attention_out = Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.mlp_in = Linear(width, config.mlp_width)
        self.mlp_out = Linear(config.mlp_width, width)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map x (B, L, width) to the same shape. visible: (B, 1, 1, L), the visible keys; None for all, or with a causal mask."""
        if self.config.norm == "pre":
            x = x + self.attend(self.attention_norm(x), visible)
            return x + self.feed_forward(self.mlp_norm(x))
        x = self.attention_norm(x + self.attend(x, visible))
        out: Tensor = self.mlp_norm(x + self.feed_forward(x))
        return out

    def attend(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """Apply multi-head self-attention."""
        batch, length, width = x.shape
        heads = self.qkv(x)
        # Measured (docs/performance.md): such small products take a CPU ten times as long in bfloat16.
        with torch.autocast("cpu", enabled=False):
            parts = (heads.float() if x.device.type == "cpu" else heads).chunk(3, dim=-1)
            q, k, v = (part.view(batch, length, self.config.heads, -1).transpose(1, 2) for part in parts)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=self.config.causal)
        out: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out

    def feed_forward(self, x: Tensor) -> Tensor:
        """Apply the two-layer perceptron to each position."""
        hidden = self.mlp_in(x)
        if self.config.activation == "quick_gelu":
            hidden = hidden * torch.sigmoid(1.702 * hidden)
        elif self.config.activation == "relu":
            hidden = functional.relu(hidden)
        else:
            hidden = functional.gelu(hidden, approximate="tanh" if self.config.activation == "gelu_tanh" else "none")
        out: Tensor = self.mlp_out(hidden)
        return out


class TextTower(nn.Module):
    """Maps token ids to token states G (L, d) in the joint space, and pools the n real tokens of a text to its embedding w (d).

    `pooling="mean"`: w = sum_i G_i / n. `last`: w = G_n. `attention`: w = sum_i a_i G_i, a = softmax(G q / sqrt(d)) over the
    real tokens. q (d) is learned from zero, where this is the mean (Yang et al., NAACL 2016).

    With `checkpointing` blocks store only their inputs and are recomputed for their gradient (Chen et al., arXiv 1604.06174).

    >>> config = TowerConfig(vocab_size=9, width=8, layers=1, heads=2, mlp_width=16, joint_dim=4, max_length=6)
    >>> encoded = TextTower(config).encode([[1, 2, 3], [4, 5]])
    >>> encoded.states.shape, encoded.mask.sum(1).tolist(), encoded.pooled.shape
    (torch.Size([2, 3, 4]), [3, 2], torch.Size([2, 4]))
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Parameter(torch.zeros(config.max_length, config.width))
        self.embedding_norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.norm == "post" else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.norm == "pre" else nn.Identity()
        self.projection = Linear(config.width, config.joint_dim, bias=False)
        if config.pooling == "attention":
            self.pool_query = nn.Parameter(torch.zeros(config.joint_dim))

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return token states (B, L, d) of right-padded ids (B, L). States of padding are arbitrary."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        # Under a causal mask real tokens never see the padding to their right. Only the other kind needs a key mask.
        visible = None if self.config.causal else (positions < lengths[:, None])[:, None, None, :]
        x = self.embedding_norm(self.token_embedding(ids) + self.position_embedding[: ids.shape[1]])
        for block in self.blocks:
            x = checkpoint(block, x, visible, use_reentrant=False) if self.checkpointing else block(x, visible)
        out: Tensor = self.projection(self.final_norm(x))
        return out

    def encode(self, texts: Tokens) -> Encoded:
        """Encode token id lists (each of length >= 1), in the given order.

        Texts of similar length are encoded together, up to TOKENS_A_CHUNK tokens, padded to the longest among them. With mixed
        lengths most of the arithmetic would be padding.
        """
        device = self.position_embedding.device
        lengths = torch.tensor([len(text) for text in texts])
        order = torch.argsort(lengths, stable=True)
        longest = int(lengths.max())
        parts = []
        for rows in chunk_rows(order, lengths, TOKENS_A_CHUNK[device.type]):
            ids = pad_token_ids([texts[row] for row in rows.tolist()]).to(device)
            states = self(ids, lengths[rows].to(device))
            parts.append(functional.pad(states, (0, 0, 0, longest - ids.shape[1])))
        return self.encoded(torch.cat(parts)[torch.argsort(order).to(device)], lengths.to(device))

    def encoded(self, states: Tensor, lengths: Tensor) -> Encoded:
        """Return the states of `forward` for texts of these lengths (B,) as `encode` does."""
        mask = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        # Under autocast products are in half precision. All that follows is float32.
        states = states.float() * mask[:, :, None]
        return Encoded(states, mask, self.pool(states, mask, lengths))

    @torch.inference_mode()
    def embed(self, texts: Tokens) -> Tensor:
        """Return sentence embeddings (n, d) of any number of token id lists, without a gradient."""
        starts = range(0, len(texts), TEXTS_AT_ONCE)
        return torch.cat([self.encode(texts[start : start + TEXTS_AT_ONCE]).pooled for start in starts])

    def pool(self, states: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """Return sentence embeddings (B, d) of states (B, L, d) that are zero where mask (B, L) is False. lengths: (B,)."""
        if self.config.pooling == "last":
            return states[torch.arange(len(states), device=states.device), lengths - 1]
        if self.config.pooling == "attention":
            scores = states @ self.pool_query * self.config.joint_dim**-0.5
            weights = scores.masked_fill(~mask, -torch.inf).softmax(1)
            pooled: Tensor = (weights[:, None, :] @ states)[:, 0]
            return pooled
        return states.sum(1) / lengths[:, None]
