"""Scores and generates with ctxext, tensor parallel if there are several ranks; prints JSON."""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import torch
    from lm_eval.api.instance import Instance

    from ctxbench.models.ctxext import CtxExt

    torch.set_num_threads(1)
    parallel = int(os.environ.get("WORLD_SIZE", 1)) > 1
    found = {}
    for method, options in (("pi", {}), ("streaming_llm", {"sinks": 2, "window": 12})):
        lm = CtxExt(
            pretrained=sys.argv[1], method=method, length=64, dtype="float32", device="cpu",
            **options, **({"tp_plan": "auto"} if parallel else {}),
        )  # fmt: skip
        pairs = [("import os class", "def return"), ("import os class", "self value")]
        scores = lm.loglikelihood(
            [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        )
        until = {"max_gen_toks": 5, "until": []}
        texts = lm.generate_until([Instance("generate_until", {}, ("import os class", until), 0)])
        found[method] = [[score for score, _ in scores], texts]
    if int(os.environ.get("RANK", 0)) == 0:
        print(json.dumps(found))
