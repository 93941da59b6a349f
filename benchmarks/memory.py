"""Peak memory of the scoring stage: `python benchmarks/memory.py WORK TEACHERS TEXTS` prints MiB.

Tiny teachers (so that it takes minutes, not hours) and short texts; what is looked at is whether memory grows with the
number of teachers or texts.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from muki.config import make_config
from muki.demo import packaged_encoder
from muki.pipeline import score


def main() -> None:
    work, teachers, texts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
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
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
