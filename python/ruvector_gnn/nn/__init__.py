"""Layers: modules of parameters whose forward passes run in the Rust core."""

from ruvector_gnn.nn.layers import (
    Activation,
    Dropout,
    GCNLayer,
    GRUCell,
    LayerNorm,
    Linear,
    MultiheadAttention,
    RuvectorLayer,
    SAGELayer,
)
from ruvector_gnn.nn.module import Module, Parameter

__all__ = [
    "Activation",
    "Dropout",
    "GCNLayer",
    "GRUCell",
    "LayerNorm",
    "Linear",
    "Module",
    "MultiheadAttention",
    "Parameter",
    "RuvectorLayer",
    "SAGELayer",
]
