"""The command line: `profiler VERB`. Verbs import what they need when they run, so that --help is quick."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from profiler import __version__
from profiler.errors import ProfilerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit code: 0 or what the verb says, 1 after a one-line error (argparse: 2)."""
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
    run.add_argument("--limit", metavar="BYTES", help="memory that a run may take, as in 2GiB")
    run.add_argument("--fresh", action="store_true", help="run again what has been recorded")
    run.set_defaults(verb=_run)

    listing = verbs.add_parser("list", help="the experiments and the questions they answer")
    listing.set_defaults(verb=_list)

    show = verbs.add_parser(
        "show",
        help="a table of measured against predicted",
        epilog="example: profiler show results/cpu/naive_step",
    )
    show.add_argument("results", metavar="RESULTS", help="a records.parquet, or a folder of them")
    show.add_argument("--source", default="formula", help="formula (default), textbook or simulation")
    show.add_argument("--workload", metavar="TEXT", help="only workloads whose words contain this")
    show.set_defaults(verb=_show)

    _add_fit(verbs)
    return parser


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
    fit.add_argument("--batch", type=int, required=True, metavar="N", help="samples in a micro-batch")
    fit.add_argument(
        "--length", type=int, default=0, metavar="N", help="tokens of a sequence, or pixels of an image's side"
    )
    for name, about in _WORKLOAD_OPTIONS.items():
        fit.add_argument(f"--{name.replace('_', '-')}", metavar="NAME", help=about)
    fit.add_argument("--micro-batches", type=int, metavar="N", help="gradient accumulation; default: 1")
    fit.add_argument(
        "--gpu", default="A100-40GB", metavar="NAME|SIZE", help="as in H100, or 24GiB; default: A100-40GB"
    )
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


_WORKLOAD_OPTIONS = {
    "optimizer": "adam (default), sgd, momentum, ...",
    "attention": "sdpa (default) or eager",
}


def _run(options: argparse.Namespace) -> None:
    from profiler.units import parse_bytes
    from profiler.verbs.run import RunOptions, run

    run(
        options.experiments,
        RunOptions(
            device_type=options.device,
            size=options.size,
            results=Path(options.results),
            limit_bytes=parse_bytes(options.limit) if options.limit else None,
            fresh=options.fresh,
        ),
    )


def _fit(options: argparse.Namespace) -> int:
    from profiler.verbs.fit import FitOptions, run

    names = ("batch", "length", "micro_batches", *_WORKLOAD_OPTIONS)
    said = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return run(
        FitOptions(
            target=options.target,
            gpu=options.gpu,
            workload=said,
            settings=options.set,
            context=options.context,
            with_largest=not options.no_largest,
            with_techniques=not options.no_techniques,
            as_json=options.json,
            verify=options.verify,
        )
    )


def _list(options: argparse.Namespace) -> None:
    from profiler.catalog import questions

    for name, question in questions().items():
        print(f"{name:24}{question}")


def _show(options: argparse.Namespace) -> None:
    from profiler.verbs.show import show

    show(Path(options.results), options.source, options.workload)


if __name__ == "__main__":
    sys.exit(main())
