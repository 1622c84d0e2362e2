"""Builds a token store in forked children and kills them with -9; started by test_tokens.

Prints how many were killed, and which finished files were made again.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def finished(output: Path) -> dict[str, int]:
    """Return when each finished file was written."""
    files = [f for f in output.rglob("*") if f.is_file() and ".tmp" not in f.name]
    return {f.name: f.stat().st_mtime_ns for f in files if f.name.startswith(("scan", "piece"))}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from ctxbench.core.assets import resolve_model
    from ctxbench.models.loading import load_tokenizer
    from ctxbench.train.tokens import documents
    from ctxbench.train.tokens.store_writer import build_store
    from tests.train.test_tokens import REQUEST, SHARD

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    corpus, output, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    documents.RANGE_BYTES = 2**20
    tokenizer = load_tokenizer(resolve_model("mini"))
    files = sorted(corpus.iterdir())
    draw, again = random.Random(0), []
    for _ in range(kills):
        before = finished(output)
        child = os.fork()
        if not child:
            build_store(files, tokenizer, output, REQUEST, shard_tokens=SHARD)
            os._exit(0)
        while len(finished(output)) <= len(before):  # until it has got further
            if os.waitpid(child, os.WNOHANG)[0]:
                sys.exit("the build ended before it was killed as often as asked")
            time.sleep(0.001)
        time.sleep(draw.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        now = finished(output)
        again += [name for name, written in before.items() if now[name] != written]
    assert not (output / "meta.json").exists(), "nothing was left to interrupt"
    build_store(files, tokenizer, output, REQUEST, shard_tokens=SHARD)
    print(json.dumps({"kills": kills, "made again": again}))
