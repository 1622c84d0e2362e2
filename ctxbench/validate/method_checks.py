"""What every method owes (`ctxbench/methods/base.py`): all checks, the basic ones first."""

from ctxbench.validate import method_models, method_requests
from ctxbench.validate.checks import Checks

CHECKS = Checks({**method_models.CHECKS, **method_requests.CHECKS})
