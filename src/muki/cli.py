"""The command line: thin commands over the package, clear errors, no logic."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from muki import cli_look
from muki.cli_base import CurrentRun, Run, config_of, guarded, one_speaks, trained_student
from muki.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One classifier from many, without labels: integrate fine-tuned text classifiers into one student over all "
    "their labels, with unlabelled texts.",
)

Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="change a setting, e.g. training.epochs=2")]
RemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with a checkpoint")]


def main() -> None:
    """Entry point of the `muki` command."""
    app()


@app.callback(invoke_without_command=True)
def _options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="only warnings and results")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="show tracebacks and debug messages")] = False,
    version: Annotated[bool, typer.Option("--version", help="show the version and exit")] = False,
) -> None:
    if version:
        from muki import __version__

        typer.echo(f"muki {__version__}")
        raise typer.Exit
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("muki")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def _show(folder: Path, metrics: dict[str, Any]) -> None:
    from muki.evaluation.table import summary

    student = folder / "student"
    typer.echo("\n" + summary(metrics))
    if metrics["method"]["student"] == "none":  # one that lies there is of earlier settings
        typer.echo(
            f"\nno student (this method lets the teachers answer)\nmetrics: {folder / 'report' / 'metrics.json'}"
        )
        return
    typer.echo(f"\nstudent: {student}\nmetrics: {folder / 'report' / 'metrics.json'}")
    typer.echo(f"report:  {folder / 'report' / 'report.html'}")
    typer.echo(f'use it:  pipeline("text-classification", model="{student}", truncation=True)')
    if prefix := trained_student(str(student)).prefix:
        typer.echo(f'         with "{prefix}" before each text')


@app.command()
@guarded
def integrate(
    teacher: Annotated[list[str], typer.Option("--teacher", "-t", help="folder or Hub id; give two or more")],
    student: Annotated[str, typer.Option(help="folder or Hub id the student starts from")],
    texts: Annotated[
        str, typer.Option(help="unlabelled texts: jsonl, csv, tsv, txt, parquet, folder, or Hub data set")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="run folder; a second call continues there")],
    test: Annotated[str | None, typer.Option(help="labelled texts, for evaluation only")] = None,
    method: Annotated[str | None, typer.Option(help="a preset: muki-plus (default), muki, vanilla-kd, …")] = None,
    text_column: Annotated[str, typer.Option(help="column of the text")] = "text",
    label_column: Annotated[str, typer.Option(help="column of the gold label in the test file")] = "label",
    max_length: Annotated[int, typer.Option(help="tokens per text, for teachers and student")] = 128,
    set_: Set = [],  # noqa: B006
    trust_remote_code: RemoteCode = False,
) -> None:
    """Teachers and unlabelled texts in, one student out.

    Example: muki integrate -t teachers/a -t teachers/b --student BASE --texts pool.jsonl --test test.jsonl -o run
    """
    from muki.config import make_config
    from muki.overrides import apply_overrides

    content: dict[str, Any] = {
        "teachers": [{"model": model, "max_length": max_length} for model in teacher],
        "student": {"model": student, "max_length": max_length},
        "texts": {"path": texts, "text": text_column},
        **({"method": method} if method else {}),
        "training": {},
        "output": output,
        "trust_remote_code": trust_remote_code,
    }
    if test:
        content["test"] = {"path": test, "label": label_column}
    _run(make_config(apply_overrides(content, set_), "muki integrate").absolute())


@app.command()
@guarded
def run(
    run_file: Annotated[Path, typer.Argument(metavar="RUN", help="YAML file, or a run folder to continue")],
    set_: Set = [],  # noqa: B006
) -> None:
    """The whole way from one YAML file; finished stages are reused.

    Example: muki run run.yaml --set training.epochs=2
    """
    _run(config_of(run_file, set_))


def _run(config: Any) -> None:
    from muki.pipeline import run_all

    CurrentRun.names(config)
    result = run_all(config)
    _show(result.folder, result.metrics)


@app.command()
@guarded
def score(
    run: Run,
    processes: Annotated[int | None, typer.Option(min=1, help="share the work among processes on this machine")] = None,
    shard_of: Annotated[str | None, typer.Option(metavar="I/N", help="only this part, e.g. of a job array")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for a cluster (extra 'ray')")] = "local",
    address: Annotated[str | None, typer.Option(help="of the Ray cluster; by default one on this machine")] = None,
    prepared: Annotated[bool, typer.Option("--prepared", help="trust that texts and teachers were looked at")] = False,
    set_: Set = [],  # noqa: B006
) -> None:
    """One stage alone: every teacher reads every text. Only shards without a usable file are scored.

    Example: muki score run.yaml --processes 2

    Several machines share the work by files alone: `muki score run.yaml --shard-of 3/16` in a job array, or
    `torchrun --nproc-per-node 2 -m muki score run.yaml`.
    """
    from muki import pipeline
    from muki.engines.work import Part

    config = config_of(run, [*set_, *([f"scoring.processes={processes}"] if processes else [])])
    if engine not in get_args(pipeline.Engine):
        raise ConfigError(f"--engine {engine}: unknown; known: {', '.join(get_args(pipeline.Engine))}")
    if address is not None and engine != "ray":
        raise ConfigError(f"--address {address}: is of a Ray cluster; add --engine ray, or leave it out")
    if shard_of is not None and processes is not None:
        raise ConfigError(f"--processes {processes}: with --shard-of each call is one process; leave one of them out")
    for option, given in (("--processes", processes), ("--shard-of", shard_of)):
        if engine == "ray" and given is not None:
            raise ConfigError(f"{option} {given}: with --engine ray the cluster shares the work; leave one of them out")
    part = Part.parse(shard_of) if shard_of else None
    pipeline.score(config, part=part, prepared=prepared, engine=cast(Any, engine), address=address)


@app.command()
@guarded
def supervise(run: Run, set_: Set = []) -> None:  # noqa: B006
    """One stage alone: targets and weights from the scores.

    Example: muki supervise run
    """
    from muki import pipeline

    pipeline.supervise(config_of(run, set_))


@app.command()
@guarded
def train(run: Run, set_: Set = []) -> None:  # noqa: B006
    """One stage alone: the student learns the supervision; continues from a checkpoint.

    Example: accelerate launch -m muki train run
    """
    from muki import pipeline

    one_speaks()
    pipeline.train(config_of(run, set_))


@app.command()
@guarded
def evaluate(
    run: Run,
    labels: Annotated[str | None, typer.Option(help="to-label.csv of the report, with labels filled in")] = None,
    set_: Set = [],  # noqa: B006
) -> None:
    """One stage alone: metrics, report and model card of a trained student.

    Example: muki evaluate run
    """
    from muki import pipeline

    config = config_of(run, set_, only_looks=labels is not None)
    if labels is not None:
        from muki.evaluation.labelled import labelled_summary

        typer.echo(labelled_summary(pipeline.evaluate_labelled(config, labels)))
        return
    _show(Path(config.output), pipeline.evaluate(config))


@app.command()
@guarded
def predict(
    model: Annotated[str, typer.Argument(help="run folder, save_pretrained folder or Hub id")],
    texts: Annotated[str, typer.Option(help="texts in any form that integrate takes; -: lines of standard input")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON Lines: id, label, score, probabilities; -: standard output")
    ],
    text_column: Annotated[str, typer.Option(help="column of the text")] = "text",
    text_pair_column: Annotated[str | None, typer.Option(help="column of the second text of a pair; the run's")] = None,
    prefix: Annotated[
        str | None, typer.Option(help='put before each text, e.g. "query: "; what a run\'s student was trained with')
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="tokens per text; the model's own by default")] = None,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Classify a stream of texts; ids and order are kept.

    Example: muki predict run/student --texts in.jsonl --output out.jsonl
    """
    from muki.predict import Classifier, predict_file, write_predictions
    from muki.progress import progress
    from muki.texts import Columns, read, read_lines

    student = trained_student(model)
    if student.text_pair and texts == "-":
        raise ConfigError(
            f"muki predict: this student reads pairs (text_pair: {student.text_pair}); give them in a file with columns"
        )
    columns = Columns(text=text_column, text_pair=text_pair_column or student.text_pair)
    if texts == "-" and columns != Columns():
        raise ConfigError("muki predict: standard input has no columns; leave --text-column and --text-pair-column out")
    source = read_lines("standard input", sys.stdin.buffer) if texts == "-" else read(texts, columns)
    prefix = student.prefix if prefix is None else prefix
    classifier = Classifier.load(
        student.model, prefix=prefix, max_length=max_length, trust_remote_code=trust_remote_code
    )
    with progress("predicting", None, "texts") as advance:
        if output == Path("-"):
            write_predictions(classifier, source, sys.stdout, advance)
        else:
            typer.echo(f"{predict_file(classifier, source, output, advance)} predictions in {output}")


@app.command()
@guarded
def finetune(
    base: Annotated[str, typer.Option(help="folder or Hub id of an encoder")],
    texts: Annotated[str, typer.Option(help="labelled texts in any form that integrate takes")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the teacher")],
    labels: Annotated[str | None, typer.Option(help="a,b,c or @file with one a line; all by default")] = None,
    text_column: Annotated[str, typer.Option(help="column of the text")] = "text",
    label_column: Annotated[str, typer.Option(help="column of the label")] = "label",
    max_length: Annotated[int, typer.Option(help="tokens per text")] = 128,
    prefix: Annotated[str, typer.Option(help='put before each text, e.g. "query: "')] = "",
    set_: Set = [],  # noqa: B006
    trust_remote_code: RemoteCode = False,
) -> None:
    """A teacher from labelled texts, only those labels.

    Example: muki finetune --base BASE --texts train.jsonl --labels sports,politics -o teachers/a --set epochs=3
    """
    from muki.config import TrainingConfig
    from muki.finetuning import finetune as finetune_texts
    from muki.overrides import apply_overrides
    from muki.texts import Columns
    from muki.validation import validated

    overrides = [item.removeprefix("training.") for item in set_]
    training = validated(TrainingConfig, apply_overrides({}, overrides), "muki finetune")
    finetune_texts(
        base, texts, output, labels=_label_list(labels), columns=Columns(text=text_column, label=label_column),
        training=training, max_length=max_length, prefix=prefix, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    typer.echo(f"teacher: {output}")


@app.command()
@guarded
def compare(
    grid: Annotated[Path, typer.Argument(metavar="GRID.yaml", help="data sets, settings, methods, seeds")],
    part: Annotated[str | None, typer.Option(metavar="I/N", help="only this part of the groups")] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option("--known", metavar="RESULTS.json", help="of the same grid elsewhere: its cells are not repeated"),
    ] = None,
) -> None:
    """Methods against each other: data sets × settings × methods × seeds; what is done is not repeated.

    Example: muki compare grid.yaml (benchmarks/README.md says what lies beside a grid, and where data comes from)
    """
    from muki.experiments.grid import load_grid

    settings = load_grid(grid)  # before heavy imports: a wrong path is answered at once

    from muki.engines.work import Part
    from muki.experiments.harness import adopt, collect, compare as run_grid, write_results
    from muki.experiments.results import read_records

    mine = Part.parse(part, "--part") if part else None
    for path in known or []:
        adopt(settings, read_records(path))
    run_grid(settings, mine)
    typer.echo(write_results(settings))
    if any("error" in record for record in collect(settings)):
        raise typer.Exit(1)


@app.command()
@guarded
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for teachers and run")] = Path("muki-demo"),
) -> None:
    """A help desk with two teams: fine-tune a teacher for each, integrate them, compare. A few minutes on a CPU.

    Example: muki demo
    """
    from muki.demo import run_demo
    from muki.run_folder import RunFolder

    CurrentRun.config, CurrentRun.settings = RunFolder(output / "run").config, None
    result = run_demo(output)
    _show(result.folder, result.metrics)


def _label_list(labels: str | None) -> list[str] | None:
    if labels is None:
        return None
    if labels.startswith("@"):
        path = Path(labels[1:])
        if not path.is_file():
            raise ConfigError(f"--labels {labels}: no such file; give a,b,c or @file with one label a line")
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [label.strip() for label in labels.split(",") if label.strip()]


for _command in cli_look.COMMANDS:
    app.command()(_command)
