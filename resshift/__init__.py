"""ResShift, the method: schedule, process, sampler, networks and the restorer that joins them. The public API."""

from resshift.process import posterior, prior_sample, q_sample, scale_input
from resshift.sampler import sample
from resshift.schedule import EtaSchedule, ScheduleConfig

__all__ = ["EtaSchedule", "ScheduleConfig", "posterior", "prior_sample", "q_sample", "sample", "scale_input"]
