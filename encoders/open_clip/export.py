"""Export of a distilled tower and its teacher's image tower as one model in open_clip's folder format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from harness.core.errors import HarnessError
from harness.core.protocols import Encoder
from harness.distill.checkpoint import load_tower
from harness.distill.data.subwords import END, START, UNKNOWN
from harness.encoders.file_names import OPEN_CLIP_CONFIG_FILE, OPEN_CLIP_WEIGHTS_FILE
from harness.encoders.open_clip.clip_layers import Weights
from harness.encoders.open_clip.models import OpenClip
from harness.storage.store import new_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from harness.distill.model.tower import TextTower, TowerConfig

PAD = "<pad>"
ACTIVATIONS_TO_HF = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}


def write_open_clip(folder: Path, teacher: Encoder, out: Path, hub: str | None) -> None:
    """Write configuration, weights and tokenizer to the folder `out`, which open_clip loads as `local-dir:`.

    A tower with BERT's architecture becomes a Hugging Face text tower with mean pooling. A tower with CLIP's architecture and
    last-token pooling becomes open_clip's own transformer.

    hub: the repository to which the folder will be pushed. open_clip then looks for the tokenizer under that name.

    open_clip cleans a text before tokenization (HTML entities, broken encodings, double spaces). Students do not.

    Raises HarnessError if open_clip cannot represent the tower, if the teacher is not an open_clip model, and if `out` exists.
    """
    if out.exists():
        raise HarnessError(f"{out} is there already: name a folder that is not")
    if not isinstance(teacher, OpenClip):
        raise HarnessError(f"{teacher.name} is no open_clip model: open_clip's folder format cannot hold its image tower")
    tower, tokenizer = load_tower(folder)
    model = teacher.loaded.model
    image_side = {name: value for name, value in model.state_dict().items() if name.startswith(("visual.", "logit_"))}
    text_config, text_side, files = convert_text_tower(tower, tokenizer, bool(teacher.files.config.get("quick_gelu")), folder)
    kept = {name: value for name, value in teacher.files.config.items() if name not in ("text_cfg", "custom_text")}
    name = hub or str(out)
    names = {"hf_tokenizer_name": name, **({"hf_model_name": name} if files else {})}
    config = {
        "model_cfg": {**kept, "custom_text": True, "text_cfg": {**text_config, **names}},
        "preprocess_cfg": model.visual.preprocess_cfg,
    }
    with new_folder(out) as temporary:
        weights = image_side | {f"text.{name}": value for name, value in text_side.items()}
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
        save_file(tensors, temporary / OPEN_CLIP_WEIGHTS_FILE)
        for name, content in {OPEN_CLIP_CONFIG_FILE: config, **files}.items():
            (temporary / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        add_pad_token(tokenizer, tower.config.max_length).save_pretrained(temporary)


def convert_text_tower(
    tower: TextTower, tokenizer: Tokenizer, quick: bool, folder: Path
) -> tuple[dict[str, Any], Weights, Mapping[str, Any]]:
    """Return open_clip's `text_cfg` for a tower, its weights, and the contents of further JSON files by name.

    Raises HarnessError if open_clip cannot represent the tower.
    """
    config, state = tower.config, tower.state_dict()
    shared = {"context_length": config.max_length}
    if config.norm == "post" and not config.causal and config.pooling == "mean" and config.activation in ACTIVATIONS_TO_HF:
        text = {"hf_model_pretrained": False, "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"}
        return shared | text, bert_weights(state, config), {"config.json": bert_config(config)}
    own = "quick_gelu" if quick else config.activation if config.activation != "quick_gelu" else None
    if config.norm == "pre" and config.causal and config.pooling == "last" and config.activation == own:
        text = {
            "width": config.width,
            "heads": config.heads,
            "layers": config.layers,
            "mlp_ratio": config.mlp_width / config.width,
        }
        text |= {"vocab_size": config.vocab_size + 1, "pool_type": "eos", "eos_id": tokenizer.token_to_id(END)}
        text |= {"norm_kwargs": {"eps": config.norm_eps}}
        if config.activation == "gelu_tanh":
            text["act_kwargs"] = {"approximate": "tanh"}
        return shared | text, clip_weights(state, config), {}
    raise HarnessError(
        f"{folder}: open_clip has no {config.norm}-norm{' causal' if config.causal else ''} text tower with {config.pooling} "
        f"pooling and {config.activation}; it supports CLIP's layers distilled with --pooling last, and BERT's layers "
        "distilled with --pooling mean"
    )


def bert_config(config: TowerConfig) -> dict[str, Any]:
    """Return a Hugging Face configuration of a BERT. The last row of its vocabulary is padding."""
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": config.vocab_size + 1,
        "pad_token_id": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_length,
        "type_vocab_size": 1,
        "hidden_act": ACTIVATIONS_TO_HF[config.activation],
        "layer_norm_eps": config.norm_eps,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def bert_weights(state: Weights, config: TowerConfig) -> Weights:
    """Return the tower's weights under BERT's names."""
    embeddings = "transformer.embeddings"
    weights = {
        f"{embeddings}.word_embeddings.weight": add_padding_row(state["token_embedding.weight"]),
        f"{embeddings}.position_embeddings.weight": state["position_embedding"],
        f"{embeddings}.token_type_embeddings.weight": torch.zeros(1, config.width),
        **renamed_layer(state, "embedding_norm", f"{embeddings}.LayerNorm"),
        "proj.weight": state["projection.weight"],
    }
    names = {"attention_out": "attention.output.dense", "attention_norm": "attention.output.LayerNorm"}
    names |= {"mlp_in": "intermediate.dense", "mlp_out": "output.dense", "mlp_norm": "output.LayerNorm"}
    for index in range(config.layers):
        ours, theirs = f"blocks.{index}", f"transformer.encoder.layer.{index}"
        for kind in ("weight", "bias"):
            parts = state[f"{ours}.qkv.{kind}"].chunk(3)
            weights |= {
                f"{theirs}.attention.self.{name}.{kind}": part
                for name, part in zip(("query", "key", "value"), parts, strict=True)
            }
        for name, other in names.items():
            weights |= renamed_layer(state, f"{ours}.{name}", f"{theirs}.{other}")
    return weights


def clip_weights(state: Weights, config: TowerConfig) -> Weights:
    """Return the tower's weights under the names of open_clip's transformer."""
    weights = {
        "token_embedding.weight": add_padding_row(state["token_embedding.weight"]),
        "positional_embedding": state["position_embedding"],
        "text_projection": state["projection.weight"].T,
        **renamed_layer(state, "final_norm", "ln_final"),
    }
    names = {"attention_norm": "ln_1", "attention_out": "attn.out_proj", "mlp_norm": "ln_2", "mlp_in": "mlp.c_fc"}
    names |= {"mlp_out": "mlp.c_proj"}
    for index in range(config.layers):
        ours, theirs = f"blocks.{index}", f"transformer.resblocks.{index}"
        weights |= {f"{theirs}.attn.in_proj_{kind}": state[f"{ours}.qkv.{kind}"] for kind in ("weight", "bias")}
        for name, other in names.items():
            weights |= renamed_layer(state, f"{ours}.{name}", f"{theirs}.{other}")
    return weights


def add_padding_row(embedding: torch.Tensor) -> torch.Tensor:
    """Return the token embeddings with an additional row for padding, which students do not have."""
    return torch.cat([embedding, embedding.new_zeros(1, embedding.shape[1])])


def renamed_layer(state: Weights, ours: str, theirs: str) -> Weights:
    """Return the weight and the bias of a layer under another name."""
    return {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for kind in ("weight", "bias")}


def add_pad_token(tokenizer: Tokenizer, longest: int) -> Any:
    """Return the tokenizer in transformers' format, with a padding token that has the last id."""
    from transformers import PreTrainedTokenizerFast

    special = {"unk_token": UNKNOWN, "bos_token": START, "eos_token": END}
    known = {name: token for name, token in special.items() if tokenizer.token_to_id(token) is not None}
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, pad_token=PAD, model_max_length=longest, **known)
