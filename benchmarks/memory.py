"""Peak memory of the scoring stage: 2 and 8 teachers, 10,000 and 200,000 texts.

    python benchmarks/memory.py WORK [--output FILE.json]

Tiny teachers (so that it takes minutes, not hours) and short texts; what is looked at is whether memory grows with the
number of teachers or texts. Each case runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = ((2, 10_000), (8, 10_000), (2, 200_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", type=int, nargs=2, metavar=("TEACHERS", "TEXTS"), help="measure this case here")
    args = parser.parse_args()
    if args.one:
        print(peak(args.work, *args.one))
        return
    found = {}
    for teachers, texts in CASES:
        command = [sys.executable, __file__, str(args.work), "--one", str(teachers), str(texts)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[f"{teachers} teachers, {texts} texts"] = round(float(out.strip().splitlines()[-1]), 1)
    base = next(iter(found.values()))
    growth = {name: round(mib / base - 1, 4) for name, mib in found.items()}
    for name, mib in found.items():
        print(f"{name}: {mib:.0f} MiB ({growth[name]:+.1%})")
    if args.output:
        content = {"date": time.strftime("%Y-%m-%d"), "peak_mib": found, "growth": growth}
        args.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def peak(work: Path, teachers: int, texts: int) -> float:
    """MiB of this process after scoring."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from muki.config import make_config
    from muki.demo import packaged_encoder
    from muki.pipeline import score

    tokenizer = AutoTokenizer.from_pretrained(packaged_encoder())
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        root = Path(folder)
        for number in range(teachers):
            torch.manual_seed(number)
            config = BertConfig(
                vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=64, id2label={i: f"class-{number}-{i}" for i in range(4)},
            )  # fmt: skip
            BertForSequenceClassification(config).save_pretrained(root / f"t{number}")
            tokenizer.save_pretrained(root / f"t{number}")
        with (root / "pool.txt").open("w", encoding="utf-8") as pool:
            for row in range(texts):
                pool.write(f"message {row} about a parcel that never came\n")
        run = {
            "teachers": [{"model": str(root / f"t{number}"), "max_length": 32} for number in range(teachers)],
            "student": {"model": packaged_encoder()},
            "texts": {"path": str(root / "pool.txt")},
            "method": {"passes": 2},
            "output": str(root / "run"),
        }
        score(make_config(run, "memory"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
