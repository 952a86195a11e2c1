"""A training step of a 6-layer, 384-wide student on 64 texts of 6 to 24 tokens: forward, kd-mse, backward, AdamW.

As torch does it by itself (float32 products of MKL, bfloat16 everywhere under autocast), and as the trainer does it.
"""

from __future__ import annotations

from collections.abc import Callable
from shutil import which
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional

from benchmarks.timing import compare
from harness.distill.model import tower
from harness.distill.model.tower import TextTower, TowerConfig
from harness.runtime import matmul as linear
from harness.runtime.matmul import onednn_matmul

TEXTS, VOCABULARY = 64, 4000
SHAPE = TowerConfig(
    vocab_size=VOCABULARY, width=384, layers=6, heads=12, mlp_width=1536, joint_dim=256, max_length=77, norm="post"
)


def attend_in_bfloat16(block: tower.Block, x: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
    """Return attention as under autocast."""
    batch, length, width = x.shape
    q, k, v = block.qkv(x).view(batch, length, 3, SHAPE.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    out: torch.Tensor = block.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
    return out


def main() -> None:
    """Time all implementations on one student."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(6, 25, (TEXTS,), generator=generator).tolist()
    texts = [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    wanted = torch.randn(TEXTS, SHAPE.joint_dim, generator=generator)
    torch.manual_seed(0)
    student = TextTower(SHAPE)
    for parameter in student.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-4)

    def step(half: bool = False) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            pooled = student.encode(texts).pooled
        optimiser.zero_grad(set_to_none=True)
        (pooled - wanted).square().sum(1).mean().backward()
        optimiser.step()

    def by_torch_alone(half: bool) -> Callable[[], None]:
        def work() -> None:
            with (
                patch.object(linear, "onednn_is_faster", lambda: False),
                patch.object(tower.Block, "attend", attend_in_bfloat16),
            ):
                step(half)

        return work

    compiled = torch.compile(student.forward, dynamic=True)

    def by_torch_compile() -> None:
        with patch.object(student, "forward", compiled):
            by_torch_alone(False)()

    def all_through_onednn() -> None:
        with patch.object(linear, "onednn_is_faster", lambda: False), onednn_matmul():
            step()

    def with_chunks(tokens: int) -> Callable[[], None]:
        def work() -> None:
            with patch.dict(tower.TOKENS_A_CHUNK, cpu=tokens):
                step()

        return work

    ways = {
        "float32, torch alone": by_torch_alone(False),
        # In half precision torch 2.14 stops at its own assertion on AMD's processors.
        **({"float32, torch.compile": by_torch_compile} if which("c++") else {}),
        "float32, everything through oneDNN": all_through_onednn,
        "bfloat16, torch alone": by_torch_alone(True),
        "`--precision bfloat16`": lambda: step(True),
        "`--precision float32`": step,
    }
    compare(f"A training step, {TEXTS} texts, {sum(lengths)} tokens", ways, 7)
    sizes = {f"{tokens:,} tokens at a time": with_chunks(tokens) for tokens in (128, 256, 1024, 2048, 512)}
    compare("The same by the tokens that go through together", sizes, 7)


if __name__ == "__main__":
    main()
