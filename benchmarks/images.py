"""Images per second: plain open_clip against the implementations of `encoders/open_clip/models.py`.

python benchmarks/images.py PICTURES_FOLDER                      from file to the tower's input, on one core
python benchmarks/images.py PICTURES_FOLDER local-dir:FOLDER     through an image tower
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from harness.core.builtins import load_encoder
from harness.encoders.open_clip.models import IMAGES_A_BATCH_ON_CPU, load_open_clip
from harness.encoders.open_clip.preprocessing import torch_preprocessing
from harness.tasks.readers.pictures import Pictures
from harness.tasks.readers.shards import Blob

PICTURES, FILES, ROUNDS, QUALITY = 64, 300, 5, 90


def speed(work: Callable[[], object]) -> float:
    """Return images per second."""
    start = time.perf_counter()
    work()
    return PICTURES / (time.perf_counter() - start)


def prepare(folder: Path) -> None:
    """Time decoding and preprocessing to (3, 224, 224), of photographs and of mosaics of the size of Flickr30k's."""
    torch.set_num_threads(1)
    paths = sorted(folder.glob("*.jpg"))[:FILES]
    compare_preparations(paths, "as they are")
    with tempfile.TemporaryDirectory() as place:
        mosaics = [Path(place) / path.name for path in paths]
        for number, mosaic in enumerate(mosaics):
            write_mosaic([paths[(number + step) % len(paths)] for step in range(6)], mosaic)
        compare_preparations(mosaics, "mosaics of 500 x 375")


def write_mosaic(paths: Sequence[Path], to: Path) -> None:
    """Return six photographs in two rows, cropped to 500 x 375: as much to decode as one photograph of that size."""
    whole = Image.new("RGB", (672, 448))
    for place, path in enumerate(paths):
        whole.paste(Image.open(path).resize((224, 224)), (place % 3 * 224, place // 3 * 224))
    whole.crop((86, 36, 586, 411)).save(to, quality=QUALITY)


def compare_preparations(paths: Sequence[Path], title: str) -> None:
    """Print a table. Times are CPU time of one thread, which other processes disturb least."""
    pictures, config = Pictures([path.stem for path in paths], [Blob(str(path)) for path in paths]), PreprocessCfg(size=224)
    theirs, ours = image_transform_v2(config, is_train=False), torch_preprocessing(vars(config))
    ways: dict[str, Callable[[int], torch.Tensor]] = {
        "open_clip: Pillow decodes and resizes": lambda place: theirs(Image.open(paths[place])),
        "the default: simplejpeg decodes, Pillow resizes": lambda place: theirs(pictures.open(place)),
        "`fast:`: simplejpeg decodes, torch resizes": lambda place: ours(pictures.open(place)),
    }
    rounds = [{name: seconds(way, len(paths)) for name, way in ways.items()} for _ in range(ROUNDS + 1)][1:]
    bytes_each = statistics.mean(path.stat().st_size for path in paths)
    print(f"\n{len(paths)} pictures, {title}, {bytes_each / 1000:.0f} kB each, {ROUNDS} rounds\n")
    print("| way | pictures a second | faster by | most, mean difference of 255 |\n| --- | --- | --- | --- |")
    std = 255 * torch.tensor(config.std)[:, None, None]
    for name, way in ways.items():
        speed = len(paths) / statistics.median(each[name] for each in rounds)
        ratios = sorted(next(iter(each.values())) / each[name] for each in rounds)
        factor = f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        apart = [(way(place) - theirs(Image.open(paths[place]))).abs() * std for place in range(len(paths))]
        most, mean = max(float(each.max()) for each in apart), statistics.mean(float(each.mean()) for each in apart)
        print(f"| {name} | {speed:,.0f} | {factor} | {most:.2f}, {mean:.3f} |", flush=True)


def seconds(way: Callable[[int], object], count: int) -> float:
    """Return the CPU time of one pass over all images."""
    start = time.process_time()
    for place in range(count):
        way(place)
    return time.process_time() - start


def tower(spec: str, folder: Path) -> None:
    """Measure both implementations alternately in one process. Returns the medians, and the ratio of each round."""
    encoder = load_encoder(spec, "cpu")
    plain = load_open_clip(encoder.name, encoder.files, "cpu")
    plain.model.visual.to(memory_format=torch.contiguous_format)
    pictures = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))[:PICTURES]]

    def as_it_stands() -> None:
        with torch.inference_mode():
            plain.model.encode_image(torch.stack([plain.preprocess(picture) for picture in pictures]))

    as_it_stands(), encoder.encode_images(pictures)
    rounds = [(speed(as_it_stands), speed(lambda: encoder.encode_images(pictures))) for _ in range(ROUNDS)]
    before, after = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratios = sorted(ours / theirs for theirs, ours in rounds)
    print(f"{torch.get_num_threads()} threads, {PICTURES} pictures, {ROUNDS} rounds")
    print(f"open_clip, one batch of {PICTURES}: {before:.1f} a second")
    print(f"channels last, batches of {IMAGES_A_BATCH_ON_CPU}: {after:.1f} a second")
    print(f"ratio: {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


if __name__ == "__main__":
    prepare(Path(sys.argv[1])) if len(sys.argv) == 2 else tower(sys.argv[2], Path(sys.argv[1]))
