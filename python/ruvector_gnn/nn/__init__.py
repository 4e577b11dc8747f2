"""Layers: modules of parameters whose forward passes run in the Rust core."""

from ruvector_gnn.nn.attention import MultiheadAttention
from ruvector_gnn.nn.autoencoder import GraphAutoencoder, InnerProductDecoder
from ruvector_gnn.nn.container import ModuleList, Sequential
from ruvector_gnn.nn.dense import Activation, Dropout, LayerNorm, Linear, ReLU
from ruvector_gnn.nn.gat import GATLayer, GATv2Layer
from ruvector_gnn.nn.gcn import GCNLayer
from ruvector_gnn.nn.gin import GINLayer
from ruvector_gnn.nn.graph_conv import GraphConv
from ruvector_gnn.nn.graphsage import GraphSAGE
from ruvector_gnn.nn.infomax import DeepGraphInfomax
from ruvector_gnn.nn.message_passing import MessagePassing
from ruvector_gnn.nn.module import Module, Parameter, evaluation
from ruvector_gnn.nn.readout import AttentionPool, global_max_pool, global_mean_pool, global_sum_pool
from ruvector_gnn.nn.recurrent import LSTM, GRUCell
from ruvector_gnn.nn.ruvector import RuvectorLayer
from ruvector_gnn.nn.sage import SAGELayer
from ruvector_gnn.nn.stack import GNN

__all__ = [
    "GNN",
    "LSTM",
    "Activation",
    "AttentionPool",
    "DeepGraphInfomax",
    "Dropout",
    "GATLayer",
    "GATv2Layer",
    "GCNLayer",
    "GINLayer",
    "GRUCell",
    "GraphAutoencoder",
    "GraphConv",
    "GraphSAGE",
    "InnerProductDecoder",
    "LayerNorm",
    "Linear",
    "MessagePassing",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "ReLU",
    "RuvectorLayer",
    "SAGELayer",
    "Sequential",
    "evaluation",
    "global_max_pool",
    "global_mean_pool",
    "global_sum_pool",
]
