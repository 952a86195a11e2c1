"""Fixtures: a tiny synthetic Flickr30k folder, the sample, and the real data folder if it exists."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.support.chromium import chrome  # noqa: F401 (a fixture)
from tests.support.flickr30k_folders import MULTI30K, PHOTOS, english_line, write_lines

REAL = Path(__file__).parents[2] / "shared" / "flickr8k-real"


def pytest_configure() -> None:
    """Set what must be set before torch and Triton are imported.

    Several processes of tests share the processors: threads of each that wait for the others' cost more than they do. And what is
    compiled for a GPU is interpreted where there is none.
    """
    if not list(Path("/dev").glob("nvidia[0-9]*")):
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


@pytest.fixture
def flickr30k_folder(tmp_path: Path) -> Path:
    """Return a folder of six images of 8 x 8 pixels with two English captions each, and German and Quechua translations."""
    folder = tmp_path / "flickr30k"
    (folder / "flickr30k-images").mkdir(parents=True)
    for shade, name in enumerate(PHOTOS):
        Image.new("RGB", (8, 8), (30 * shade, 90, 200)).save(folder / "flickr30k-images" / f"{name}.jpg")
    images = [
        {
            "filename": f"{name}.jpg",
            "split": split,
            "sentences": [{"raw": f"Caption {k} of {name}.", "tokens": []} for k in (0, 1)],
        }
        for name, split in PHOTOS.items()
    ]
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"dataset": "flickr30k", "images": images}))
    task1 = folder / "multi30k" / "data" / "task1"
    for split, names in MULTI30K.items():
        write_lines(task1 / "image_splits" / f"{split}.txt", [f"{name}_5ec2e7.jpg" for name in names])
        write_lines(task1 / "raw" / f"{split}.en", [english_line(name) for name in names])
        write_lines(task1 / "raw" / f"{split}.de", [f"Bildtext von {name}." for name in names])
        write_lines(folder / "multiscript30k" / "multi30k-dataset-en-qu" / f"{split}.qu", [f"{name} qillqa" for name in names])
    return folder


@pytest.fixture(scope="session")
def real_folder() -> Path:
    """Return the folder of real photographs and translations, or skip the test without it."""
    if not REAL.is_dir():
        pytest.skip("shared/flickr8k-real is not beside this checkout")
    return REAL


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the embedded sample. Tests must not write to it."""
    from harness.tasks.sample.dataset import write_sample

    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder
