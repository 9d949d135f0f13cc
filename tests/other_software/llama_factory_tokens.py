"""Run by LLaMA-Factory's Python: what it makes of the first rows of an export, as JSON.

python llama_factory_tokens.py SETTINGS.yaml ROWS OUT.json
"""

import json
import sys
from pathlib import Path

import yaml
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer

settings, rows, out = yaml.safe_load(Path(sys.argv[1]).read_text()), int(sys.argv[2]), Path(sys.argv[3])
model, data, training, _, _ = get_train_args(settings)
modules = load_tokenizer(model)
template = get_template_and_fix_tokenizer(modules["tokenizer"], data)
dataset = get_dataset(template, model, data, training, stage="sft", **modules)["train_dataset"]
taken = [dataset[i] for i in range(min(rows, len(dataset)))]
found = [
    {
        "ids": row["input_ids"],
        "trained": modules["tokenizer"].decode([t for t in row["labels"] if t >= 0]),
        "pictures": len(row["images"]),
    }
    for row in taken
]
out.write_text(json.dumps({"rows": len(dataset), "found": found}))
