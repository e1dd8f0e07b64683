"""ResShift, the method: schedule, process, sampler, networks and the restorer that joins them. The public API."""

from resshift.process import posterior, prior_sample, q_sample, scale_input
from resshift.restorer import Restorer
from resshift.sampler import sample
from resshift.schedule import EtaSchedule, ScheduleConfig
from resshift.swin_unet import SwinUNet
from resshift.swin_unet_config import SwinUNetConfig
from resshift.vqgan import VQGAN
from resshift.vqgan_config import VQGANConfig

__all__ = [
    "VQGAN",
    "EtaSchedule",
    "Restorer",
    "ScheduleConfig",
    "SwinUNet",
    "SwinUNetConfig",
    "VQGANConfig",
    "posterior",
    "prior_sample",
    "q_sample",
    "sample",
    "scale_input",
]
