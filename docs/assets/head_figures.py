"""Figures of the heads, computed by the heads themselves.

python docs/assets/head_figures.py [NAME...]    # writes docs/images/heads/NAME.svg; tests/test_pictures.py compares
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from figures import composed, gradients, grids, mapped, tables

TARGET = Path(__file__).parent.parent / "images" / "heads"
DRAWN = (
    *(tables.vq, tables.vq_cosine, tables.vq_ema, tables.ibq, tables.gumbel, mapped.simvq, mapped.vqbridge),
    *(grids.bsq, grids.fsq, gradients.estimators, gradients.sf_diveq),
    *(composed.fq, composed.residual, composed.multiscale, composed.dqvae),
)
FIGURES = {drawn.__name__: drawn for drawn in DRAWN}

if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        (TARGET / f"{name}.svg").write_text(FIGURES[name]().svg())
