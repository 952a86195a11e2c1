"""Conversion of text encoders of transformers to `TextTower`: BERT and relatives, BART's, M2M-100's and NLLB's encoders."""

from __future__ import annotations

from typing import Any

import torch

from harness.distill.model.tower import TowerConfig
from harness.encoders.open_clip.bert_layers import BERT_LIKE, bert_activation, from_bert, joined_block
from harness.encoders.open_clip.clip_layers import Weights, named_layer, unsupported_error


def from_text_model(model: Any, context_length: int) -> tuple[TowerConfig, Weights]:
    """Return the shape and the weights of a text model, with the identity as projection and at most `context_length` positions.

    Raises HarnessError if the architecture has no counterpart in `TowerConfig`.
    """
    settings = model.config
    if settings.model_type in BERT_LIKE:
        if hasattr(model, "embeddings_project"):
            raise unsupported_error("embeddings that are narrower than its layers")
        return from_bert(model, settings, torch.eye(settings.hidden_size), context_length)
    if settings.model_type == "distilbert":
        return from_distilbert(model, context_length)
    return from_sequence_encoder(model.encoder, context_length)


def from_distilbert(model: Any, context_length: int) -> tuple[TowerConfig, Weights]:
    """Return the shape and the weights of a DistilBERT (Sanh et al., arXiv 1910.01108): a BERT without token types."""
    settings, embeddings = model.config, model.embeddings
    positions = embeddings.position_embeddings.weight[:context_length]
    config = TowerConfig(
        vocab_size=embeddings.word_embeddings.num_embeddings,
        width=settings.dim,
        layers=settings.n_layers,
        heads=settings.n_heads,
        mlp_width=settings.hidden_dim,
        joint_dim=settings.dim,
        max_length=len(positions),
        norm="post",
        causal=False,
        activation=bert_activation(settings.activation),
        norm_eps=embeddings.LayerNorm.eps,
    )
    weights = {
        "token_embedding.weight": embeddings.word_embeddings.weight,
        "position_embedding": positions,
        "projection.weight": torch.eye(settings.dim),
        **named_layer("embedding_norm", embeddings.LayerNorm),
    }
    for index, block in enumerate(model.transformer.layer):
        own, ffn = block.attention, block.ffn
        parts = {"attention_out": own.out_lin, "attention_norm": block.sa_layer_norm}
        parts |= {"mlp_in": ffn.lin1, "mlp_out": ffn.lin2, "mlp_norm": block.output_layer_norm}
        weights |= joined_block(f"blocks.{index}", [own.q_lin, own.k_lin, own.v_lin], parts)
    return config, weights


def from_sequence_encoder(encoder: Any, context_length: int) -> tuple[TowerConfig, Weights]:
    """Return the shape and the weights of the encoder of a BART (Lewis et al., ACL 2020), an M2M-100 or an NLLB.

    BART's blocks have their norms after each part, M2M-100's and NLLB's before it. Most of these models scale token embeddings by
    the square root of the width, which becomes part of the embeddings. The first two rows of positions belong to no token. The
    sinusoids of M2M-100 and NLLB become a parameter.
    """
    settings, table = encoder.config, encoder.embed_positions
    positions = (table.weights if hasattr(table, "weights") else table.weight)[table.offset :][:context_length]
    post = hasattr(encoder, "layernorm_embedding")
    norm = encoder.layernorm_embedding if post else encoder.layer_norm
    config = TowerConfig(
        vocab_size=encoder.embed_tokens.num_embeddings,
        width=settings.d_model,
        layers=len(encoder.layers),
        heads=settings.encoder_attention_heads,
        mlp_width=settings.encoder_ffn_dim,
        joint_dim=settings.d_model,
        max_length=len(positions),
        norm="post" if post else "pre",
        causal=False,
        activation=bert_activation(settings.activation_function),
        norm_eps=norm.eps,
    )
    weights = {
        "token_embedding.weight": encoder.embed_tokens.weight * encoder.embed_tokens.embed_scale,
        "position_embedding": positions,
        "projection.weight": torch.eye(settings.d_model),
        **named_layer("embedding_norm" if post else "final_norm", norm),
    }
    for index, block in enumerate(encoder.layers):
        own = block.self_attn
        parts = {"attention_out": own.out_proj, "attention_norm": block.self_attn_layer_norm}
        parts |= {"mlp_in": block.fc1, "mlp_out": block.fc2, "mlp_norm": block.final_layer_norm}
        weights |= joined_block(f"blocks.{index}", [own.q_proj, own.k_proj, own.v_proj], parts)
    return config, weights
