"""Scoring and training together against the usual schedule, and whether the students are equally good.

    python benchmarks/score_and_train.py --data DIR [--set google_snippets] [--work DIR] [--output FILE.json]

Usual schedule: K = 16 scoring as in `scoring.py`; then three epochs in float32, every text padded to 128 tokens,
batches of 32, where each step runs every teacher again for its distributions. Ours: `muki score`, `supervise` and
`train` of the preset `muki`, all that they do included. Both students learn the same supervision, three seeds each, at
1e-4. Half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scoring import MAX_LENGTH, K, interleaved, machine, prepare, read_rows, reference_pass, timed
from transformers import get_linear_schedule_with_warmup

from muki import pipeline
from muki.config import RunConfig, make_config
from muki.demo import packaged_encoder
from muki.evaluation.metrics import accuracy
from muki.integration.store import Supervision, load_supervision
from muki.labels import LabelSpace
from muki.predict import Classifier
from muki.run_folder import RunFolder
from muki.student.losses import integration_loss
from muki.student.model import load_student
from muki.teachers.loading import Teacher
from muki.texts import Text

EPOCHS = 3
LEARNING_RATE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", dest="name", default="google_snippets")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    teachers, pool = prepare(args.data / args.name, args.work / args.name)
    pool = pool[: args.texts]
    test = [Text(i, row["text"], label=row["label"]) for i, row in enumerate(read_rows(args.data / args.name, "test"))]
    few = pool[:128]
    scoring = interleaved(
        {
            "plain": partial(reference_pass, teachers, few, False),
            "dropout": partial(reference_pass, teachers, few, True),
        },
        2,
    )
    usual_scoring = len(pool) / len(few) * (scoring["plain"] + K * scoring["dropout"])
    found: dict[str, Any] = {"set": args.name, "machine": machine(), "pool": len(pool), "test": len(test)}
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        config = run_config(Path(folder), args.work / args.name, pool)
        seconds_scoring = timed(partial(pipeline.score, config)) + timed(partial(pipeline.supervise, config))
        space = LabelSpace.load(RunFolder(Path(config.output)).labels)
        supervision = load_supervision(RunFolder(Path(config.output)).supervision)
        assert space is not None
        rows: list[dict[str, Any]] = []
        for seed in range(args.seeds):
            config.training.seed = seed
            seconds = timed(partial(pipeline.train, config))
            rows.append({"who": "ours", "seed": seed, "seconds": seconds, **evaluated(Path(config.output), test)})
            student = Path(folder) / f"usual-{seed}"
            seconds = timed(partial(usual_training, teachers, pool, supervision, space, seed, student))
            rows.append({"who": "usual", "seed": seed, "seconds": seconds, **evaluated(student.parent, test, student)})
            print(*rows[-2:], sep="\n", flush=True)
    median = {
        who: statistics.median(float(row["seconds"]) for row in rows if row["who"] == who) for who in ("ours", "usual")
    }
    total = {"ours": seconds_scoring + median["ours"], "usual": usual_scoring + median["usual"]}
    found |= {"students": rows, "seconds": {"scoring_ours": seconds_scoring, "scoring_usual": usual_scoring, **total}}
    found["speedup"] = total["usual"] / total["ours"]
    print(f"{args.name}: score and train {found['speedup']:.1f} x faster than the usual schedule, {len(pool)} texts")
    for who in ("ours", "usual"):
        print(f"  accuracy, {who}: " + ", ".join(f"{row['accuracy']:.3f}" for row in rows if row["who"] == who))
    if args.output:
        args.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def run_config(folder: Path, teachers: Path, pool: list[Text]) -> RunConfig:
    """Our run over the pool."""
    texts = folder / "pool.jsonl"
    texts.write_text("".join(json.dumps({"text": text.text}) + "\n" for text in pool), encoding="utf-8")
    content = {
        "teachers": [{"model": str(teachers / f"teacher-{i}"), "max_length": MAX_LENGTH} for i in range(2)],
        "student": {"model": packaged_encoder(), "max_length": MAX_LENGTH},
        "texts": {"path": str(texts)},
        "method": "muki",
        "training": {"epochs": EPOCHS, "learning_rate": LEARNING_RATE, "batch_size": 32, "holdout": 0},  # equal steps
        "output": str(folder / "run"),
    }
    return make_config(content, "benchmark")


def usual_training(
    teachers: list[Teacher], pool: list[Text], supervision: Supervision, space: LabelSpace, seed: int, folder: Path
) -> None:
    """The usual schedule's training, on the same routing weights and instance weights."""
    student, tokenizer = load_student(packaged_encoder(), space.labels, seed=seed)
    student.train()
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    steps = EPOCHS * -(-len(pool) // 32)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, round(0.1 * steps), steps)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(pool), generator=generator).split(32):
            texts = [pool[i].text for i in index.tolist()]
            target = torch.zeros(len(index), len(space.labels))
            for number, (teacher, columns) in enumerate(zip(teachers, space.columns.values(), strict=True)):
                with torch.inference_mode():
                    p = teacher.model(**padded(teacher.tokenizer, texts)).logits.softmax(dim=-1)
                target[:, list(columns)] += torch.from_numpy(supervision.routing[index, number])[:, None] * p
            loss = integration_loss(
                student(**padded(tokenizer, texts)).logits, target, torch.from_numpy(supervision.weight[index])
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    student.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def padded(tokenizer: Any, texts: list[str]) -> Any:
    return tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt")


def evaluated(run: Path, test: list[Text], student: Path | None = None) -> dict[str, float]:
    """Accuracy on the test texts."""
    classifier = Classifier.load(student or run / "student", max_length=MAX_LENGTH)
    predicted = classifier.probabilities(test).argmax(axis=-1)
    return {"accuracy": accuracy(np.array(classifier.labels)[predicted], np.array([text.label for text in test]))}


if __name__ == "__main__":
    main()
