"""Scoring against the schedule in which the method is usually run, in one process, same teachers, same texts.

    python benchmarks/scoring.py --data DIR [--set google_snippets] [--work DIR] [--output FILE.json]

DIR holds data sets as `<name>/{train,test}.jsonl.gz`. Two teachers are fine-tuned on one half of the training texts,
each on one half of the sorted labels; the other half is the pool. Reference schedule: every text padded to 128 tokens,
batches of 32, float32, one deterministic pass and 16 passes with `.train()`; in training each step runs every teacher
again. Times on a shared machine are noise, so that everything is a ratio of medians over interleaved repetitions.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from muki.batches import length_batches, tokenize
from muki.certainty import certainty
from muki.config import TrainingConfig
from muki.demo import packaged_encoder
from muki.finetuning import finetune
from muki.methods import PRESETS
from muki.teachers.dropout import dropout_on
from muki.teachers.loading import Teacher, load_teacher
from muki.teachers.masks import DropoutMasks, pass_keys
from muki.teachers.scoring import Passes, score_texts
from muki.texts import Text

K = 16
TOLERANCE = PRESETS["muki-fast"].tolerance
MAX_LENGTH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", dest="name", default="google_snippets")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--texts", type=int, default=384, help="texts that are timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    teachers, pool = prepare(args.data / args.name, args.work / args.name)
    texts = pool[: args.texts]
    results: dict[str, Any] = {"set": args.name, "machine": machine(), "seed": 0, "texts": len(texts), "K": K}
    results["schedules"] = schedules(teachers, texts, args.repeats)
    results["one_pass"] = one_pass(teachers[0], args.repeats)
    results["agreement"] = agreement(teachers, pool[: 2 * args.texts])
    results["overhead"] = overhead(teachers[0], texts, args.repeats)
    print(table(results))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


# --- what is timed ---------------------------------------------------------------------------------------------------


def reference_pass(teachers: list[Teacher], texts: list[Text], stochastic: bool) -> None:
    """One pass of the reference schedule over the texts, teacher by teacher."""
    for teacher in teachers:
        model = teacher.model.train(stochastic)
        with torch.inference_mode():
            for start in range(0, len(texts), 32):
                batch = [text.text for text in texts[start : start + 32]]
                model(**teacher.tokenizer(
                    batch, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
                ))  # fmt: skip
        model.eval()


def schedules(teachers: list[Teacher], texts: list[Text], repeats: int) -> dict[str, Any]:
    """K = 16 by the reference (one pass of each kind timed on a third of the texts), exact and adaptive by us."""
    few = texts[::3]
    each: dict[str, Callable[[], Any]] = {
        "reference_deterministic": partial(reference_pass, teachers, few, False),
        "reference_stochastic": partial(reference_pass, teachers, few, True),
        "exact": lambda: [score_texts(t, texts, passes=K) for t in teachers],
        "adaptive": lambda: [score_texts(t, texts, passes=Passes(K, tolerance=TOLERANCE)) for t in teachers],
    }
    seconds = interleaved(each, repeats)
    share = len(texts) / len(few)
    reference = share * (seconds["reference_deterministic"] + K * seconds["reference_stochastic"])
    return {
        "reference_seconds": reference,
        "exact_seconds": seconds["exact"],
        "adaptive_seconds": seconds["adaptive"],
        "exact_speedup": reference / seconds["exact"],
        "adaptive_speedup": reference / seconds["adaptive"],
    }


def masked_pass(stock: Callable[[], Any], masks: DropoutMasks, rows: int) -> None:
    """A pass with our masks."""
    with masks.batch(pass_keys(0, np.arange(rows), 0)):
        stock()


def one_pass(teacher: Teacher, repeats: int) -> dict[str, Any]:
    """One dropout pass against one deterministic pass over the same batch of 2,048 tokens."""
    found: dict[str, Any] = {}
    rng = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        model: torch.nn.Module = copy.deepcopy(teacher.model)
        model.to(dtype)
        for length in (16, 64, 128):
            rows = 2048 // length
            ids = torch.randint(1000, 20000, (rows, length), generator=rng)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            stock = partial(model, **inputs)
            ours = partial(masked_pass, stock, teacher.masks, rows)
            each: dict[str, Callable[[], Any]] = {"stock": stock, "ours": ours}

            with torch.inference_mode():
                stock()  # warm up
                with dropout_on(model):
                    interleaved(each, 1)
                times: dict[str, list[float]] = {"deterministic": [], "stock": [], "ours": []}
                for _ in range(5 * repeats):
                    times["deterministic"].append(timed(stock))
                    with dropout_on(model):
                        for name, work in each.items():
                            times[name].append(timed(work))
            median = {name: statistics.median(values) for name, values in times.items()}
            key = f"{str(dtype).removeprefix('torch.')}, {length} tokens"
            found[key] = {name: median[name] / median["deterministic"] for name in ("stock", "ours")}
    return found


def agreement(teachers: list[Teacher], texts: list[Text]) -> dict[str, Any]:
    """Whether adaptive passes change scores and choices more than a second, independent run of K = 16 does."""
    scores = {}
    for name, passes in {
        "first": Passes(K), "second": Passes(K, seed=1),
        "adaptive": Passes(K, tolerance=TOLERANCE), "adaptive_other_seed": Passes(K, tolerance=TOLERANCE, seed=2),
    }.items():  # fmt: skip
        outputs = [score_texts(t, texts, passes=passes) for t in teachers]
        scores[name] = np.stack([certainty(one.mc_mean) for one in outputs], axis=-1)
    drawn = [float(one.passes.mean()) for one in outputs]
    choice = {name: s.argmax(axis=-1) for name, s in scores.items()}
    return {
        "texts": len(texts),
        "noise_floor": {
            "score": float(np.abs(scores["second"] - scores["first"]).mean()),
            "same_choice": float((choice["second"] == choice["first"]).mean()),
        },
        **{
            name: {
                "score": float(np.abs(scores[name] - scores["first"]).mean()),
                "same_choice": float((choice[name] == choice["first"]).mean()),
                "passes": drawn,
            }
            for name in ("adaptive", "adaptive_other_seed")
        },
    }


def overhead(teacher: Teacher, texts: list[Text], repeats: int) -> dict[str, float]:
    """Our scoring of raw texts against a bare loop over the same batches, ready and padded."""
    encodings = tokenize(teacher.tokenizer, texts, teacher.max_length)
    batches = list(length_batches(teacher.tokenizer, encodings))
    masks = teacher.masks

    def bare() -> None:
        with torch.inference_mode():
            for _, batch in batches:
                teacher.model(**batch)
            with dropout_on(teacher.passes_model):
                for index, batch in batches:
                    for number in range(K):
                        with masks.batch(pass_keys(0, index, number)):
                            teacher.passes_model(**batch)

    seconds = interleaved({"bare": bare, "ours": lambda: score_texts(teacher, texts, passes=K)}, repeats)
    return {"ratio": seconds["ours"] / seconds["bare"]}


# --- preparation and tools -------------------------------------------------------------------------------------------


def prepare(data: Path, work: Path) -> tuple[list[Teacher], list[Text]]:
    """Two fine-tuned teachers (kept in `work`) and the pool."""
    rows = read_rows(data, "train")
    order = np.random.default_rng(0).permutation(len(rows))
    half = len(rows) // 2
    labels = sorted({row["label"] for row in rows})
    taught = [rows[i] for i in order[: min(half, 3000)]]
    teachers = []
    for number, own in enumerate((labels[: len(labels) // 2], labels[len(labels) // 2 :])):
        folder = work / f"teacher-{number}"
        if not (folder / "config.json").exists():
            training = TrainingConfig(epochs=3, learning_rate=5e-5, batch_size=32, seed=number)
            finetune(packaged_encoder(), taught, folder, labels=own, training=training, max_length=MAX_LENGTH)
        teachers.append(load_teacher(str(folder), max_length=MAX_LENGTH))
    return teachers, [Text(place, rows[i]["text"]) for place, i in enumerate(order[half:])]


def read_rows(data: Path, split: str) -> list[dict[str, str]]:
    with gzip.open(data / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(each: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, in turn: A B C A B C …, so that a machine that drifts hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in each}
    for _ in range(repeats):
        for name, work in each.items():
            times[name].append(timed(work))
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def table(results: dict[str, Any]) -> str:
    s, a, o = results["schedules"], results["agreement"], results["overhead"]
    lines = [
        f"{results['set']}, {results['texts']} texts, K={K}, {results['machine']['threads']} threads",
        f"exact K=16 against the reference:        {s['exact_speedup']:6.1f} x",
        f"adaptive ({TOLERANCE}) against the reference:   {s['adaptive_speedup']:6.1f} x,"
        f" {np.mean(a['adaptive']['passes']):.1f} passes a text",
        f"score moves by, mean: second K=16 run {a['noise_floor']['score']:.4f}, adaptive {a['adaptive']['score']:.4f}",
        f"same choice as K=16:   second K=16 run {a['noise_floor']['same_choice']:.3f},"
        f" adaptive {a['adaptive']['same_choice']:.3f}",
        f"overhead against a bare loop:            {o['ratio']:6.2f} x",
        "one dropout pass against one deterministic pass (ours; stock modules):",
        *(f"  {key:22s} {one['ours']:5.2f} x; {one['stock']:5.2f} x" for key, one in results["one_pass"].items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
