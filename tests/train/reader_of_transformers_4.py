"""Opens checkpoints in another transformers and prints what it computes, as JSON.

`python reader_of_transformers_4.py FOLDER...`: for each the logits' sum and largest, or the error.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM

IDS = list(range(10, 160))


def opened(folder: str) -> dict:
    """What a checkpoint computes, or why it does not open."""
    try:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([IDS])).logits
    except Exception as error:  # whatever this reader says
        return {"refused": f"{type(error).__name__}: {error}"}
    return {"last": logits[0, -1].tolist()}


if __name__ == "__main__":
    print(json.dumps({folder: opened(folder) for folder in sys.argv[1:]}))
