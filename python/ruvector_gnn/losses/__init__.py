"""Losses: each a function, and a class that keeps its settings."""

from ruvector_gnn.losses.contrastive import DeepGraphInfomax, InfoNCE, deep_graph_infomax, info_nce
from ruvector_gnn.losses.reconstruction import (
    AdjacencyReconstruction,
    FeatureReconstruction,
    LinkPrediction,
    SparseAdjacency,
    adjacency_reconstruction,
    feature_reconstruction,
    link_prediction,
    sparse_adjacency,
)
from ruvector_gnn.losses.supervised import (
    MSE,
    BCEWithLogits,
    CrossEntropy,
    bce_with_logits,
    cross_entropy,
    mse,
)

__all__ = [
    "MSE",
    "AdjacencyReconstruction",
    "BCEWithLogits",
    "CrossEntropy",
    "DeepGraphInfomax",
    "FeatureReconstruction",
    "InfoNCE",
    "LinkPrediction",
    "SparseAdjacency",
    "adjacency_reconstruction",
    "bce_with_logits",
    "cross_entropy",
    "deep_graph_infomax",
    "feature_reconstruction",
    "info_nce",
    "link_prediction",
    "mse",
    "sparse_adjacency",
]
