"""The student's model card."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

import muki
from muki.config import IN_MEMORY, RunConfig
from muki.evaluation.method_words import how_it_was_made, reference, weighs_foreign, whom_it_hears
from muki.evaluation.outlook import notable_foreign_share
from muki.files import public_name, replacing
from muki.labels import LabelSpace
from muki.methods import Method, preset_name
from muki.run_folder import RunFolder
from muki.teachers.provenance import licence_warnings, provenance
from muki.teachers.records import TeacherRecord

_ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")
_TEMPLATE = Path(__file__).parent / "templates" / "card.md"


def write_card(
    run: RunFolder, config: RunConfig, space: LabelSpace, records: list[TeacherRecord], metrics: dict[str, Any]
) -> None:
    """Write `README.md` into the student's folder."""
    name = run.root.name
    revisions = {teacher.name: teacher.revision for teacher in config.teachers}
    origins = {record.name: provenance(record.source, revisions[record.name]) for record in records}
    licences = {name: origin.licence for name, origin in origins.items()}
    licences["the student's start"] = provenance(config.student.model).licence
    agreement = metrics["pool"]["held_out"].get("student_target_agreement", math.nan)
    outlook = metrics["pool"].get("routing", {})
    refined, named = (bool(metrics["pool"].get(key)) for key in ("refined", "names_heard"))
    card = ModelCard.from_template(
        card_data=_card_data(name, config, metrics, licences),
        template_path=str(_TEMPLATE),
        title=name,
        labels=[
            {"name": _cell(label), "teachers": space.knowers(label), "share": metrics["pool"]["label_share"][label]}
            for label in space.labels
        ],
        teachers=records,
        licences=licences,
        warnings=licence_warnings(licences),
        settings=_settings(config),
        made=how_it_was_made(config.method, len(records), metrics["pool"]["texts"]),
        max_length=config.student.max_length,
        prefix=config.student.prefix,
        method=f"`{preset_name(config.method)}`: {config.method.spelled_out()}",
        hears=whom_it_hears(config.method, refined, named),
        reference=_ARXIV.sub(r"[\g<0>](https://arxiv.org/abs/\1)", reference(config.method)),
        version=muki.__version__,
        test={"n": metrics["test"]["texts"], **metrics} if "test" in metrics else None,
        agreement="an unknown share" if math.isnan(agreement) else f"{100 * agreement:.1f} %",
        foreign=foreign_limit(config.method, metrics),
        expected=f"{100 * outlook['expected_accuracy']:.1f} %" if refined and outlook else None,
    )
    with replacing(run.student / "README.md") as temporary:
        temporary.write_text(str(card), encoding="utf-8")


def foreign_limit(method: Method, metrics: dict[str, Any]) -> str | None:
    """What a reader should know of texts in the pool that belong to none of the labels; None where there is nothing."""
    if (share := notable_foreign_share(metrics)) is None:
        return None
    counted = " and counted little in training" if weighs_foreign(method) else ""
    return (
        f"About {100 * share:.0f} % of the unlabelled texts seemed to belong to none of its labels{counted}; this is a "
        "rough estimate, made without labels."
    )


def _settings(config: RunConfig) -> str:
    """The run file, with names in the place of local folders: what another needs to do the run again."""
    content = config.model_dump(mode="json", exclude={"output", "trust_remote_code"}, exclude_defaults=True)
    for section, key in [
        *((teacher, "model") for teacher in content["teachers"]),
        (content["student"], "model"),
        (content["texts"], "path"),
        *([(content["test"], "path")] if "test" in content else []),
    ]:
        given = section[key]
        section[key] = section.get("name", f"{key}/to/these") if given == IN_MEMORY else public_name(given)
    content["method"] = config.method.model_dump(mode="json")
    return str(yaml.safe_dump({**content, "output": "run"}, sort_keys=False, allow_unicode=True, width=100)).rstrip()


def _card_data(name: str, config: RunConfig, metrics: dict[str, Any], licences: dict[str, str | None]) -> ModelCardData:
    """Metadata: teachers and student base that are on the Hub as `base_model`, results as a model index."""
    sources = [*(teacher.model for teacher in config.teachers), config.student.model]
    bases = sorted({source for source in sources if source != IN_MEMORY and not Path(source).is_absolute()})
    results = None
    if "test" in metrics:
        test = Path(metrics["test"]["source"]).name
        results = [
            EvalResult(
                task_type="text-classification",
                dataset_type="custom",
                dataset_name=test,
                metric_type=metric,
                metric_value=round(metrics["student"][key], 4),
                metric_args={"interval_95": [round(end, 4) for end in metrics["student"][f"{key}_interval"]]},
            )
            for metric, key in (("accuracy", "accuracy"), ("f1", "macro_f1"))
        ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["text-classification", "knowledge-integration", "distillation", "muki"],
        base_model=bases or None,
        license=common.pop() if len(common := set(licences.values())) == 1 else None,
        model_name=name,
        eval_results=results,
    )


def _cell(text: str) -> str:
    """Text safe in a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
