"""The command line: `profiler VERB`. Verbs import what they need when they run, so that --help is quick."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from profiler import __version__
from profiler.errors import ProfilerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0, or 1 after a one-line error (argparse exits with 2 itself)."""
    options = _parser().parse_args(arguments)
    try:
        options.verb(options)
    except ProfilerError as error:
        print(f"profiler: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nprofiler: stopped; what had finished is kept", file=sys.stderr)
        return 130
    return 0


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

    ranked = verbs.add_parser(
        "techniques",
        help="what each memory technique would save, predicted and ranked",
        epilog="example: profiler techniques gpt2 --batch 8 --length 512 --device cuda",
    )
    ranked.add_argument("model", metavar="MODEL", help="such as gpt2 or bert-large")
    ranked.add_argument("--batch", type=int, default=1, help="samples in a step (default: 1)")
    ranked.add_argument("--length", type=int, default=0, help="tokens, or pixels of a side")
    ranked.add_argument("--optimizer", default="adam", help="default: adam")
    ranked.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="default: cuda")
    ranked.set_defaults(verb=_techniques)
    return parser


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


def _techniques(options: argparse.Namespace) -> None:
    from profiler.verbs.techniques import techniques
    from profiler.workload import Workload

    workload = Workload(options.model, options.batch, options.length, options.optimizer)
    techniques(workload, options.device)


def _list(options: argparse.Namespace) -> None:
    from profiler.catalog import questions

    for name, question in questions().items():
        print(f"{name:24}{question}")


def _show(options: argparse.Namespace) -> None:
    from profiler.verbs.show import show

    show(Path(options.results), options.source, options.workload)


if __name__ == "__main__":
    sys.exit(main())
