"""How far a study is, read from its records and logs alone; nothing is changed.

Whether a stage would run again because a value of the config changed is not looked
into: `snakemake --dry-run` says that.
"""

from noisesteps.status.models import ModelStatus
from noisesteps.status.study import StudyStatus, as_values, study_status
from noisesteps.status.text import describe

__all__ = ["ModelStatus", "StudyStatus", "as_values", "describe", "study_status"]
