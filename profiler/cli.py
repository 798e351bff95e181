"""The command line: `profiler VERB`. Verbs import what they need when they run, so that --help is quick."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler import __version__
from profiler.errors import ProfilerError
from profiler.workload import (
    ATTENTION,
    CHECKPOINTING,
    IMPLEMENTATIONS,
    MEMORY_FORMATS,
    OPTIMIZERS,
    PRECISIONS,
)

if TYPE_CHECKING:
    from profiler.workload import Workload


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code.

    0, or 1 after a one-line error (argparse exits with 2 itself), or the verb's own: 3 for a run that does
    not fit the GPU, 4 for a replay that differs.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int | None = options.verb(options)
    except ProfilerError as error:
        print(f"profiler: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nprofiler: stopped; what had finished is kept", file=sys.stderr)
        return 130
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="profiler", description="Every byte of a training step: measured, predicted, explained."
    )
    parser.add_argument("--version", action="version", version=f"profiler {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    for add in (
        _add_run,
        _add_list,
        _add_show,
        _add_predict,
        _add_replay,
        _add_explain,
        _add_fit,
        _add_report,
        _add_diff,
        _add_techniques,
        _add_record_reference,
        _add_compare,
    ):
        add(verbs)
    return parser


def _add_run(verbs: Any) -> None:
    run = verbs.add_parser(
        "run",
        help="run experiments, keep their records and draw their figures",
        description="Run experiments. What has been recorded is not run again, so a stopped run continues.",
        epilog="example: profiler run naive_step --size small",
    )
    run.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="names from `profiler list`")
    run.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    run.add_argument("--size", choices=["small", "full"], default="full", help="default: full")
    run.add_argument("--results", default="results", metavar="FOLDER", help="default: results")
    run.add_argument("--gpu", default="A100-40GB", help="simulated beside the CPU; default: A100-40GB")
    run.add_argument("--limit", metavar="BYTES", help="memory that a run may take, as in 2GiB")
    run.add_argument("--fresh", action="store_true", help="run again what has been recorded")
    run.add_argument(
        "--repredict",
        action="store_true",
        help="predict again what has been recorded, measure only what is new",
    )
    run.set_defaults(verb=_run)


def _add_list(verbs: Any) -> None:
    listing = verbs.add_parser("list", help="the experiments and the questions they answer")
    listing.set_defaults(verb=_list)


def _add_show(verbs: Any) -> None:
    show = verbs.add_parser(
        "show",
        help="tables of what was measured, or simulated, against what was predicted",
        description="Hold a prediction against what was measured, phase by phase, and the formulas against "
        "the simulation too.",
        epilog="example: profiler show results/cpu/naive_step",
    )
    show.add_argument("results", metavar="RESULTS", help="a records.parquet, or a folder of them")
    show.add_argument(
        "--source",
        choices=["formula", "textbook", "simulation"],
        default="formula",
        help="what predicted; default: formula",
    )
    show.add_argument("--workload", metavar="TEXT", help="only workloads whose words contain this")
    show.set_defaults(verb=_show)


def _add_predict(verbs: Any) -> None:
    predict = verbs.add_parser(
        "predict",
        help="what a training step takes of a GPU, without the GPU",
        description="Simulate a training step, allocation by allocation. Exit code 3: it does not fit.",
        epilog="example: profiler predict gpt2 --batch 8 --length 512 --gpu A100-40GB",
    )
    predict.add_argument(
        "model", metavar="MODEL", help="a model's name, or your own code as script.py:function"
    )
    _add_simulation_options(predict)
    predict.add_argument("--json", action="store_true", help="print everything as JSON")
    predict.add_argument("--output", metavar="FOLDER", help="write a timeline figure and records there")
    predict.set_defaults(verb=_predict)


def _add_replay(verbs: Any) -> None:
    replay = verbs.add_parser(
        "replay",
        help="hold a recorded CUDA memory snapshot against the model of the allocator",
        description="Replay a snapshot's requests and compare every address. Exit code 4: it differs.",
    )
    replay.add_argument("snapshot", metavar="SNAPSHOT", help="a file of torch.cuda.memory._dump_snapshot")
    replay.set_defaults(verb=_replay)


def _add_explain(verbs: Any) -> None:
    explain = verbs.add_parser(
        "explain",
        help="what a recorded run allocated that its simulation did not",
        description="Align the allocations of a recording with those of a simulation, and name what only one "
        "of them has. To compare two recordings: `profiler diff`.",
        epilog="example: profiler explain run.pickle --against gpt2 --batch 8 --length 512 --gpu A100-40GB",
    )
    explain.add_argument("snapshot", metavar="SNAPSHOT", help="a file of torch.cuda.memory._dump_snapshot")
    explain.add_argument(
        "--against",
        dest="model",
        required=True,
        metavar="MODEL",
        help="a model's name, or your own code as script.py:function",
    )
    _add_simulation_options(explain)
    explain.set_defaults(verb=_explain)


def _add_techniques(verbs: Any) -> None:
    ranked = verbs.add_parser(
        "techniques",
        help="what each memory technique would save, predicted and ranked",
        description="Rank the techniques and their pairs by formula, then simulate the best (needs no GPU).",
        epilog="example: profiler techniques gpt2 --batch 8 --length 512 --gpu A100-40GB",
    )
    ranked.add_argument("model", metavar="TARGET", help="as in `profiler fit`, such as gpt2")
    _add_simulation_options(ranked)
    ranked.add_argument(
        "--pairs", type=_number, default=10, metavar="N", help="how many of the best pairs; default: 10"
    )
    ranked.set_defaults(verb=_techniques)


def _add_record_reference(verbs: Any) -> None:
    reference = verbs.add_parser(
        "record-reference",
        help="record the reference suite on a GPU, as far as the time goes",
        description="Record the runs and kernel probes that predictions are held against, most informative "
        "first. What has been recorded is not run again, so the same command goes on where it stopped.",
        epilog="example: profiler record-reference --minutes 9",
    )
    reference.add_argument(
        "--device", default="cuda", metavar="DEVICE", help="cuda (default), cpu, or a GPU's name to rehearse"
    )
    reference.add_argument("--size", choices=["small", "full"], default="full", help="default: full")
    reference.add_argument("--minutes", type=float, default=9.0, help="start no run after this; default: 9")
    reference.add_argument("--results", default="results", metavar="FOLDER", help="default: results")
    reference.set_defaults(verb=_record_reference)


def _add_compare(verbs: Any) -> None:
    compare = verbs.add_parser(
        "compare",
        help="formula and simulation, computed now, against a recorded reference",
        epilog="example: profiler compare results/nvidia-h100-80gb-hbm3",
    )
    compare.add_argument("results", metavar="RESULTS_FOLDER", help="of one device; with --page, of all")
    compare.add_argument("--workload", metavar="TEXT", help="only runs whose words contain this, by phase")
    compare.add_argument("--output", metavar="FOLDER", help="write the errors and their figures there")
    compare.add_argument("--tighten", metavar="FILE", help="lower the tests' bounds to what is observed")
    compare.add_argument("--page", metavar="FILE", help="write the page on accuracy, over all recordings")
    compare.set_defaults(verb=_compare)


_WORKLOAD_WORDS = {
    "batch": "samples in a micro-batch",
    "length": "tokens of a sequence, or pixels of an image's side; 0 where the model knows",
    "optimizer": f"one of {', '.join(OPTIMIZERS)}",
    "attention": " or ".join(ATTENTION),
    "micro_batches": "forward and backward passes before an optimizer step",
    "steps": "optimizer steps; the second is the steady state",
    "seed": "of weights and data",
    "optimizer_implementation": f"one of {', '.join(IMPLEMENTATIONS)}",
    "precision": f"one of {', '.join(PRECISIONS)}",
    "checkpointing": f"what is computed again: one of {', '.join(CHECKPOINTING)}",
    "layers": "depth of a built-in model; 0 for its own",
    "memory_format": f"of images and convolutions: one of {', '.join(MEMORY_FORMATS)}",
}


def _add_simulation_options(verb: argparse.ArgumentParser) -> None:
    """The GPU, its allocator, and every field of a workload."""
    from dataclasses import MISSING, fields

    from profiler.workload import Workload

    verb.add_argument(
        "--gpu", default="A100-40GB", help="a GPU's name or a size such as 24GiB; default: A100-40GB"
    )
    verb.add_argument(
        "--allocator-settings", default="", metavar="SETTINGS", help="as PYTORCH_ALLOC_CONF has them"
    )
    for field in fields(Workload):
        if field.name == "model":
            continue
        default = 1 if field.default is MISSING else field.default
        words = f"{_WORKLOAD_WORDS[field.name]}; default: {default}"
        metavar = "N" if isinstance(default, int) else "NAME"
        option = f"--{field.name.replace('_', '-')}"
        verb.add_argument(option, type=type(default), default=default, metavar=metavar, help=words)


def _number(text: str) -> int:
    """How many; argparse makes one line of the error."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _add_fit(verbs: Any) -> None:
    fit = verbs.add_parser(
        "fit",
        help="will it fit on a GPU, with which batch at most, and what would help (needs no GPU)",
        description="Simulate a training step of any model on a GPU that need not be there.",
        epilog="examples: profiler fit gpt2 --batch 8 --length 1024 --gpu A100-40GB; "
        "profiler fit train.py:make_model --batch 32; "
        "profiler fit LlamaConfig --batch 1 --length 2048 --gpu H100. "
        "Exit codes: 0 fits, 3 does not fit, 1 error.",
    )
    fit.add_argument(
        "target",
        metavar="TARGET",
        help="a model's name, FILE.py:FUNCTION or MODULE:FUNCTION returning a module, or a transformers "
        "configuration (class or config.json)",
    )
    _add_simulation_options(fit)
    fit.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of a transformers configuration",
    )
    fit.add_argument(
        "--context", metavar="SIZE", help="memory to set aside for the CUDA context; default: 1GiB"
    )
    fit.add_argument("--no-largest", action="store_true", help="do not search for the largest batch")
    fit.add_argument("--no-techniques", action="store_true", help="do not try what would help")
    fit.add_argument(
        "--verify", action="store_true", help="run the real step too, on the CUDA device that is here"
    )
    fit.add_argument("--json", action="store_true", help="print the answer as JSON")
    fit.set_defaults(verb=_fit)


def _add_report(verbs: Any) -> None:
    report = verbs.add_parser(
        "report",
        help="a run or a folder of results as one HTML page; a simulated run for memory_viz or Perfetto",
        description="Write one HTML file that needs no network: of a training step that is simulated now, of "
        "a CUDA memory snapshot or a saved run, or of a folder of results.",
        epilog="examples: profiler report gpt2 --batch 8 --length 512 --memory-viz gpt2.pickle; "
        "profiler report snapshot.pickle -o snapshot.html; profiler report results/cpu -o results.html",
    )
    report.add_argument(
        "model",
        metavar="TARGET",
        help="as in `profiler fit`, or a snapshot, a saved run, a results folder",
    )
    _add_simulation_options(report)
    report.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="as in `profiler fit`"
    )
    report.add_argument("-o", "--output", default="report.html", metavar="FILE", help="default: report.html")
    report.add_argument("--memory-viz", metavar="FILE", help="a snapshot for pytorch.org/memory_viz")
    report.add_argument("--trace", metavar="FILE", help="counters for ui.perfetto.dev")
    report.add_argument("--save", metavar="FILE", help="the run itself, for a later `profiler diff`")
    report.set_defaults(verb=_report)


def _add_diff(verbs: Any) -> None:
    diff = verbs.add_parser(
        "diff",
        help="what grew between two runs, or two folders of records: by category, module and line",
        description="Compare the allocated bytes at the peaks of two runs: the differences of the parts sum "
        "to that of the peaks. The runs of two folders are paired by workload, and by device where there are "
        "several.",
        epilog="example: profiler report gpt2 --length 512 --save before.parquet; "
        "profiler report gpt2 --length 768 --save after.parquet; "
        "profiler diff before.parquet after.parquet --output grew.png",
    )
    kinds = "file of `profiler report --save` or recording.save(), CUDA memory snapshot, or results folder"
    diff.add_argument("before", metavar="A", help=kinds)
    diff.add_argument("after", metavar="B", help="another of the kind")
    diff.add_argument(
        "--top", type=_number, default=10, metavar="N", help="parts or runs to show; default: 10"
    )
    diff.add_argument("--output", metavar="FILE", help="a picture of what grew, as .png or .svg")
    diff.add_argument("--json", action="store_true", help="print every part as JSON")
    diff.set_defaults(verb=_diff)


def _run(options: argparse.Namespace) -> None:
    from profiler.gpu.cards import find_gpu
    from profiler.units import parse_bytes
    from profiler.verbs.run import RunOptions, run

    run(
        options.experiments,
        RunOptions(
            device_type=options.device,
            size=options.size,
            results=Path(options.results),
            gpu=find_gpu(options.gpu),
            limit_bytes=parse_bytes(options.limit) if options.limit else None,
            fresh=options.fresh,
            repredict=options.repredict,
        ),
    )


def _fit(options: argparse.Namespace) -> int:
    from dataclasses import fields

    from profiler.verbs.fit import FitOptions, run
    from profiler.workload import Workload

    said = {f.name: getattr(options, f.name) for f in fields(Workload) if f.name != "model"}
    return run(
        FitOptions(
            target=options.target,
            gpu=options.gpu,
            workload=said,
            settings=options.set,
            context=options.context,
            allocator_settings=options.allocator_settings,
            with_largest=not options.no_largest,
            with_techniques=not options.no_techniques,
            as_json=options.json,
            verify=options.verify,
        )
    )


def _report(options: argparse.Namespace) -> None:
    from dataclasses import fields

    from profiler.verbs.report import ReportOptions, report
    from profiler.workload import Workload

    report(
        ReportOptions(
            workload=Workload(**{field.name: getattr(options, field.name) for field in fields(Workload)}),
            settings=options.set,
            gpu=options.gpu,
            allocator_settings=options.allocator_settings,
            html=Path(options.output),
            memory_viz=Path(options.memory_viz) if options.memory_viz else None,
            trace=Path(options.trace) if options.trace else None,
            save=Path(options.save) if options.save else None,
        )
    )


def _diff(options: argparse.Namespace) -> None:
    from profiler.verbs.diff import DiffOptions, diff

    output = Path(options.output) if options.output else None
    diff(DiffOptions(Path(options.before), Path(options.after), options.top, output, options.json))


def _techniques(options: argparse.Namespace) -> None:
    from dataclasses import fields

    from profiler.verbs.techniques import TechniquesOptions, techniques
    from profiler.workload import Workload

    workload = Workload(**{field.name: getattr(options, field.name) for field in fields(Workload)})
    techniques(TechniquesOptions(workload, options.gpu, options.allocator_settings, options.pairs))


def _list(options: argparse.Namespace) -> None:
    from profiler.verbs.list import print_questions

    print_questions()


def _show(options: argparse.Namespace) -> None:
    from profiler.verbs.show import show

    show(Path(options.results), options.source, options.workload)


def _predict(options: argparse.Namespace) -> int:
    from profiler.verbs.predict import PredictOptions, predict

    output = Path(options.output) if options.output else None
    settings = options.allocator_settings
    return predict(PredictOptions(_target(options), options.gpu, settings, options.json, output))


def _target(options: argparse.Namespace) -> Workload | str:
    """The workload that the options say, or the user's function as it is."""
    from dataclasses import fields

    from profiler.runs.prediction import is_reference
    from profiler.workload import Workload

    if is_reference(options.model):
        return str(options.model)
    return Workload(**{field.name: getattr(options, field.name) for field in fields(Workload)})


def _replay(options: argparse.Namespace) -> int:
    from profiler.verbs.replay import replay

    return replay(Path(options.snapshot))


def _explain(options: argparse.Namespace) -> None:
    from profiler.verbs.explain import explain

    explain(Path(options.snapshot), _target(options), options.gpu, options.allocator_settings)


def _record_reference(options: argparse.Namespace) -> None:
    from profiler.reference.campaign import Campaign
    from profiler.reference.target import Target
    from profiler.verbs.record_reference import record_reference

    target, results = Target.parse(options.device), Path(options.results)
    record_reference(Campaign(target, results, options.size, options.minutes))


def _compare(options: argparse.Namespace) -> None:
    from profiler.verbs.compare import CompareOptions, compare

    output, tighten, page = (
        Path(path) if path else None for path in (options.output, options.tighten, options.page)
    )
    compare(CompareOptions(Path(options.results), options.workload, output, tighten, page))


if __name__ == "__main__":
    sys.exit(main())
