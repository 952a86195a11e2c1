"""Coverage of the interval over several seeds: `python -m benchmarks.seeds` from the repository's root, about two minutes."""

from __future__ import annotations

import numpy as np

from harness.statistics.inference import PairedArms, contrasts

TRIALS, IMAGES = 1000, 200


def main() -> None:
    """Print coverage and the rate of false rejections, for several numbers of seeds and standard deviations between them."""
    random = np.random.default_rng(0)
    for seeds in (2, 3, 5):
        for spread in (0.0, 0.05, 0.15):
            image = random.normal(0, 0.5, (TRIALS, 1, IMAGES))
            shift = random.normal(0, spread, (TRIALS, seeds, 1))
            values = image + shift + random.normal(0, 1, (TRIALS, seeds, IMAGES))
            names = [tuple(f"{trial}-{seed}" for seed in range(seeds)) for trial in range(TRIALS)]
            arms = [
                PairedArms(of, np.zeros_like(of), np.arange(IMAGES), name, name) for of, name in zip(values, names, strict=True)
            ]
            found = contrasts(arms, [{i: 1.0} for i in range(TRIALS)], resamples=1000)
            covers = np.mean([of.difference.low <= 0 <= of.difference.high for of in found])
            rejects, flips = (
                np.mean([p <= 0.05 for p in ps]) for ps in zip(*[(of.p_value, of.p_sign_flip) for of in found], strict=True)
            )
            print(
                f"{seeds} seeds, spread {spread}: covers {covers:.3f}, p rejects {rejects:.3f}, the sign flip alone {flips:.3f}"
            )


if __name__ == "__main__":
    main()
