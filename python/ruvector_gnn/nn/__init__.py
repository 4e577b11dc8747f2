"""Layers: modules of parameters whose forward passes run in the Rust core."""

from ruvector_gnn.nn.attention import MultiheadAttention
from ruvector_gnn.nn.autoencoder import GraphAutoencoder, InnerProductDecoder
from ruvector_gnn.nn.container import ModuleList, Sequential
from ruvector_gnn.nn.dense import Activation, Dropout, LayerNorm, Linear, ReLU
from ruvector_gnn.nn.egnn import EGNNLayer
from ruvector_gnn.nn.experts import MixtureOfExpertsLayer, load_balance_loss
from ruvector_gnn.nn.gat import GATLayer, GATv2Layer
from ruvector_gnn.nn.gcn import GCNLayer
from ruvector_gnn.nn.gin import GINLayer
from ruvector_gnn.nn.graph_conv import GraphConv
from ruvector_gnn.nn.graphsage import GraphSAGE
from ruvector_gnn.nn.infomax import DeepGraphInfomax
from ruvector_gnn.nn.message_passing import MessagePassing
from ruvector_gnn.nn.module import Module, Parameter, evaluation
from ruvector_gnn.nn.ode import NeuralODELayer
from ruvector_gnn.nn.poincare import (
    PoincareLayer,
    mobius_add,
    poincare_distance,
    poincare_exp,
    poincare_log,
    poincare_midpoint,
)
from ruvector_gnn.nn.readout import AttentionPool, global_max_pool, global_mean_pool, global_sum_pool
from ruvector_gnn.nn.recurrent import LSTM, GRUCell
from ruvector_gnn.nn.ruvector import RuvectorLayer
from ruvector_gnn.nn.sage import SAGELayer
from ruvector_gnn.nn.stack import GNN
from ruvector_gnn.nn.transformer import GraphTransformerLayer, SparseAttentionLayer

__all__ = [
    "GNN",
    "LSTM",
    "Activation",
    "AttentionPool",
    "DeepGraphInfomax",
    "Dropout",
    "EGNNLayer",
    "GATLayer",
    "GATv2Layer",
    "GCNLayer",
    "GINLayer",
    "GRUCell",
    "GraphAutoencoder",
    "GraphConv",
    "GraphSAGE",
    "GraphTransformerLayer",
    "InnerProductDecoder",
    "LayerNorm",
    "Linear",
    "MessagePassing",
    "MixtureOfExpertsLayer",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "NeuralODELayer",
    "Parameter",
    "PoincareLayer",
    "ReLU",
    "RuvectorLayer",
    "SAGELayer",
    "Sequential",
    "SparseAttentionLayer",
    "evaluation",
    "global_max_pool",
    "global_mean_pool",
    "global_sum_pool",
    "load_balance_loss",
    "mobius_add",
    "poincare_distance",
    "poincare_exp",
    "poincare_log",
    "poincare_midpoint",
]
