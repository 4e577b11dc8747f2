//! Building compressed rows from edges by counting sorts, and checking what callers give.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::memory;
use crate::threads;

/// Edges between two checks whether the call is to stop.
const CHECKED: usize = 1 << 16;

/// Compressed rows, with the original position of each edge where it changed.
pub(super) struct Rows {
    pub(super) indptr: Vec<usize>,
    pub(super) indices: Vec<u32>,
    pub(super) order: Option<Vec<u32>>,
}

impl Rows {
    /// Values per edge as given, in row order.
    pub(super) fn arrange<V: Copy>(&self, values: &[V]) -> Vec<V> {
        match &self.order {
            None => memory::copy_of(values),
            Some(order) => memory::collect(order.iter().map(|&edge| values[edge as usize])),
        }
    }
}

/// Where each key's run begins when `keys` are sorted, and the number of keys.
fn starts(keys: &[u32], count: usize) -> Vec<usize> {
    let mut starts = memory::vec![0; count.saturating_add(1)];
    for keys in keys.chunks(CHECKED) {
        threads::checkpoint();
        keys.iter().for_each(|&key| starts[key as usize + 1] += 1);
    }
    (0..count).for_each(|key| starts[key + 1] += starts[key]);
    starts
}

/// The positions of `keys` in the order of a stable sort, given positions in some order before.
fn stable_order(keys: &[u32], before: impl Iterator<Item = u32>, starts: &[usize]) -> Vec<u32> {
    let mut next = memory::copy_of(starts);
    let mut order = memory::vec![0; keys.len()];
    for (done, position) in before.enumerate() {
        if done % CHECKED == 0 {
            threads::checkpoint();
        }
        let place = &mut next[keys[position as usize] as usize];
        order[*place] = position;
        *place += 1;
    }
    order
}

/// Rows by target, within a row by source, otherwise as given: a radix sort of two digits.
pub(super) fn sorted_rows(targets: &[u32], sources: &[u32], nodes: usize, source_count: usize) -> Rows {
    let indptr = starts(targets, nodes);
    let in_order = (1..targets.len())
        .all(|edge| (targets[edge - 1], sources[edge - 1]) <= (targets[edge], sources[edge]));
    if in_order {
        return Rows { indptr, indices: memory::copy_of(sources), order: None };
    }
    let by_source = stable_order(sources, 0..sources.len() as u32, &starts(sources, source_count));
    let order = stable_order(targets, by_source.into_iter(), &indptr);
    let indices = memory::collect(order.iter().map(|&edge| sources[edge as usize]));
    Rows { indptr, indices, order: Some(order) }
}

/// Row `r` lists the positions whose group is `r`.
pub(super) fn grouped(groups: &[u32], count: usize) -> Rows {
    let indptr = starts(groups, count);
    let order = stable_order(groups, 0..groups.len() as u32, &indptr);
    Rows { indptr, indices: order, order: None }
}

/// The transpose; `order` is always there and refers to the edges in row order.
pub(super) fn transposed(indptr: &[usize], indices: &[u32], columns: usize) -> Rows {
    let starts = starts(indices, columns);
    let order = stable_order(indices, 0..indices.len() as u32, &starts);
    let rows = row_numbers(indptr);
    let indices = memory::collect(order.iter().map(|&edge| rows[edge as usize]));
    Rows { indptr: starts, indices, order: Some(order) }
}

/// Per edge in row order, its row.
pub(super) fn row_numbers(indptr: &[usize]) -> Vec<u32> {
    let mut rows = memory::with_capacity(indptr.last().copied().unwrap_or(0));
    for (row, bounds) in indptr.windows(2).enumerate() {
        rows.resize(rows.len() + bounds[1] - bounds[0], row as u32);
    }
    rows
}

/// Nodes and edges are numbered by 32 bits.
pub(super) fn check_counts(nodes: usize, sources: usize, edges: usize) -> Result<()> {
    for (name, count) in [("nodes", nodes), ("sources", sources), ("edges", edges)] {
        if count > u32::MAX as usize {
            return Err(Error::Config(format!("a graph holds at most {} {name}, got {count}", u32::MAX)));
        }
    }
    Ok(())
}

pub(super) fn check_indptr(indptr: &[usize], edges: usize) -> Result<()> {
    if indptr.first() != Some(&0) || indptr.last() != Some(&edges) || !indptr.is_sorted() {
        return Err(Error::Shape(format!(
            "indptr must rise from 0 to the number of indices ({edges}), got {} values from {:?} to {:?}",
            indptr.len(),
            indptr.first(),
            indptr.last()
        )));
    }
    Ok(())
}

pub(super) fn check_nodes(name: &str, nodes: &[u32], count: usize) -> Result<()> {
    match nodes.iter().position(|&node| node as usize >= count) {
        None => Ok(()),
        Some(at) => {
            Err(Error::Row(format!("{name}: value {at} is node {}, but there are {count} nodes", nodes[at])))
        }
    }
}

pub(super) fn check_weights(weights: Option<&[f32]>, edges: usize) -> Result<()> {
    let Some(weights) = weights else { return Ok(()) };
    if weights.len() != edges {
        return Err(Error::Shape(format!("weights: {} values for {edges} edges", weights.len())));
    }
    crate::error::require_finite("weights", weights)
}

/// An edge order holds every position once.
pub(super) fn check_order(order: Option<&[u32]>, edges: usize) -> Result<()> {
    let Some(order) = order else { return Ok(()) };
    let mut seen = memory::vec![false; edges];
    let once = |&edge: &u32| seen.get_mut(edge as usize).is_some_and(|seen| !std::mem::replace(seen, true));
    if order.len() == edges && order.iter().all(once) {
        return Ok(());
    }
    Err(Error::Shape(format!("edge_order must hold each of the {edges} positions once")))
}
