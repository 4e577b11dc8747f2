//! Layers on the tape. Each is a plain struct of parameter handles with a `forward`; names and shapes of the
//! parameters follow PyTorch and PyG, so that their weights load unchanged.

mod activation;
mod attention;
mod attention_edges;
mod attention_pool;
mod egnn;
mod experts;
mod gat;
mod gatv2;
mod gcn;
mod gin;
mod graph_conv;
mod graphsage;
mod gru;
mod head_gates;
pub mod init;
mod linear;
mod lstm;
mod membership;
mod message_passing;
mod norm;
mod ode;
mod poincare;
mod ruvector;
mod sage;
mod sequential;
mod sparse_attention;
mod table;
mod transformer;

pub use activation::Activation;
pub use attention::MultiheadAttention;
pub use attention_pool::attention_pool;
pub use egnn::EgnnLayer;
pub use experts::{MixtureOfExperts, load_balance};
pub use gat::GatLayer;
pub use gatv2::GatV2Layer;
pub use gcn::GcnLayer;
pub use gin::{GinLayer, gin_sum};
pub use graph_conv::GraphConv;
pub use graphsage::GraphSage;
pub use gru::GruCell;
pub use head_gates::{HeadGates, take_heads};
pub use linear::Linear;
pub use lstm::{Lstm, LstmRun};
pub use message_passing::{Edges, MessagePassing};
pub use norm::LayerNorm;
pub use ode::{NeuralOdeLayer, rk4};
pub use poincare::{PoincareLayer, mobius_add, poincare_distance, poincare_midpoint};
pub use ruvector::{NeighborAttention, RuvectorLayer};
pub use sage::{SageLayer, SageLstm};
pub use sequential::{Sequential, Step};
pub use sparse_attention::SparseAttentionLayer;
pub use table::Table;
pub use transformer::{FeedForward, GraphTransformerLayer};

use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::real::Real;

/// Something with named parameters.
pub trait Module<T: Real> {
    /// Calls `visit(name, parameter)` for each parameter, in a fixed order.
    fn visit(&self, visit: &mut dyn FnMut(&str, &Tensor<T>));

    /// The parameters by name.
    fn named_parameters(&self) -> Vec<(String, Tensor<T>)> {
        let mut all = Vec::new();
        self.visit(&mut |name, parameter| all.push((name.to_owned(), parameter.clone())));
        all
    }

    /// The parameters.
    fn parameters(&self) -> Vec<Tensor<T>> {
        self.named_parameters().into_iter().map(|(_, parameter)| parameter).collect()
    }
}

/// The rows of the nodes that aggregate: all of `x (num_sources, d)`, or the first of them over a block.
fn target_rows<T: Real>(layer: &str, x: &Tensor<T>, graph: &Graph) -> Result<Tensor<T>> {
    graph.require_targets_among_sources(layer)?;
    let (nodes, sources) = (graph.num_nodes(), graph.num_sources());
    if x.dims().len() != 2 || x.dims()[0] != sources {
        let over = if nodes == sources {
            format!("a graph of {nodes} nodes")
        } else {
            format!("a block of {sources} sources")
        };
        return Err(Error::Shape(format!("{layer}: x of shape {} over {over}", x.shape())));
    }
    if nodes == sources { Ok(x.clone()) } else { x.slice(0, 0..nodes) }
}

/// Visits a sub-module's parameters as `prefix.name`.
fn visit_inside<T: Real>(prefix: &str, module: &dyn Module<T>, visit: &mut dyn FnMut(&str, &Tensor<T>)) {
    module.visit(&mut |name, parameter| visit(&format!("{prefix}.{name}"), parameter));
}
