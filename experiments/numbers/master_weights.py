"""Why 16-bit training keeps an fp32 copy of the weights: without it, small updates round away to nothing.

A byte model trained on source code is fine-tuned on English prose with Adam, four ways. All four run the same
fp32 optimizer arithmetic on the same data. They differ in the format of the weights, and in one line of
`fine_tuning.fine_tune`: after each step the 16-bit-only arms keep the rounded weight and forget the fp32 sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from experiments.numbers.byte_language_model import (
    ByteLanguageModel,
    Corpus,
    Windows,
    evaluate,
    loss_of,
    pretrained,
    prose,
    source_code,
)
from experiments.numbers.fine_tuning import BATCH, Arm, copy_of, fine_tune, tensor_bytes
from profiler.views.figures.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    RED,
    SKY,
    YELLOW,
    raised,
    subtitle,
    use_style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = (
    "Why keep an fp32 copy of 16-bit weights: how many updates round away without it, and what is lost?"
)


ARMS = (
    Arm("fp32", torch.float32, False, INK),
    Arm("fp16 + fp32 master", torch.float16, True, BLUE),
    Arm("fp16 only", torch.float16, False, ORANGE),
    Arm("bf16 only", torch.bfloat16, False, RED),
)


@dataclass(frozen=True)
class Size:
    seeds: int
    pretraining_steps: int
    steps: int
    learning_rates: tuple[float, ...]


SIZES = {
    "small": Size(seeds=3, pretraining_steps=600, steps=300, learning_rates=(1e-5, 1e-4, 1e-3)),
    "full": Size(seeds=5, pretraining_steps=1500, steps=600, learning_rates=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3)),
}
# What the curves and the picture of memory show: usual for fine-tuning a language model with Adam.
SHOWN_LEARNING_RATE = 1e-5


def tables(size: str, device: str, progress: Callable[[str], None] | None = None) -> dict[str, pd.DataFrame]:
    """Fine-tune every arm at every learning rate from every seed.

    curves: learning_rate, seed, arm, step (0: before fine-tuning), loss (nats per byte of held-out prose),
    accuracy (share of next bytes guessed), lost_share (of the nonzero updates since the row before, those
    that left the kept weight as it was; NaN at step 0).
    runs: learning_rate, seed, arm, start_loss (of the fp32 weights), final_loss, gain (their difference),
    final_accuracy, lost_share (of all steps).
    summary: learning_rate, arm, then means over seeds: final_loss, final_accuracy, gain, lost_share, and gap
    (final loss less that of the fp32 master arm of the same seed); gain_spread and gap_spread are standard
    deviations over seeds.
    ratios: learning_rate, log2_ratio (lower edge of a bin one power of two wide), share (of the updates of
    the last fp32 step, first seed, by |update| / |weight|).
    memory: arm, weights, gradients, optimizer_states, master_weights, total (bytes per parameter, counted on
    the tensors).
    adam_in_16_bit: dtype, bytes_per_parameter, first_bad_step (the first step of torch.optim.Adam, with
    default eps, on 16-bit weights and states after which the loss is not finite; NaN: none in 20).
    """
    chosen = SIZES[size]
    code, text = source_code(), prose()
    curves: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    memory: dict[str, dict[str, Any]] = {}
    for seed in range(chosen.seeds):
        start = pretrained(seed, chosen.pretraining_steps, code.training, device)
        start_loss, _ = evaluate(start, text.validation, device)
        for learning_rate in chosen.learning_rates:
            for arm in ARMS:
                run = fine_tune(
                    start,
                    arm,
                    text,
                    learning_rate=learning_rate,
                    steps=chosen.steps,
                    seed=seed,
                    device=device,
                )
                label = {"learning_rate": learning_rate, "seed": seed, "arm": arm.name}
                curves += [{**label, **point} for point in run.points]
                final = run.points[-1]
                runs.append(
                    {
                        **label,
                        "start_loss": start_loss,
                        "final_loss": final["loss"],
                        "gain": start_loss - final["loss"],
                        "final_accuracy": final["accuracy"],
                        "lost_share": run.lost_share,
                    }
                )
                memory[arm.name] = {"arm": arm.name, **run.bytes_per_parameter}
                if arm.name == "fp32" and seed == 0:
                    ratios += [
                        {"learning_rate": learning_rate, **row} for row in _ratio_histogram(run.last_ratios)
                    ]
                if progress:
                    progress(
                        f"seed {seed}, learning rate {learning_rate:g}, {arm.name}: loss {final['loss']:.3f}"
                    )
    return {
        "curves": pd.DataFrame(curves),
        "runs": pd.DataFrame(runs),
        "summary": _summary(pd.DataFrame(runs)),
        "ratios": pd.DataFrame(ratios),
        "memory": pd.DataFrame(memory.values()),
        "adam_in_16_bit": pd.DataFrame(
            [_adam_throughout(start, dtype, text, device) for dtype in (torch.float16, torch.bfloat16)]
        ),
    }


def _ratio_histogram(ratios: Tensor) -> list[dict[str, float]]:
    # A weight of exactly zero gives an infinite ratio: the topmost bin.
    powers = ratios.log2().floor().clamp(-24, 4)
    values, counts = powers.unique(return_counts=True)
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    return [{"log2_ratio": value, "share": count / len(ratios)} for value, count in pairs]


def _summary(runs: pd.DataFrame) -> pd.DataFrame:
    master = runs[runs["arm"] == "fp16 + fp32 master"].set_index(["learning_rate", "seed"])["final_loss"]
    paired = runs.join(master.rename("master_loss"), on=["learning_rate", "seed"])
    paired["gap"] = paired["final_loss"] - paired["master_loss"]
    return (
        paired.groupby(["learning_rate", "arm"], sort=False)
        .agg(
            final_loss=("final_loss", "mean"),
            final_accuracy=("final_accuracy", "mean"),
            gain=("gain", "mean"),
            gain_spread=("gain", "std"),
            gap=("gap", "mean"),
            gap_spread=("gap", "std"),
            lost_share=("lost_share", "mean"),
        )
        .reset_index()
    )


def _adam_throughout(
    start: ByteLanguageModel, dtype: torch.dtype, text: Corpus, device: str
) -> dict[str, Any]:
    """What one tries first: the model cast to 16 bit and handed to torch.optim.Adam as it is."""
    model = copy_of(start, dtype, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=SHOWN_LEARNING_RATE)
    windows = Windows(text.training, seed=0, device=device)
    bad_step = float("nan")
    for step in range(1, 21):
        contexts, following = windows.draw(BATCH)
        optimizer.zero_grad()
        loss_of(model(contexts), following).backward()
        optimizer.step()
        with torch.no_grad():
            if not loss_of(model(contexts), following).isfinite():
                bad_step = step
                break
    weights: list[Tensor] = list(model.parameters())
    states = [optimizer.state[weight][name] for weight in weights for name in ("exp_avg", "exp_avg_sq")]
    held = weights + [weight.grad for weight in weights if weight.grad is not None] + states
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "bytes_per_parameter": tensor_bytes(held) / tensor_bytes(weights) * dtype.itemsize,
        "first_bad_step": bad_step,
    }


def figures(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """`curves`: loss while fine-tuning; `learning_rates`: where it matters and where not; `ratios`: why;
    `memory`: what it costs."""
    use_style()
    return {
        "curves": _draw_curves(tables["curves"]),
        "learning_rates": _draw_learning_rates(tables["runs"], tables["summary"]),
        "ratios": _draw_ratios(tables["ratios"]),
        "memory": _draw_memory(tables["memory"], tables["summary"]),
    }


def _power_of_ten(value: float) -> str:
    digits, exponent = f"{value:.0e}".split("e")
    power = raised(10, int(exponent))
    return power if digits == "1" else f"{digits}·{power}"


def _draw_curves(curves: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    shown = curves[curves["learning_rate"] == SHOWN_LEARNING_RATE]
    start = shown[(shown["arm"] == "fp32") & (shown["step"] == 0)].set_index("seed")["loss"]
    figure, axes = plt.subplots(figsize=(10, 5.6))
    last_step = int(shown["step"].max())
    for arm in ARMS:
        mine = shown[shown["arm"] == arm.name]
        change = mine["loss"] - mine["seed"].map(start)
        by_step = change.groupby(mine["step"])
        mean, spread = by_step.mean(), by_step.std()
        axes.plot(mean.index, mean, color=arm.colour, lw=3, ls="--" if arm.keeps_master else "-")
        axes.fill_between(mean.index, mean - spread, mean + spread, color=arm.colour, alpha=0.2, lw=0)
        lost = mine["lost_share"].mean()
        if arm.name == "fp32":
            continue  # hidden under the master weights: one label for both
        name = "fp32, and fp16 with\nfp32 master" if arm.keeps_master else arm.name
        text = f"{name}\n{100 * lost:.0f} % of updates lost"
        axes.text(last_step * 1.02, mean.iloc[-1], text, color=arm.colour, va="center", fontsize=12)
    axes.set_xlim(0, last_step * 1.36)
    axes.set_xticks([last_step * part // 3 for part in range(4)])
    axes.set_xlabel("step")
    axes.set_ylabel("change of held-out loss, nats per byte")
    axes.set_title("Without fp32 master weights, fine-tuning all but stops")
    seeds = shown["seed"].nunique()
    rate = _power_of_ten(SHOWN_LEARNING_RATE)
    subtitle(
        axes, f"byte model, from code to prose, Adam, learning rate {rate}; mean and spread of {seeds} seeds"
    )
    return figure


def _draw_learning_rates(runs: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    reference = runs[runs["arm"] == "fp32"].set_index(["learning_rate", "seed"])["gain"].rename("fp32_gain")
    shares = runs.join(reference, on=["learning_rate", "seed"])
    shares["kept"] = 100 * shares["gain"] / shares["fp32_gain"]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 7.6), sharex=True, height_ratios=(3, 2))
    for arm in ARMS[1:]:
        grouped = shares[shares["arm"] == arm.name].groupby("learning_rate")["kept"]
        mean, spread = grouped.mean(), grouped.std()
        style = {"color": arm.colour, "lw": 3, "marker": "o", "ms": 8}
        top.errorbar(mean.index, mean, yerr=spread, capsize=5, label=arm.name, **style)
        lost = summary[summary["arm"] == arm.name]
        bottom.plot(lost["learning_rate"], 100 * lost["lost_share"], **style)
    top.set(ylabel="% of fp32's gain kept", ylim=(-5, 112), yticks=range(0, 101, 25))
    top.legend(loc="lower right")
    top.set_title("The smaller the learning rate, the more master weights matter")
    seeds = runs["seed"].nunique()
    subtitle(top, f"fine-tuning a byte model from code to prose; bars: spread of {seeds} seeds")
    rates = sorted(runs["learning_rate"].unique())
    bottom.set(ylabel="% of updates lost", ylim=(-5, 105), yticks=range(0, 101, 25), xscale="log")
    bottom.set_xticks(rates, [_power_of_ten(rate) for rate in rates])
    bottom.minorticks_off()
    bottom.set_xlabel("learning rate of Adam")
    return figure


def _draw_ratios(ratios: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 5.4))
    rates = sorted(ratios["learning_rate"].unique())
    shown = [rate for rate in (1e-5, 1e-4, 1e-3) if rate in rates]
    top = 100 * float(ratios["share"].max())
    for rate, colour in zip(shown, (BLUE, SKY, GREEN), strict=False):
        mine = ratios[ratios["learning_rate"] == rate].set_index("log2_ratio")["share"]
        mine = 100 * mine.reindex(range(-24, 5), fill_value=0)
        axes.step(mine.index, mine, where="post", color=colour, lw=3)
        peak = int(mine.idxmax())
        axes.text(
            peak + 0.5, mine.max() + 0.02 * top, _power_of_ten(rate), color=colour, ha="center", fontsize=15
        )
    # With p bits of significand, half a spacing is 2^-(p+1) of a weight that is a power of two, and close to
    # 2^-(p+2) of one just below the next.
    for name, low, colour, side in (("bf16", -9, RED, "left"), ("fp16", -12, ORANGE, "right")):
        axes.axvspan(low, low + 1, color=colour, alpha=0.35, lw=0)
        x = low + 1.2 if side == "left" else low - 0.2
        axes.text(
            x, 1.25 * top, f"← lost in {name}", color=colour, ha=side, va="top", weight="bold", fontsize=14
        )
    axes.text(-23.5, 1.05 * top, "learning rate", color=INK, fontsize=12, va="center")
    axes.set(xlim=(-24, 4), ylim=(0, 1.3 * top), ylabel="% of updates")
    axes.set_xticks(range(-24, 5, 4), [raised(2, k) if k else "1" for k in range(-24, 5, 4)])
    axes.set_xlabel("size of the update, relative to its weight")
    axes.set_title("An update left of its format's band rounds away")
    subtitle(
        axes, "one Adam step of the fp32 run; right of the band it is kept, inside it depends on the weight"
    )
    return figure


def _draw_memory(memory: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.4))
    shown = summary[summary["learning_rate"] == SHOWN_LEARNING_RATE].set_index("arm")
    parts = (
        ("weights", "weights", BLUE),
        ("gradients", "gradients", SKY),
        ("optimizer_states", "Adam's two states", MUTED),
        ("master_weights", "fp32 master", YELLOW),
    )
    left = pd.Series(0.0, index=memory.index)
    for column, label, colour in parts:
        axes.barh(memory["arm"], memory[column], left=left, color=colour, label=label, height=0.6)
        left += memory[column]
    for arm, total in zip(memory["arm"], memory["total"], strict=True):
        text = f"{total:.0f} bytes, loss {-shown.loc[arm, 'gain']:+.3f}".replace("-", "−")
        axes.text(total + 0.2, arm, text, va="center", fontsize=13)
    axes.invert_yaxis()
    axes.set_xlim(0, 21)
    axes.set_xticks(range(0, 17, 4))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=13)
    axes.set_xlabel("bytes per parameter; loss: its change by fine-tuning")
    axes.legend(loc="upper center", bbox_to_anchor=(0.42, -0.2), ncols=4, columnspacing=1.0, handlelength=1.0)
    axes.set_title("With master weights, fp16 takes as many bytes as fp32")
    subtitle(axes, "what remains between two steps; the saving of 16 bit is in the activations, not shown")
    return figure
