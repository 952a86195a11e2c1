"""Train the teacher of the sample world and write it next to this file, in open_clip's folder format.

    python -m harness.encoders.sample.train

The script draws its own training images, without the scenes that the sample world holds out, and trains a small CLIP on them
from scratch. All choices were made on the val split of the world. The test split is read once, at the end.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from torch.nn import functional

from harness.encoders.file_names import OPEN_CLIP_CONFIG_FILE, OPEN_CLIP_WEIGHTS_FILE, TOKENIZER_FILE
from harness.tasks.sample.dataset import JPEG_QUALITY, SampleImage, compose_sample, five_plans
from harness.tasks.sample.grammar import REALISERS
from harness.tasks.sample.grammar.sentences import detokenized_text
from harness.tasks.sample.scene_drawing import draw_scene
from harness.tasks.sample.scenes import Scene, sample_scene

HERE = Path(__file__).parent
_SEED = 7
_SIDE = 64
_CONTEXT = 48
VOCABULARY = 700  # large enough that every word of the captions is one token
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
EMBEDDING = 128
TEXT = {"context_length": _CONTEXT, "width": 128, "heads": 2, "layers": 2}
MODEL = {
    "embed_dim": EMBEDDING,
    "vision_cfg": {"image_size": _SIDE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
}
FACTS_WEIGHT = 50

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """A training example: the pixels, the captions and the facts of a drawn scene."""

    pixels: Bytes
    captions: tuple[str, ...]
    facts: tuple[str, ...]


def as_stored(picture: Image.Image) -> Image.Image:
    """Return the image after JPEG compression, as it is read from its file."""
    stored = io.BytesIO()
    picture.save(stored, "JPEG", quality=JPEG_QUALITY)
    return Image.open(stored)


def pixels_of(picture: Image.Image) -> Bytes:
    """Return the encoder's input for an image: compressed as JPEG and resized to a square."""
    return np.asarray(as_stored(picture).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def facts_of(scene: Scene) -> tuple[str, ...]:
    """Return the facts of a scene, such as each actor's action, colours and objects, without duplicates."""
    facts = [scene.place]
    for actor in scene.actors:
        facts += [actor.kind, actor.action, f"{actor.kind} {actor.action}", f"{actor.kind} {actor.colour}"]
        for thing in (actor.garment, actor.hat, actor.object):
            if thing:
                facts += [f"{thing.kind} {thing.colour}", f"{actor.kind} {thing.kind} {thing.colour}"]
                facts.append(f"{actor.action} {thing.kind} {thing.colour}")
    if scene.beside:
        facts.append(f"beside {scene.beside.kind} {scene.beside.colour}")
    return tuple(dict.fromkeys(facts))


def draw_example(seed: int) -> Example:
    """Return the example drawn from a seed. Its first fact is the scene's key."""
    rng = Random(seed)
    scene = sample_scene(rng)
    captions = tuple(detokenized_text(REALISERS["en"](plan)) for plan in five_plans(rng, scene))
    return Example(pixels_of(draw_scene(scene, rng)[0]), captions, (scene.key(), *facts_of(scene)))


def draw_training_examples(count: int, forbidden: set[str]) -> list[Example]:
    """Draw ``count`` examples and return those whose scene is not held out."""
    seeds = range(_SEED * 10_000_000, _SEED * 10_000_000 + count)
    with ProcessPoolExecutor(2) as pool:
        drawn = list(pool.map(draw_example, seeds, chunksize=100))
    return [replace(one, facts=one.facts[1:]) for one in drawn if one.facts[0] not in forbidden]


def learn_tokenizer(captions: Sequence[str]) -> Tokenizer:
    """Train a byte-level BPE tokenizer, which can encode any language.

    Id 0 is padding. The end token has the largest id, because CLIP pools there.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<start>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.add_special_tokens(["<end>"])
    ends = [(name, tokenizer.token_to_id(name)) for name in ("<start>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return tokenizer


def tokens_of(tokenizer: Tokenizer, captions: Sequence[str]) -> torch.Tensor:
    """Return token ids (n, context), padded with 0. The captions of the sample always fit the context."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(captions))]
    return torch.tensor([row + [0] * (_CONTEXT - len(row)) for row in rows])


def encode_text(model: open_clip.CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Return the result of `model.encode_text`, without computation on the padding that all texts share."""
    length = int(tokens.argmax(1).max()) + 1
    states = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    pooled: torch.Tensor = states[torch.arange(len(tokens)), tokens.argmax(1)] @ model.text_projection
    return pooled


class Trainer:
    """Training loop of a model on examples in memory."""

    def __init__(self, examples: Sequence[Example], model: open_clip.CLIP, tokenizer: Tokenizer) -> None:
        self.model = model
        self.pixels = torch.from_numpy(np.stack([example.pixels for example in examples]))
        self.tokens = torch.stack([tokens_of(tokenizer, example.captions) for example in examples])
        facts = sorted({fact for example in examples for fact in example.facts})
        self.facts = torch.zeros(len(examples), len(facts))
        for row, example in enumerate(examples):
            self.facts[row, [bisect_left(facts, fact) for fact in example.facts]] = 1
        # The head is discarded after training. Its loss guides the image tower early in training.
        self.fact_head = nn.Linear(EMBEDDING, len(facts))

    def fit(self, epochs: int, batch: int, peak: float, evaluate: Callable[[], None]) -> None:
        """Train with a one-cycle learning-rate schedule and call ``evaluate`` after each epoch."""
        generator = torch.Generator().manual_seed(_SEED)
        steps = epochs * (len(self.pixels) // batch)
        parameters = [*self.model.parameters(), *self.fact_head.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=0.1)
        for epoch in range(epochs):
            self.model.train()
            order = torch.randperm(len(self.pixels), generator=generator)
            total, start = 0.0, time.perf_counter()
            for rows in torch.split(order[: len(order) // batch * batch], batch):
                loss = self.loss(rows, generator)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
                schedule.step()
                total += loss.item() * batch
            print(f"epoch {epoch + 1}/{epochs}: loss {total / len(order):.3f}, {time.perf_counter() - start:.0f} s", flush=True)
            evaluate()

    def loss(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return CLIP's symmetric loss with one caption per image, plus the weighted auxiliary loss on facts."""
        pixels = self.pixels[rows]
        mirrored = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5  # no caption distinguishes left from right
        pixels = torch.where(mirrored, pixels.flip(2), pixels)
        level = torch.randint(0, 5, (len(rows),), generator=generator)
        image = self.model.encode_image(as_input(pixels))
        text = functional.normalize(encode_text(self.model, self.tokens[rows, level]), dim=-1)
        logits = self.model.logit_scale.exp().clamp(max=100) * functional.normalize(image, dim=-1) @ text.T
        target = torch.arange(len(rows))
        contrastive = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        facts = functional.binary_cross_entropy_with_logits(self.fact_head(image), self.facts[rows])
        return contrastive + FACTS_WEIGHT * facts


def as_input(pixels: torch.Tensor) -> torch.Tensor:
    """Convert bytes (n, height, width, 3) to the output of open_clip's preprocessing, (n, 3, height, width)."""
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.inference_mode()
def recall_at_1(model: open_clip.CLIP, tokenizer: Tokenizer, items: Sequence[SampleImage], images: torch.Tensor) -> str:
    """Return text-to-image and image-to-text R@1 over all five captions, as text. A tie counts as a miss."""
    model.eval()
    captions = [detokenized_text(caption) for item in items for caption in item.captions]
    image = functional.normalize(model.encode_image(images), dim=-1)
    text = functional.normalize(
        torch.cat([encode_text(model, tokens_of(tokenizer, captions[i : i + 100])) for i in range(0, len(captions), 100)]), dim=-1
    )
    scores = text @ image.T
    owner = torch.arange(len(items)).repeat_interleave(5)
    right = scores.gather(1, owner[:, None])
    to_image = ((scores >= right).sum(1) == 1).float()
    own = scores.T.reshape(len(items), len(items), 5).amax(2)  # maximum over an image's five captions, for each pair
    to_text = ((own >= own.diagonal()[:, None]).sum(1) == 1).float()
    levels = " ".join(f"{100 * level:.0f}" for level in to_image.reshape(-1, 5).mean(0).tolist())
    return f"t2i R@1 {100 * to_image.mean():.1f} (by caption: {levels}), i2t R@1 {100 * to_text.mean():.1f}"


def save(model: open_clip.CLIP, config: dict[str, object], folder: Path) -> None:
    """Write the weights in half precision and the configuration."""
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    (folder / OPEN_CLIP_CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2) + "\n")
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, folder / OPEN_CLIP_WEIGHTS_FILE)


def print_recall(folder: Path, held_out: Mapping[str, Sequence[SampleImage]]) -> None:
    """Print the recall of the written model, loaded by open_clip."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    for split, items in held_out.items():
        images = torch.stack([preprocess(as_stored(item.draw()[0])) for item in items])
        print(f"{split}: {recall_at_1(model, tokenizer, items, images)}", flush=True)


def train_teacher(folder: Path, options: argparse.Namespace, held_out: Mapping[str, Sequence[SampleImage]]) -> None:
    """Draw examples, train the model, and write its configuration, tokenizer and weights."""
    begun = time.perf_counter()
    forbidden = {item.scene.key() for items in held_out.values() for item in items}
    examples = draw_training_examples(options.examples, forbidden)
    print(f"{len(examples)} scenes drawn, {time.perf_counter() - begun:.0f} s", flush=True)
    tokenizer = learn_tokenizer([caption for example in examples for caption in example.captions])
    size = tokenizer.get_vocab_size()
    config = {**MODEL, "text_cfg": {**TEXT, "vocab_size": size}}
    model = open_clip.CLIP(**config)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {size} tokens", flush=True)
    val = held_out["val"]
    images = as_input(torch.from_numpy(np.stack([pixels_of(item.draw()[0]) for item in val])))
    trainer = Trainer(examples, model, tokenizer)
    trainer.fit(
        options.epochs, options.batch, options.peak, lambda: print("val:", recall_at_1(model, tokenizer, val, images), flush=True)
    )
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    save(model, config, folder)
    print(f"{(time.perf_counter() - begun) / 60:.1f} minutes", flush=True)


def main() -> None:
    """Train on drawn scenes and measure the written model on val and test. With ``--measure``, only measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE, help="folder of the model")
    parser.add_argument("--examples", type=int, default=16_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--peak", type=float, default=2e-3, help="the highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", action="store_true", help="only measure an existing model")
    options = parser.parse_args()
    torch.manual_seed(_SEED)
    torch.set_num_threads(options.threads)
    world = compose_sample()
    held_out = {split: [item for item in world if item.split == split] for split in ("val", "test")}
    if not options.measure:
        train_teacher(options.folder, options, held_out)
    print_recall(options.folder, held_out)


if __name__ == "__main__":
    main()
