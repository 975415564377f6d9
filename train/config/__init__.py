"""What a run is made of: nested frozen dataclasses, the source of the command line's help.

A file under `configs/` says only how it differs from these defaults, or from its `base`.
"""

from train.config.data import DataConfig as DataConfig
from train.config.feedback import FeedbackConfig as FeedbackConfig
from train.config.feedback import MirrorConfig as MirrorConfig
from train.config.feedback import MonitorConfig as MonitorConfig
from train.config.optimizer import OptimizerConfig as OptimizerConfig
from train.config.optimizer import ScheduleConfig as ScheduleConfig
from train.config.part import Part as Part
from train.config.run import MAY_DIFFER as MAY_DIFFER
from train.config.run import CheckpointConfig as CheckpointConfig
from train.config.run import ClusterConfig as ClusterConfig
from train.config.run import FitConfig as FitConfig
from train.config.run import TrainingConfig as TrainingConfig
