"""Data and score of my_recall: lines `# noun number`, one of them asked for at the end."""

import random

from datasets import Dataset

from ctxbench import NOUNS, load_tokenizer, tokenizer_name


def documents(*, ctx_length, samples=20, seed=0, **metadata):
    """Return prompts of as many lines as fit `ctx_length` tokens with an answer of 8."""
    encode, rng = load_tokenizer(tokenizer_name(**metadata)), random.Random(seed)

    def one():
        facts = {noun: f"{rng.randrange(10000):04d}" for noun in rng.sample(NOUNS, len(NOUNS))}
        while True:
            key = rng.choice(list(facts))
            prompt = "".join(f"\n# {noun} {facts[noun]}" for noun in facts) + f"\n# {key}"
            if len(encode(prompt).input_ids) <= ctx_length - 8:
                return {"prompt": prompt, "answer": facts[key]}
            facts.popitem()

    return {"test": Dataset.from_list([one() for _ in range(samples)])}


def score(doc, results):
    """Return whether the first word is the answer."""
    return {"score": float(results[0].split()[:1] == [doc["answer"]])}
