"""Layers: modules of parameters whose forward passes run in the Rust core."""

from ruvector_gnn.nn.attention import MultiheadAttention
from ruvector_gnn.nn.autoencoder import GraphAutoencoder, InnerProductDecoder
from ruvector_gnn.nn.dense import Activation, Dropout, LayerNorm, Linear
from ruvector_gnn.nn.gat import GATLayer, GATv2Layer
from ruvector_gnn.nn.gcn import GCNLayer
from ruvector_gnn.nn.infomax import DeepGraphInfomax
from ruvector_gnn.nn.module import Module, Parameter, evaluation
from ruvector_gnn.nn.recurrent import GRUCell
from ruvector_gnn.nn.ruvector import RuvectorLayer
from ruvector_gnn.nn.sage import SAGELayer

__all__ = [
    "Activation",
    "DeepGraphInfomax",
    "Dropout",
    "GATLayer",
    "GATv2Layer",
    "GCNLayer",
    "GRUCell",
    "GraphAutoencoder",
    "InnerProductDecoder",
    "LayerNorm",
    "Linear",
    "Module",
    "MultiheadAttention",
    "Parameter",
    "RuvectorLayer",
    "SAGELayer",
    "evaluation",
]
