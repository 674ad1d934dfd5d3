"""Scales that Infinity (arXiv:2412.04431) was published with for images that are not square, by the latent's grid."""

Grids = tuple[tuple[int, int], ...]

# Of its generators: for latents that are 1.25, 1.333, 1.5, 1.75, 2, 2.5 and 3 times as high as wide.
HIGH: tuple[Grids, ...] = (
    ((1, 1), (2, 2), (3, 3), (5, 4), (10, 8), (15, 12), (20, 16), (25, 20), (30, 24), (35, 28), (45, 36), (55, 44),
     (70, 56)),
    ((1, 1), (2, 2), (4, 3), (8, 6), (12, 9), (16, 12), (20, 15), (24, 18), (28, 21), (36, 27), (48, 36), (60, 45),
     (72, 54)),
    ((1, 1), (2, 2), (3, 2), (6, 4), (9, 6), (15, 10), (21, 14), (27, 18), (33, 22), (39, 26), (48, 32), (63, 42),
     (78, 52)),
    ((1, 1), (2, 2), (3, 3), (7, 4), (11, 6), (14, 8), (21, 12), (28, 16), (35, 20), (42, 24), (56, 32), (70, 40),
     (84, 48)),
    ((1, 1), (2, 2), (4, 2), (6, 3), (10, 5), (16, 8), (22, 11), (30, 15), (38, 19), (46, 23), (60, 30), (74, 37),
     (90, 45)),
    ((1, 1), (2, 2), (5, 2), (10, 4), (15, 6), (20, 8), (25, 10), (30, 12), (40, 16), (50, 20), (65, 26), (80, 32),
     (100, 40)),
    ((1, 1), (2, 2), (6, 2), (9, 3), (15, 5), (21, 7), (27, 9), (36, 12), (45, 15), (54, 18), (72, 24), (90, 30),
     (111, 37)),
)  # fmt: skip
SIZES = (7, 10, 12, 13)  # scales of images of about 0.06, 0.25, 0.6 and 1 million pixels: the first ones of a list


def by_grid() -> dict[tuple[int, int], Grids]:
    """Scales of the generators by the grid of the latent, for high and for wide ones."""
    lists = [grids[:size] for grids in HIGH for size in SIZES]
    wide = [tuple((w, h) for h, w in grids) for grids in lists]
    return {grids[-1]: grids for grids in (*lists, *wide)}


# By the name of a schedule; the class of the autoencoder has one such list by default.
PUBLISHED_BY_GRID: dict[str, dict[tuple[int, int], Grids]] = {
    "infinity": {
        (36, 64): ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (9, 12), (13, 16), (18, 24), (24, 32), (32, 48), (36, 64)),
    },
    "infinity_dynamic": by_grid(),
}
