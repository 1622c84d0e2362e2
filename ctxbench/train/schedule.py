"""The learning rate as a function of the step.

It is computed, never stepped: Accelerate's prepared schedulers step once per process and update
(accelerate 1.15 scheduler.py:73-76), and a computed one has no state to save.
"""

import math

from ctxbench.train.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of an update, counted from 0."""
    return config.lr * schedule_factor(config, step)


def schedule_factor(config: TrainConfig, step: int) -> float:
    """Return the share of the peak learning rate.

    Warm-up `linear`: `(step + 1) / warmup`, so that no update is wasted at rate 0. `log`:
    `ln(step + 1) / ln(warmup)`, whose first update has rate 0. `deepspeed`: the same, a step later,
    behind a first update at the peak: DeepSpeed 0.12.6 steps its schedule after the optimizer
    (runtime/engine.py, `_take_model_step`), whose rate is the peak until then
    (runtime/lr_schedules.py, `WarmupLR`). Then constant to `hold * steps`, then a line or half
    a cosine from 1 to `final_lr`, which step `steps` (one past the last) would reach.
    """
    if config.warmup_shape == "deepspeed":
        if step == 0:
            return 1.0
        step -= 1
    if step < config.warmup:
        if config.warmup_shape != "linear":
            return math.log(step + 1) / math.log(max(config.warmup, 2))
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    begin = max(config.warmup, config.hold * config.steps)
    progress = min(max((step - begin) / max(config.steps - begin, 1), 0.0), 1.0)
    if config.schedule == "linear" and config.warmup_shape == "deepspeed":  # its rounding too
        shape = min(max((config.steps - step) / max(config.steps - begin, 1), 0.0), 1.0)
    elif config.schedule == "linear":
        shape = 1 - progress
    else:
        shape = 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_lr + (1 - config.final_lr) * shape
