"""Why fp16 training scales the loss: small gradients flush to zero, large ones overflow.

The scale must be taken out again before gradients are clipped.

Everything is measured on real steps of a byte model with fp32 weights and fp16 computation, the way autocast
works. A gradient is lost where fp16 gives zero and fp32 does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from experiments.numbers.byte_language_model import (
    ByteLanguageModel,
    Windows,
    evaluate,
    loss_of,
    pretrained,
    source_code,
)
from profiler.views.figures import style as look
from profiler.views.figures.style import BLUE, GREEN, INK, MUTED, ORANGE, RED, YELLOW, subtitle, use_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUESTION = (
    "Why scale the loss in fp16: which gradients vanish, when do they overflow, and what does clipping need?"
)

SMALLEST_NORMAL = 2.0**-14

SCALES_LOG2 = range(-18, 31, 3)
CLIP_NORM = 1.0
CLIP_SCALES_LOG2 = range(0, 19, 2)
TRAINED_CLIP_SCALE = 2.0**12
SHOWN_SCALES_LOG2 = (0, 3, 12)


@dataclass(frozen=True)
class Size:
    pretraining_steps: int
    batch: int  # windows of the step whose gradients are looked at
    training_steps: int
    seeds: int
    scaler_steps: int


SIZES = {
    "small": Size(pretraining_steps=600, batch=2048, training_steps=150, seeds=2, scaler_steps=400),
    "full": Size(pretraining_steps=1500, batch=8192, training_steps=500, seeds=3, scaler_steps=400),
}


def tables(size: str, device: str, progress: Callable[[str], None] | None = None) -> dict[str, pd.DataFrame]:
    """Run the five measurements.

    histogram: kind ("activations" or "weights"), log2_magnitude (lower edge of a bin one power of two wide),
    count: gradients of one step in fp32, the true ones. Exact zeros are left out.
    scales: kind, scale_log2, zero_share (lost), subnormal_share, overflow_share (infinite or NaN), of the
    gradients that are not zero in fp32; relative_error (norm of the difference to fp32, after unscaling, over
    the norm in fp32; NaN where any overflowed).
    training: scale_log2 (NaN: the fp32 run), seed, final_loss (held-out; NaN: diverged): Adam, a fixed scale.
    scaler: start ("too low", "too high"), step, scale (during the step), skipped, loss: torch's GradScaler.
    clipping: scale_log2, order ("unscale, clip" or "clip, unscale"), norm_before (fp32 gradient, unclipped),
    norm_applied (of the gradient that the optimizer gets, one step, threshold CLIP_NORM).
    clipped_training: order, step, loss: SGD with that order, scale TRAINED_CLIP_SCALE.
    """
    chosen = SIZES[size]
    report = progress or (lambda message: None)
    text = source_code()
    model = pretrained(0, chosen.pretraining_steps, text.training, device)
    contexts, following = Windows(text.training, seed=1, device=device).draw(chosen.batch)
    report("gradients of one step")
    true = _gradients(model, torch.float32, contexts, following, scale=1.0)
    scales = _scales(model, true, contexts, following)
    report("training with fixed scales")
    training = _training(chosen, text.training, text.validation, device, report)
    report("dynamic scaling")
    scaler = pd.concat(
        [
            _scaler_run("too low", 2.0**4, chosen, text.training, device),
            _scaler_run("too high", 2.0**32, chosen, text.training, device),
        ]
    )
    report("clipping")
    return {
        "histogram": _histogram(true),
        "scales": scales,
        "training": training,
        "scaler": scaler,
        "clipping": _clipping(model, contexts[:64], following[:64], device),
        "clipped_training": _clipped_training(chosen, text.training, device),
    }


def _gradients(
    model: ByteLanguageModel, compute_dtype: torch.dtype, contexts: Tensor, following: Tensor, scale: float
) -> dict[str, Tensor]:
    """Gradients of scale x loss, flat and still scaled: of the three activations, and of all weights."""
    model.compute_dtype = compute_dtype
    activations = model.activations(contexts)
    loss = loss_of(activations[-1], following) * scale
    found = torch.autograd.grad(loss, [*activations, *model.parameters()])
    flat = [gradient.detach().float().flatten() for gradient in found]
    return {"activations": torch.cat(flat[:3]), "weights": torch.cat(flat[3:])}


def _histogram(true: dict[str, Tensor]) -> pd.DataFrame:
    rows = []
    for kind, gradients in true.items():
        powers, counts = gradients[gradients != 0].abs().log2().floor().unique(return_counts=True)
        rows += [
            {"kind": kind, "log2_magnitude": int(power), "count": count}
            for power, count in zip(powers.tolist(), counts.tolist(), strict=True)
        ]
    return pd.DataFrame(rows)


def _scales(
    model: ByteLanguageModel, true: dict[str, Tensor], contexts: Tensor, following: Tensor
) -> pd.DataFrame:
    rows = []
    for power in SCALES_LOG2:
        scaled = _gradients(model, torch.float16, contexts, following, 2.0**power)
        for kind, reference in true.items():
            real = reference != 0
            gradients = scaled[kind][real]
            magnitudes = gradients.abs()
            difference = gradients / 2.0**power - reference[real]
            error = float(difference.norm() / reference.norm())
            rows.append(
                {
                    "kind": kind,
                    "scale_log2": power,
                    "zero_share": _share(magnitudes == 0),
                    "subnormal_share": _share((magnitudes > 0) & (magnitudes < SMALLEST_NORMAL)),
                    "overflow_share": _share(~gradients.isfinite()),
                    "relative_error": error if gradients.isfinite().all() else float("nan"),
                }
            )
    return pd.DataFrame(rows)


def _share(mask: Tensor) -> float:
    return float(mask.float().mean())


def _training(
    size: Size, training: Tensor, validation: Tensor, device: str, report: Callable[[str], None]
) -> pd.DataFrame:
    rows = []
    for seed in range(size.seeds):
        for power in (None, *SCALES_LOG2):
            dtype = torch.float32 if power is None else torch.float16
            scale = 1.0 if power is None else 2.0**power
            model = ByteLanguageModel(seed, compute_dtype=dtype).to(device)
            optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
            windows = Windows(training, seed, device)
            for _ in range(size.training_steps):
                contexts, following = windows.draw(128)
                optimizer.zero_grad()
                (loss_of(model(contexts), following) * scale).backward()
                for weight in model.parameters():
                    assert weight.grad is not None
                    weight.grad /= scale
                optimizer.step()
            loss, _ = evaluate(model, validation, device)
            rows.append({"scale_log2": power, "seed": seed, "final_loss": loss})
        report(f"trained with every scale, seed {seed}")
    return pd.DataFrame(rows).astype({"scale_log2": float})


def _scaler_run(start: str, scale: float, size: Size, training: Tensor, device: str) -> pd.DataFrame:
    model = ByteLanguageModel(0, compute_dtype=torch.float16).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    # The default waits 2000 steps before it doubles the scale; a shorter wait shows the same in less time.
    scaler = torch.amp.GradScaler(device, init_scale=scale, growth_interval=20)
    windows = Windows(training, 0, device)
    rows = []
    for step in range(1, size.scaler_steps + 1):
        contexts, following = windows.draw(128)
        optimizer.zero_grad()
        loss = loss_of(model(contexts), following)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        used = scaler.get_scale()
        scaler.update()
        # Only an infinite or NaN gradient makes the scaler back off, and it skips that step.
        skipped = scaler.get_scale() < used
        rows.append(
            {"start": start, "step": step, "scale": used, "skipped": skipped, "loss": float(loss.detach())}
        )
    return pd.DataFrame(rows)


def clipped_step(
    model: torch.nn.Module,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    unscale_first: bool,
) -> float:
    """One optimizer step on `loss` with gradients clipped to norm CLIP_NORM, before or after unscaling.

    Returns the norm of the gradient that the optimizer got.
    """
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    if unscale_first:
        scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    scaler.step(optimizer)  # unscales, unless that was done
    scaler.update()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


ORDERS = {"unscale, clip": True, "clip, unscale": False}


def _clipping(start: ByteLanguageModel, contexts: Tensor, following: Tensor, device: str) -> pd.DataFrame:
    rows = []
    true = _gradients(start, torch.float32, contexts, following, scale=1.0)["weights"]
    for power in CLIP_SCALES_LOG2:
        for order, unscale_first in ORDERS.items():
            model = ByteLanguageModel(0, compute_dtype=torch.float16).to(device)
            model.load_state_dict(start.state_dict())
            scaler = torch.amp.GradScaler(device, init_scale=2.0**power)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            applied = clipped_step(
                model, loss_of(model(contexts), following), optimizer, scaler, unscale_first
            )
            rows.append(
                {
                    "scale_log2": power,
                    "order": order,
                    "norm_before": float(true.norm()),
                    "norm_applied": applied,
                }
            )
    return pd.DataFrame(rows)


def _clipped_training(size: Size, training: Tensor, device: str) -> pd.DataFrame:
    rows = []
    for order, unscale_first in ORDERS.items():
        model = ByteLanguageModel(0, compute_dtype=torch.float16).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        scaler = torch.amp.GradScaler(device, init_scale=TRAINED_CLIP_SCALE)
        windows = Windows(training, 0, device)
        for step in range(1, size.training_steps + 1):
            contexts, following = windows.draw(128)
            loss = loss_of(model(contexts), following)
            clipped_step(model, loss, optimizer, scaler, unscale_first)
            rows.append({"order": order, "step": step, "loss": float(loss.detach())})
    return pd.DataFrame(rows)


def figures(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """`gradients`: their sizes against fp16's limits, for three scales; `window`: which scales work;
    `scaler`: how GradScaler finds one; `clipping`: why gradients are unscaled first."""
    use_style()
    return {
        "gradients": _draw_gradients(tables["histogram"], tables["scales"]),
        "window": _draw_window(tables["scales"], tables["training"]),
        "scaler": _draw_scaler(tables["scaler"]),
        "clipping": _draw_clipping(tables["clipping"], tables["clipped_training"]),
    }


def _power_ticks(axes: Axes, powers: range) -> None:
    axes.set_xticks(powers, [look.raised(2, power) if power else "1" for power in powers])


def _draw_gradients(histogram: pd.DataFrame, scales: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    mine = histogram[histogram["kind"] == "activations"]
    shares = 100 * mine["count"] / mine["count"].sum()
    measured = scales[scales["kind"] == "activations"].set_index("scale_log2")
    height = 1.4 * float(shares.max())
    figure, rows = plt.subplots(len(SHOWN_SCALES_LOG2), 1, figsize=(10, 8), sharex=True, sharey=True)
    for axes, power in zip(rows, SHOWN_SCALES_LOG2, strict=True):
        places = mine["log2_magnitude"] + power
        colours = [RED if place < -25 else YELLOW if place < -14 else GREEN for place in places]
        axes.bar(places + 0.5, shares, width=0.92, color=colours)
        for limit in (-25, -14, 16):
            axes.axvline(limit, color=INK, lw=1.2, ls=":")
        share = 100 * measured.loc[power]
        full = 100 - share["zero_share"] - share["subnormal_share"] - share["overflow_share"]
        lines = (
            (f"loss scale {2**power}", INK),
            (f"{share['zero_share']:.0f} % become zero", RED),
            (f"{full:.0f} % keep full precision", GREEN),
        )
        for line, (text, colour) in enumerate(lines):
            weight = "normal" if line else "bold"
            axes.text(
                -44.5, (0.95 - 0.16 * line) * height, text, color=colour, fontsize=13, va="top", weight=weight
            )
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("% of gradients")
    for x, text in ((-27.2, "zero"), (-19.5, "subnormal"), (1, "normal"), (20, "infinite")):
        rows[0].text(x, 0.95 * height, text, ha="center", va="top", color=MUTED)
    rows[0].set(ylim=(0, height), xlim=(-45, 24))
    _power_ticks(rows[-1], range(-40, 25, 8))
    rows[-1].set_xlabel("size of an activation's gradient, times the loss scale")
    rows[0].set_title("Scaling the loss lifts gradients out of fp16's zero")
    subtitle(
        rows[0],
        "one step of a trained byte model; dotted: the limits of fp16, 2⁻²⁵, 2⁻¹⁴ and 65504",
    )
    return figure


def _draw_window(scales: pd.DataFrame, training: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 7.8), sharex=True)
    for column, name, colour in (("zero_share", "zero", RED), ("overflow_share", "infinite", BLUE)):
        for kind, style in (("activations", "-"), ("weights", "--")):
            mine = scales[scales["kind"] == kind]
            # A line at 0 % says nothing: draw only where there is a share, and its neighbours.
            seen = (mine[column].rolling(3, center=True, min_periods=1).max() > 0).to_numpy()
            label = f"{name}, of {kind}"
            top.plot(
                mine["scale_log2"][seen], 100 * mine[column][seen], color=colour, lw=3, ls=style, label=label
            )
    top.set(ylabel="% of gradients", ylim=(-4, 104))
    top.legend(loc="upper center", bbox_to_anchor=(0.6, 1.0))
    fp32 = float(training[training["scale_log2"].isna()]["final_loss"].mean())
    trained = training.dropna(subset="scale_log2").groupby("scale_log2")["final_loss"]
    # A run that ended in NaN in any seed has no mean.
    mean = trained.apply(lambda losses: losses.mean(skipna=False))
    bottom.axhline(fp32, color=INK, lw=1.5, ls=":")
    bottom.plot(mean.index, mean, color=GREEN, lw=3, marker="o", ms=7, label="trained at this scale")
    broken = mean.index[mean.isna()]
    crosses = {"marker": "x", "s": 90, "color": BLUE, "lw": 3, "label": "weights became NaN"}
    bottom.scatter(broken, [float(mean.max())] * len(broken), **crosses)
    bottom.legend(loc="upper center", bbox_to_anchor=(0.56, 1.0))
    bottom.text(30, fp32 + 0.05, "fp32", va="bottom", ha="right")
    bottom.set(ylabel="held-out loss, nats per byte", xlabel="loss scale")
    for axes in (top, bottom):
        axes.axvline(0, color=MUTED, lw=1.2)
    _power_ticks(bottom, range(-18, 31, 6))
    top.set_title("Between zero and infinity lies a window of scales that work")
    subtitle(top, "one step of a trained model; scales below 1 stand for gradients smaller than it has")
    text = "whole runs from scratch: their first gradients are larger and overflow sooner"
    bottom.text(0, 1.02, text, transform=bottom.transAxes, color=MUTED, fontsize=11, va="bottom")
    return figure


def _draw_scaler(scaler: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 5.4))
    for start, colour in (("too low", BLUE), ("too high", ORANGE)):
        mine = scaler[scaler["start"] == start]
        axes.step(mine["step"], mine["scale"], where="post", color=colour, lw=2.5, label=f"started {start}")
        skipped = mine[mine["skipped"]]
        label = "step skipped: a gradient was infinite" if start == "too high" else None
        axes.scatter(
            skipped["step"], skipped["scale"], marker="x", s=60, color=RED, lw=2, zorder=3, label=label
        )
    axes.set_yscale("log", base=2)
    axes.set(xlabel="step", ylabel="loss scale")
    axes.legend(loc="lower right")
    axes.set_title("GradScaler climbs until fp16 overflows, then halves")
    subtitle(axes, "doubles after 20 good steps (the default waits 2000), halves and skips after a bad one")
    return figure


def _draw_clipping(clipping: pd.DataFrame, trained: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.2))
    for order, colour in (("unscale, clip", BLUE), ("clip, unscale", RED)):
        mine = clipping[clipping["order"] == order]
        left.plot(mine["scale_log2"], mine["norm_applied"], color=colour, lw=3, marker="o", ms=6, label=order)
        run = trained[trained["order"] == order]
        right.plot(
            run["step"], run["loss"].rolling(10, min_periods=1).mean(), color=colour, lw=3, label=order
        )
    left.set_yscale("log", base=2)
    left.set_yticks([2.0**power for power in range(-18, 1, 6)])
    _power_ticks(left, range(0, 19, 6))
    left.set(xlabel="loss scale", ylabel="norm of the gradient applied")
    left.legend(loc="lower left")
    right.set(xlabel=f"step, at scale {TRAINED_CLIP_SCALE:.0f}", ylabel="training loss, nats per byte")
    left.set_title("Clip after unscaling: else the threshold shrinks with the scale")
    subtitle(left, f"same threshold, {CLIP_NORM:g}, in both orders; SGD")
    return figure
