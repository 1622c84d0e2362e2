"""The plainest lm-eval model there can be: float64, no cache, no batch, one forward per question.

What the task families ask of a model is checked against it, so it must be readable at a glance.
"""

import torch
from lm_eval.api.model import LM
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM


def tiny_model(vocab_size, length=4096, seed=0, **config):
    torch.manual_seed(seed)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 64, "max_position_embeddings": length, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **small | config)).double().eval()


class ReferenceLM(LM):
    def __init__(self, model, tokenizer_path, rank=0, world_size=1):
        super().__init__()
        self.model, self.tokenizer = model, AutoTokenizer.from_pretrained(tokenizer_path)
        self._rank, self._world_size = rank, world_size

    @torch.no_grad()
    def log_probs(self, ids):
        """[length, vocabulary]: what each token says of the next."""
        return self.model(torch.tensor([list(ids)])).logits[0].log_softmax(-1)

    def nll(self, ids):
        """Losses of ids[1:], in nats."""
        predicted = self.log_probs(ids)[:-1]
        return -predicted.gather(1, torch.tensor(list(ids[1:]))[:, None])[:, 0]

    def loglikelihood_rolling(self, requests):
        return [self.windows(r.args[0]) for r in requests]

    def windows(self, text):
        sums, positions = [], {}
        for start, first, end in text.windows:
            losses = dict(enumerate(self.nll(text.ids[start:end]).tolist(), start + 1))
            scored = {t: loss for t, loss in losses.items() if t >= first}
            sums.append(sum(scored.values()))
            for t, loss in scored.items():
                if text.bucket:
                    b = (t - start) // text.bucket
                    positions[b] = positions.get(b, 0.0) + loss
        return {"sums": sums, "positions": [positions.get(b, 0.0) for b in range(len(positions))]}

    def loglikelihood(self, requests):
        return [self.continuation(*r.args) for r in requests]

    def continuation(self, context, continuation):
        whole = self.tokenizer(context + continuation)["input_ids"]
        n = len(self.tokenizer(context)["input_ids"])
        predicted = self.log_probs(whole)[n - 1 : -1]
        target = torch.tensor(whole[n:])
        sums = predicted.gather(1, target[:, None]).sum().item()
        return sums, bool((predicted.argmax(-1) == target).all())

    def generate_until(self, requests):
        return [self.generate(*r.args) for r in requests]

    def generate(self, context, kwargs):
        ids = self.tokenizer(context)["input_ids"]
        start = len(ids)
        while len(ids) < start + kwargs["max_gen_toks"]:
            ids.append(self.log_probs(ids)[-1].argmax().item())
        return self.tokenizer.decode(ids[start:])
