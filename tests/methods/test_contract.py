"""Every method keeps the contract: the checks of `ctxbench validate`, on more architectures."""

import pytest

import ctxbench
from ctxbench.validate.checks import FAILED, run_check
from ctxbench.validate.method_requests import CHECKS
from ctxbench.validate.method_subject import Subject
from ctxbench.validate.tiny import ARCHITECTURES

LONGROPE = {"long_factor": [1.0 + pair for pair in range(8)]}
HALF_ROTATED = {"long_factor": [1.0 + pair for pair in range(4)]}  # phi turns 8 of 16 dimensions
OPTIONS = {"longrope": LONGROPE}

VARIANTS = {
    "yarn-paper": ("yarn", {"ramp": "paper"}),
    "yarn-dynamic": ("yarn", {"dynamic": True}),
    "dynamic_ntk-floor": ("dynamic_ntk", {"factor": 4, "floor": 128}),
    "lm_infinite": ("lm_infinite", {"window": 12, "sinks": 3}),
    "streaming_llm": ("streaming_llm", {"window": 11, "sinks": 3}),
    "self_extend": ("self_extend", {"window": 12, "group": 8}),
    "rerope": ("rerope", {"window": 12}),
    "dca": ("dca", {"chunk": 16, "window": 4}),
    "landmark": ("landmark", {"block": 8, "top_k": 1, "trained_length": 32}),
}
"""Options beside the defaults: shorter than the texts, so that the method is at work."""

SUBJECTS = {name: Subject(name, OPTIONS.get(name, {})) for name in ctxbench.list_methods()}
HOOKED = ("yarn", "dynamic_ntk", "self_extend")  # one of each way into transformers
ELSEWHERE = {key: Subject(*value) for key, value in VARIANTS.items()} | {
    f"{name} on {kind}": Subject(name, {"window": 12} if name == "self_extend" else {}, kind)
    for name in HOOKED
    for kind in ARCHITECTURES
    if kind != "llama"
}
ELSEWHERE |= {
    f"{name} on phi": Subject(name, HALF_ROTATED if name == "longrope" else {}, "phi")
    for name in ("none", "pi", "ntk", "abf", "llama3", "longrope", "clex")
}
MODEL_CHECKS = ("config", "identity", "save_load", "cached", "batch", "stateless", "reuse_key")


@pytest.mark.filterwarnings("ignore:method=self_extend. group=:UserWarning")
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_contract(subject, check):
    outcome = run_check(CHECKS[check], SUBJECTS[subject])
    assert outcome.status != FAILED, outcome.detail


@pytest.mark.filterwarnings("ignore:method=self_extend. group=:UserWarning")
@pytest.mark.parametrize("check", MODEL_CHECKS)
@pytest.mark.parametrize("subject", ELSEWHERE)
def test_contract_with_other_options_and_architectures(subject, check):
    outcome = run_check(CHECKS[check], ELSEWHERE[subject])
    assert outcome.status != FAILED, outcome.detail
