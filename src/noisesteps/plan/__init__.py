"""What a study will take, before it is paid for: time, memory and disk.

`calibration` measures this machine, `estimate` does the arithmetic for each job and
`schedule` puts the jobs side by side.
"""

from noisesteps.plan.machine import Slots
from noisesteps.plan.study import Plan, as_values, make_plan, plan_study
from noisesteps.plan.text import describe

__all__ = ["Plan", "Slots", "as_values", "describe", "make_plan", "plan_study"]
