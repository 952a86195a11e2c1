"""One language distilled end to end, standard distillation, against sentence-transformers' trainer and its multilingual recipe.

python -m benchmarks.end_to_end TEACHER DATA [LANG] [PAIRS] [STEPS] [DEVICE] [PRECISION]

Needs `pip install 'flickr30k-harness[bench]'`. The same student (the teacher's layers under new subwords), pairs, batches of 64,
steps, learning rate with warm-up, and loss on all sides; the recipe is that of the library's `make_multilingual.py`: labels from
the teacher, then `MSELoss` on translation and English alike. A second row leaves the English side out, so that a step is
the same work. R@1 is text to image on the val split. TEACHER must be an open_clip model with a BERT as its text tower.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MSELoss
from sentence_transformers.models import Dense, Pooling, Transformer
from torch import nn

from harness.core.builtins import TASKS, load_encoder
from harness.core.config import DistillConfig, RunConfig
from harness.core.data import Floats
from harness.distill.data.subwords import tokenize
from harness.distill.distributed import ALONE
from harness.distill.model.student import new_student
from harness.distill.model.tower import TextTower, TowerConfig
from harness.distill.recipe import Recipe
from harness.distill.student_training import train_student
from harness.encoders.open_clip.export import add_pad_token, bert_config, bert_weights
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.retrieval.ranking import rank, retrieval_scores
from harness.runtime.console import Console
from harness.storage.embeddings import embed_images
from harness.storage.store import Store

CONTEXT = 77


def as_sentence_transformer(tower: TextTower, tokenizer: Any, folder: Path, device: str) -> SentenceTransformer:
    """Return a student in sentence-transformers' form with the same weights: a BERT, mean pooling, a projection."""
    weights = bert_weights(tower.state_dict(), tower.config)
    bert = {name.removeprefix("transformer."): value for name, value in weights.items() if name.startswith("transformer.")}
    folder.mkdir()
    save_file({name: value.clone().contiguous() for name, value in bert.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(bert_config(tower.config)), encoding="utf-8")
    add_pad_token(tokenizer, tower.config.max_length).save_pretrained(folder)
    return sentence_transformer(folder, tower.config, weights["proj.weight"], device)


def sentence_transformer(folder: Path, config: TowerConfig, projection: torch.Tensor, device: str) -> SentenceTransformer:
    """Return modules over a BERT in a folder."""
    words = Transformer(str(folder), max_seq_length=config.max_length)
    dense = Dense(config.width, config.joint_dim, bias=False, activation_function=nn.Identity())
    dense.linear.weight.data.copy_(projection)
    return SentenceTransformer(modules=[words, Pooling(config.width, pooling_mode="mean"), dense], device=device)


def theirs(student: SentenceTransformer, recipe: Recipe, *, english_too: bool, out: Path, device: str) -> None:
    """The recipe: the teacher labels the English side, and the student learns to give the labels."""
    bitext, config = recipe.bitext, recipe.config
    labels = recipe.teacher.encode_texts(bitext.english, "en")
    columns = {"english": list(bitext.english)} if english_too else {}
    pairs = Dataset.from_dict(columns | {"non_english": list(bitext.foreign), "label": labels.tolist()})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out),
        max_steps=recipe.steps,
        per_device_train_batch_size=config.batch,
        learning_rate=config.peak_learning_rate,
        warmup_steps=round(config.warmup * recipe.steps),
        lr_scheduler_type="cosine",
        weight_decay=config.weight_decay,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=device == "cpu",
        bf16=config.precision == "bfloat16",
    )
    SentenceTransformerTrainer(model=student, args=arguments, train_dataset=pairs, loss=MSELoss(student)).train()


def main() -> None:
    """Train once with each implementation, and print a Markdown table."""
    lang, pairs, steps, device, precision = (*sys.argv[3:], *("de", "1000", "200", "cpu", "float32")[len(sys.argv) - 3 :])
    teacher, data = load_encoder(sys.argv[1], device), Path(sys.argv[2])
    task = TASKS.load("flickr30k")()
    guarded = load_guarded_bitext(task, data, [task.language(lang)], RunConfig(lang=lang))
    config = DistillConfig.model_validate({"pairs": int(pairs), "steps": int(steps), "precision": precision})
    recipe = Recipe(config, teacher, guarded, tag=lambda bitext: bitext)
    retrieval = task.load(data, lang, "val")
    with tempfile.TemporaryDirectory() as name:
        folder, store = Path(name), Store.at(Path(name, "store"))
        images = embed_images(teacher, retrieval.images, store, lambda _: None)

        def r1(texts: Floats) -> float:
            return retrieval_scores(rank(images, texts, retrieval.caption_images))["t2i_r1"]

        rows = []
        for label, english_too in (("recipe", True), ("recipe, translations alone", False)):
            start, tokenizer = new_student(teacher, config, recipe.bitext)
            student = as_sentence_transformer(start, tokenizer, folder / label, device)
            began = time.perf_counter()
            theirs(student, recipe, english_too=english_too, out=folder / f"{label} out", device=device)
            taken = time.perf_counter() - began
            rows.append((f"sentence-transformers, {label}", taken, r1(student.encode(list(retrieval.captions)))))
        began = time.perf_counter()
        tower, tokenizer, _ = train_student(recipe, recipe.digest, device, store, Console(), ALONE)
        taken = time.perf_counter() - began
        ids = tokenize(tokenizer, retrieval.captions, tower.config.max_length)
        found = tower.embed(ids).cpu().numpy()
        rows.append(("`distill`", taken, r1(found)))
    print(f"{lang}, {pairs} pairs, {steps} steps of {config.batch}, {precision}; {device}, {torch.get_num_threads()} threads\n")
    print("| way | seconds | `distill` is faster by | R@1, val |\n| --- | --- | --- | --- |")
    for label, seconds, score in rows:
        print(f"| {label} | {seconds:.1f} | {seconds / taken:.2f} | {score:.1f} |")


if __name__ == "__main__":
    main()
