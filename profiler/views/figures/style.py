"""The look that every figure shares: palette, fonts, units, and how a figure is written to disk."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.files import write_atomically
from profiler.units import GIB, KIB, MIB

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette: told apart by colour-blind readers, on screen and in print.
INK = "#222222"
MUTED = "#8a8a8a"
BLUE, SKY, GREEN, YELLOW, ORANGE, RED, PINK = (
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#F0C814",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def use_style() -> None:
    """Apply the shared look to matplotlib; draws to files only (Agg), so no screen is needed."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "font.size": 12,
            "axes.titlesize": 15,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 14,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.grid": True,
            "grid.color": "#e4e4e4",
            "axes.axisbelow": True,
            "text.parse_math": False,  # names from outside may have any number of dollar signs
            "legend.frameon": False,
            "svg.hashsalt": "profiler",  # the same figure gives the same file
            "figure.constrained_layout.use": True,
        }
    )


def byte_unit(largest_bytes: float) -> tuple[float, str]:
    """The binary unit in which `largest_bytes` reads best, as (bytes in one unit, name)."""
    for factor, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if largest_bytes >= factor:
            return float(factor), name
    return 1.0, "bytes"


def raised(base: int, exponent: int) -> str:
    """As in "2⁻²⁵"."""
    return f"{base}{str(exponent).translate(_RAISED)}"


def subtitle(axes: Axes, text: str) -> None:
    """A line of plain text between the title (the finding) and the axes (conditions, units)."""
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=30)
    axes.text(0, 1.02, text, transform=axes.transAxes, color=MUTED, fontsize=11, va="bottom")


def headline(figure: Figure, finding: str, conditions: str = "") -> None:
    """The finding above all panels, and in small print under it what was run."""
    second_line = "\n" if conditions else ""
    title = figure.suptitle(finding + second_line, x=0.01, ha="left", fontsize=17, fontweight="bold")
    if conditions:
        small_print = figure.axes[0].annotate(
            conditions, (0, 0.06), xycoords=title, color=MUTED, fontsize=12, annotation_clip=False
        )
        small_print.set_in_layout(False)  # the title has made room for it


def finding(figure: Figure) -> str:
    """What `headline` says, in a line, or the title of the first panel; "" without one."""
    said = figure.get_suptitle() or next((axes.get_title(loc="left") for axes in figure.axes), "")
    return " ".join(said.split())


def shared_legend(figure: Figure, panels: Iterable[Axes], columns: int = 5) -> None:
    """One legend below all panels, each label once."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


def model_words(row: pd.Series) -> str:
    """The model of a record, with its depth where that was set."""
    return f"{row['model']} of {row['layers']} layers" if row["layers"] else str(row["model"])


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `figure` as folder/name.png and folder/name.svg and close it; returns both paths."""
    import matplotlib.pyplot as plt

    paths = [folder / f"{name}.{ending}" for ending in ("png", "svg")]
    for path in paths:
        write_atomically(path, partial(_draw, figure, path.suffix))
    plt.close(figure)
    return paths


def as_image(figure: Figure, suffix: str) -> bytes:
    """The figure as the bytes of a file, ".png" or ".svg"."""
    image = BytesIO()
    _draw(figure, suffix, image)
    return image.getvalue()


def _draw(figure: Figure, suffix: str, to: Path | BytesIO) -> None:
    metadata = {"Date": None} if suffix == ".svg" else None
    figure.savefig(to, format=suffix[1:], bbox_inches="tight", metadata=metadata)
