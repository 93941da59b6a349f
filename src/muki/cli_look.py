"""Commands to look: before a run at what it would be made of, after it at what came out.

What can be wrong with a call is looked at before heavy imports, so that the answer does not take seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from muki.cli_base import Run, config_of, guarded
from muki.errors import ConfigError


@guarded
def report(
    run: Run,
    other: Annotated[Path | None, typer.Argument(metavar="[RUN_B]", help="a second run, to set beside it")] = None,
) -> None:
    """The page that says what came out and whether to trust it; two runs are set side by side.

    Example: muki report run
    """
    configs = [config_of(one, only_looks=True) for one in (run, other) if one is not None]

    from muki.report.make import write_comparison, write_report
    from muki.run_folder import RunFolder
    from muki.stale import require_described

    runs = [(RunFolder(Path(config.output)), config) for config in configs]
    for folder, config in runs:
        require_described(config, folder)
    page = write_report(*runs[0]) if other is None else write_comparison(*runs)
    typer.echo(f"report: {page}")


@guarded
def explain(
    run: Run,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="one text")] = None,
    texts: Annotated[str | None, typer.Option(help="texts in any form that integrate takes")] = None,
    pair: Annotated[str | None, typer.Option(help="second text of the one text, where the run's are pairs")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines in the place of tables")] = False,
) -> None:
    """Why a text gets its label: each teacher's word, who is heard, target and student, and a sentence.

    Example: muki explain run "the parcel never came"
    """
    if (text is None) == (texts is None):
        raise ConfigError('muki explain: give one text in quotes, or --texts FILE; e.g. muki explain run "a text"')
    if text is not None and not text.strip():
        raise ConfigError('muki explain: the text is empty; give one with words in it, e.g. muki explain run "a text"')
    if texts is not None and pair is not None:
        raise ConfigError(
            "muki explain: --pair is the second text of one text in quotes; in a file it is the column that the run's "
            "texts have it in (texts: {text_pair: …}), so leave --pair out"
        )
    config = config_of(run, only_looks=True)

    from muki.explain import explain as explain_texts
    from muki.explanation import rendered
    from muki.texts import Columns, Text, read

    columns = Columns(text=config.texts.text, text_pair=config.texts.text_pair)
    asked = [Text(0, text, pair)] if text is not None else list(read(texts or "", columns))
    for one in explain_texts(config, asked):
        typer.echo(json.dumps(one.as_json(), ensure_ascii=False) if as_json else rendered(one) + "\n")


@guarded
def inspect(
    paths: Annotated[list[str], typer.Argument(metavar="RUN", help="YAML file; with --init two or more teachers")],
    init: Annotated[bool, typer.Option("--init", help="write a commented run file for these teachers")] = False,
    texts: Annotated[str | None, typer.Option(help="with --init: unlabelled texts in any form")] = None,
    text_column: Annotated[str, typer.Option(help="with --init: column of the text")] = "text",
    student: Annotated[str | None, typer.Option(help="with --init: what the student starts from")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="with --init: the run file")] = Path("run.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="JSON in the place of tables")] = False,
) -> None:
    """Before time is spent: teachers, labels, texts, a scored sample, what is wrong, and what the run would cost.

    Example: muki inspect run.yaml

    Exits with 1 where something would stop the run.

    A run file to start from: `muki inspect --init teachers/a teachers/b --texts pool.jsonl`.
    """
    if init:
        return _init(paths, texts, text_column, student, output)
    if len(paths) != 1:
        raise ConfigError(f"muki inspect: one run file is expected, found {len(paths)}; for teachers add --init")
    if (texts, text_column, student, output) != (None, "text", None, Path("run.yaml")):
        raise ConfigError(
            "muki inspect: --texts, --text-column, --student and --output go with --init; a run file says its own"
        )
    config = config_of(Path(paths[0]), only_looks=True)

    from muki.inspection.look import inspect as look
    from muki.inspection.render import rendered

    seen = look(config)
    typer.echo(json.dumps(seen.as_json(), ensure_ascii=False, indent=2) if as_json else rendered(seen))
    if any(one.level == "problem" for one in seen.findings):
        raise typer.Exit(1)
    return None


def _init(models: list[str], texts: str | None, text_column: str, student: str | None, output: Path) -> None:
    if texts is None:
        raise ConfigError("muki inspect --init: give the unlabelled texts with --texts FILE")
    if output.exists():
        raise ConfigError(f"muki inspect --init: '{output}' is there already; choose another with --output")

    from muki.files import write_text
    from muki.inspection.start import run_file

    write_text(output, run_file(models, texts, text_column, student))
    typer.echo(f"run file: {output}; look at it, then: muki inspect {output}")


@guarded
def push(
    run: Run,
    repo: Annotated[str, typer.Option(help="name or owner/name on the Hub; made where it is not there yet")],
    public: Annotated[bool, typer.Option("--public", help="a new repository can be seen by everyone")] = False,
    report: Annotated[bool, typer.Option(help="upload the report too, which quotes texts of the pool")] = True,
) -> None:
    """Upload student, card and report to the Hub, with the token that `hf auth login` keeps.

    Example: muki push run --repo my-team/help-desk
    """
    config = config_of(run, only_looks=True)

    from muki.publishing.hub import push as push_run
    from muki.run_folder import RunFolder

    pushed = push_run(RunFolder(Path(config.output)), repo, public=public, report=report)
    typer.echo(f"{pushed.url}: {len(pushed.files)} files")
    if any(name.startswith("report/") for name in pushed.files):
        typer.echo("the report quotes texts of the pool; leave it out with --no-report")


@guarded
def export(
    run: Run,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder")],
    format_: Annotated[str, typer.Option("--format", help="onnx")] = "onnx",
) -> None:
    """The student in another format, with a check that it gives the same answers.

    Example: muki export run --format onnx -o student-onnx
    """
    if format_ != "onnx":
        raise ConfigError(f"--format {format_}: unknown; known: onnx")
    if output.exists():
        raise ConfigError(f"muki export: '{output}' is there already; choose another with --output")
    config = config_of(run, only_looks=True)

    from muki.publishing.onnx import export_onnx, sample_texts
    from muki.run_folder import RunFolder
    from muki.texts import TextShards

    folder = RunFolder(Path(config.output))
    pool = TextShards.load(folder.texts("pool"))
    texts = sample_texts(pool.read(pool.shards[0])) if pool else ["a short text", "another, somewhat longer text"]
    difference = export_onnx(folder.student, output, texts, trust_remote_code=config.trust_remote_code)
    typer.echo(f"{output / 'model.onnx'}: logits within {difference:.1e} of the student's on {len(texts)} texts")


COMMANDS = (inspect, report, explain, push, export)
