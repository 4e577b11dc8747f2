"""Schedules: learning rates, temperatures, loss weights and curricula that change as training goes on."""

from ruvector_gnn.schedules._annealing import LossWeights, LossWeightScheduler, TemperatureScheduler
from ruvector_gnn.schedules._curriculum import CurriculumSchedule, CurriculumScheduler, Stage
from ruvector_gnn.schedules._learning_rate import (
    ConstantLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LRScheduler,
    ReduceLROnPlateau,
    StepLR,
    WarmupLinearLR,
)

__all__ = [
    "ConstantLR",
    "CosineAnnealingWarmRestarts",
    "CurriculumSchedule",
    "CurriculumScheduler",
    "ExponentialLR",
    "LRScheduler",
    "LossWeightScheduler",
    "LossWeights",
    "ReduceLROnPlateau",
    "Stage",
    "StepLR",
    "TemperatureScheduler",
    "WarmupLinearLR",
]
