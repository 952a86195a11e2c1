"""Coverage, size and power of the statistics: `python -m benchmarks.statistics`, two minutes on one core.

Hits are drawn with a base rate and an intraclass correlation (ICC) of an image's captions (beta-binomial). docs/statistics.md has
the results. Monte Carlo standard errors are sqrt(p (1 - p) / trials).
"""

from __future__ import annotations

import sys
from itertools import product

import numpy as np
from scipy.special import ndtri

from harness.core.data import Doubles
from harness.leaderboards.board.scores import SeedSpread, expanded
from harness.statistics.inference import PairedArms, bootstrap_means, contrasts
from harness.statistics.methods.planning import VarianceComponents, power
from harness.statistics.rank_inference import rank_intervals

TRIALS = 1000


def main() -> None:
    """Print the tables. A number of trials may be given."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS
    print_coverage(trials)
    print_tests(trials)
    print_boards(max(50, trials // 5))


def draw_hits(random: np.random.Generator, rate: float, icc: float, images: int, captions: int, trials: int) -> Doubles:
    """Return hits as 0 and 1, (images x captions, trials), captions of an image next to each other."""
    if icc:
        scale = (1 - icc) / icc
        chance = random.beta(rate * scale, (1 - rate) * scale, size=(images, 1, trials))
    else:
        chance = np.full((images, 1, trials), rate)
    hits: Doubles = (random.random((images, captions, trials)) < chance).reshape(-1, trials).astype(float)
    return hits


def print_coverage(trials: int) -> None:
    """Print the coverage of the percentile bootstrap and of the interval that is used, in percent."""
    print("coverage in percent: rate, ICC, images, captions: bootstrap alone, with Wilson's for few hits")
    random = np.random.default_rng(0)
    for rate, images, (captions, icc) in product((0.01, 0.05, 0.3), (100, 300, 1000), ((1, 0), (5, 0), (5, 0.3), (5, 0.7))):
        hits, cluster = draw_hits(random, rate, icc, images, captions, trials), np.repeat(np.arange(images), captions)
        shares = []
        for hit in (None, 1.0):
            # Trials are independent, so that sharing one set of resamples leaves each interval's coverage as it is.
            found = bootstrap_means(hits, cluster, hit=hit, resamples=2000)
            shares.append(100 * np.mean([each.low - 1e-12 <= rate <= each.high + 1e-12 for each in found]))
        print(f"{rate:.0%}, {icc}, {images}, {captions}: {shares[0]:.1f}, {shares[1]:.1f}")


def seeded_values(
    random: np.random.Generator, components: VarianceComponents, shape: tuple[int, int, int], mean: float
) -> Doubles:
    """Return differences (trials, seeds, images) with the given standard deviations."""
    trials, seeds, images = shape
    image = random.normal(0, components.image, (trials, 1, images))
    shift = random.normal(0, components.seed, (trials, seeds, 1))
    values: Doubles = mean + image + shift + random.normal(0, components.rest, shape)
    return values


def rejections(values: Doubles) -> float:
    """Return the share of trials (trials, seeds, images) in which the mean differs significantly from 0."""
    trials, seeds, images = values.shape
    names = [tuple(f"{trial}-{seed}" for seed in range(seeds)) for trial in range(trials)]
    cluster = np.arange(images)
    arms = [PairedArms(of, np.zeros_like(of), cluster, name, name) for of, name in zip(values, names, strict=True)]
    found = contrasts(arms, [{i: 1.0} for i in range(trials)], resamples=1000)
    return float(np.mean([each.p_value <= 0.05 for each in found]))


def print_tests(trials: int) -> None:
    """Print size and power by the number of seeds, beside the planned power."""
    print(
        "200 images, standard deviations in points: image 25, rest 30; seeds, spread of seeds: size, power at 5 points, planned"
    )
    random = np.random.default_rng(1)
    for seeds, spread in product((1, 2, 3, 5), (0.0, 1.0)):
        components = VarianceComponents(25.0, spread, 30.0)
        size, found = (rejections(seeded_values(random, components, (trials, seeds, 200), mean)) for mean in (0.0, 5.0))
        planned = power(5.0, components, 200, seeds)
        print(f"{seeds}, {spread}: {100 * size:.1f} %, {100 * found:.1f} %, {100 * planned:.1f} %")


def print_boards(boards: int) -> None:
    """Print how often a board of five equal methods separates two of them."""
    print("boards of 5 equal methods, 1,000 images, R@1 10 %; seeds, spread: separated with images resampled, with seeds too")
    random = np.random.default_rng(2)
    for seeds, spread in product((1, 2, 3, 5), (0.5, 1.0)):
        parts = [board_separates(random, seeds, spread, number) for number in range(boards)]
        alone, both = (100 * np.mean(each) for each in zip(*parts, strict=True))
        print(f"{seeds}, {spread}: {alone:.0f} %, {both:.0f} %")


def board_separates(random: np.random.Generator, seeds: int, spread: float, number: int) -> tuple[bool, bool]:
    """Return whether one board separates equal methods, with images resampled alone and with seeds resampled too."""
    images, methods, resamples = 1000, 5, 1000
    latent = np.sqrt(0.7) * random.normal(size=images) + np.sqrt(0.3) * random.normal(size=(methods, seeds, images))
    rates = np.clip(10 + random.normal(0, spread, (methods, seeds)), 0.1, 99)
    hits = 100.0 * (latent > ndtri(1 - rates / 100)[..., None])
    weights = random.multinomial(images, np.full(images, 1 / images), size=resamples) / images
    plain = weights @ hits.mean(axis=1).T
    names = [tuple(f"{number}-{row}-{seed}" for seed in range(seeds)) for row in range(methods)]
    spreads = [SeedSpread(of.T / 100, name, np.ones(images), None) for of, name in zip(hits, names, strict=True)]
    estimates = hits.mean(axis=(1, 2))
    parts = [each.resample(plain[:, row], 0) for row, each in enumerate(spreads)]
    moved, freedom = np.column_stack([drawn for drawn, _ in parts]), np.array([free for _, free in parts])
    pairs = methods * (methods - 1) // 2
    found = [rank_intervals(estimates, drawn) for drawn in (plain, expanded(estimates, moved, freedom, pairs))]
    alone, both = (any(each.first > 1 for each in ranks) for ranks in found)
    return alone, both


if __name__ == "__main__":
    main()
