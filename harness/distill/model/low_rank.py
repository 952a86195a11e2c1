"""Low-rank adapters (LoRA) in a tower's blocks, through the package peft."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from harness.core.errors import HarnessError
from harness.distill.model.tower import TextTower

ADAPTED = ("qkv", "attention_out", "mlp_in", "mlp_out")
"""The matrices of a block that get adapters: those of attention and of the feed-forward part."""
TRAINED = ("token_embedding", "projection", "pool_query")
"""What is trained in full outside the blocks: the parts that are new in most students."""


def require_peft() -> None:
    """Raise HarnessError unless peft is installed."""
    if importlib.util.find_spec("peft") is None:
        raise HarnessError("--lora needs peft: pip install 'flickr30k-harness[lora]'")


@contextmanager
def low_rank_adapters(tower: TextTower, rank: int, seed: int) -> Iterator[None]:
    """Train adapters of a rank in place of the blocks' matrices (Hu et al., arXiv 2106.09685). Rank 0 changes nothing.

    Each matrix W of ADAPTED in a block becomes W + B A, with A (rank, in) drawn from the seed and B (out, rank) zero at first, so
    that the tower is unchanged before its first step. Only A, B and the parts named in TRAINED require a gradient. All other
    weights are frozen, biases, norms and positions among them. At the end B A is added to W, and no adapter is left.
    """
    if rank == 0:
        yield
        return
    from peft import LoraConfig, inject_adapter_in_model

    # peft's default ratio of lora_alpha to the rank, by which B A is not scaled.
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(ADAPTED))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, tower.blocks)
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_("lora_" in name or name.split(".")[0] in TRAINED)
    try:
        yield
    finally:
        merge_adapters(tower.blocks)
        tower.requires_grad_(True)


def merge_adapters(blocks: nn.Module) -> None:
    """Add the adapters to the matrices that they adapt, and remove them."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(blocks.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            block, _, part = name.rpartition(".")
            setattr(blocks.get_submodule(block), part, layer.get_base_layer())
    del blocks.peft_config
