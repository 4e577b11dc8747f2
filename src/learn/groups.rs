//! Repetitions: past queries that are one and the same, and groups of those that are nearly so.
//!
//! The same question asked again stands on both sides of a split unless someone looks: what was learned from one copy is
//! then judged on the other. [`entries`] makes one entry of queries whose cosine is at least [`SAME`], and
//! [`Groups`] joins entries by single link where it is at least a threshold (Sibson 1973).

#![forbid(unsafe_code)]

use super::log::Log;
use super::space::normalize;
use crate::linalg::{MatRef, matmul_into};
use crate::memory;
use crate::simd;
use crate::threads;

/// The cosine from which on two queries are one.
pub const SAME: f32 = 0.9999;

/// And whose lengths, where the metric sees them, differ by no more than this share.
const SAME_LENGTH: f32 = 0.01;

/// Up to this many entries are compared pair by pair.
const ALL_PAIRS: usize = 8192;

/// Queries per product.
const BLOCK: usize = 256;

/// Sets that grow together, by the smallest member.
#[derive(Debug)]
struct Sets(Vec<u32>);

impl Sets {
    fn new(count: usize) -> Self {
        Self(memory::collect(0..count as u32))
    }

    fn first(&mut self, mut member: u32) -> u32 {
        while self.0[member as usize] != member {
            let above = self.0[self.0[member as usize] as usize];
            self.0[member as usize] = above;
            member = above;
        }
        member
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.first(a), self.first(b));
        self.0[a.max(b) as usize] = a.min(b);
    }
}

/// The queries of a log at length 1, row by row.
pub fn units(log: &Log) -> Vec<f32> {
    let mut units = memory::copy_of(log.queries());
    units.chunks_exact_mut(log.dim()).for_each(normalize);
    units
}

/// Takes the mean off, and makes the rest length 1 again.
fn centre(units: &mut [f32], dim: usize) {
    let mut mean = memory::vec![0.0f64; dim];
    for row in units.chunks_exact(dim) {
        mean.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    let count = (units.len() / dim).max(1) as f64;
    for row in units.chunks_exact_mut(dim) {
        row.iter_mut().zip(&mean).for_each(|(value, sum)| *value -= (sum / count) as f32);
        normalize(row);
    }
}

/// For each of `rows`, the later rows of the table (with `all`, all others) whose product with it is at least `threshold`.
fn near(units: &[f32], dim: usize, rows: &[u32], threshold: f32, all: bool) -> Vec<(u32, u32)> {
    let count = units.len() / dim;
    let blocks = threads::map(rows.len().div_ceil(BLOCK), |block| {
        let rows = &rows[block * BLOCK..((block + 1) * BLOCK).min(rows.len())];
        let gathered: Vec<f32> =
            memory::collect(rows.iter().flat_map(|&row| &units[row as usize * dim..][..dim]).copied());
        let mut pairs = Vec::new();
        for start in (0..count).step_by(4 * BLOCK) {
            threads::checkpoint();
            let columns = (count - start).min(4 * BLOCK);
            if !all && start + columns <= rows[0] as usize {
                continue;
            }
            let mut cosines = memory::vec![0.0; rows.len() * columns];
            let others = MatRef::new(&units[start * dim..][..columns * dim], columns, dim).t();
            matmul_into(MatRef::new(&gathered, rows.len(), dim), others, &mut cosines, false);
            for (&row, cosines) in rows.iter().zip(cosines.chunks_exact(columns)) {
                for (at, &cosine) in cosines.iter().enumerate() {
                    let other = (start + at) as u32;
                    if cosine >= threshold && if all { other != row } else { other > row } {
                        memory::push(&mut pairs, (row, other));
                    }
                }
            }
        }
        pairs
    });
    memory::collect(blocks.into_iter().flatten())
}

/// Numbers sets by their first members, rising: the number of each member's set, and how many there are.
fn numbered(mut sets: Sets) -> (Vec<u32>, usize) {
    let count = sets.0.len();
    let (mut numbers, mut next): (Vec<u32>, u32) = (memory::with_capacity(count), 0);
    for member in 0..count as u32 {
        let first = sets.first(member);
        if first == member {
            numbers.push(next);
            next += 1;
        } else {
            let number = numbers[first as usize];
            numbers.push(number);
        }
    }
    (numbers, next as usize)
}

/// Which entry each query of a log belongs to, numbered as they first appear: one for all queries of a cosine of at least [`SAME`]
/// and about the same length.
///
/// Beyond [`ALL_PAIRS`] distinct vectors only equal ones are one entry.
pub fn entries(log: &Log) -> (Vec<u32>, usize) {
    let (dim, count) = (log.dim(), log.len());
    let units = units(log);
    let mut sets = Sets::new(count);
    let bits = |row: u32| bytemuck::cast_slice::<f32, u32>(&units[row as usize * dim..][..dim]);
    let mut rows: Vec<u32> = memory::collect(0..count as u32);
    let length = |row: u32| {
        let query = log.query(row as usize);
        (simd::kernels().dot)(query, query).sqrt()
    };
    let lengths: Vec<f32> = memory::collect((0..count as u32).map(length));
    let of = |row: u32| lengths[row as usize];
    let as_long = |a: u32, b: u32| (of(a) - of(b)).abs() <= SAME_LENGTH * of(a).max(of(b));
    rows.sort_unstable_by(|&a, &b| bits(a).cmp(bits(b)).then(of(a).total_cmp(&of(b))).then(a.cmp(&b)));
    for pair in rows.windows(2) {
        if bits(pair[0]) == bits(pair[1]) && as_long(pair[0], pair[1]) {
            sets.join(pair[0], pair[1]);
        }
    }
    let first: Vec<u32> = memory::collect((0..count as u32).map(|row| sets.first(row)));
    let distinct: Vec<u32> = memory::collect((0..count as u32).filter(|&row| first[row as usize] == row));
    if distinct.len() <= ALL_PAIRS {
        let table: Vec<f32> =
            memory::collect(distinct.iter().flat_map(|&row| &units[row as usize * dim..][..dim]).copied());
        let rows: Vec<u32> = memory::collect(0..distinct.len() as u32);
        for (a, b) in near(&table, dim, &rows, SAME, false) {
            let (a, b) = (distinct[a as usize], distinct[b as usize]);
            if as_long(a, b) {
                sets.join(a, b);
            }
        }
    }
    numbered(sets)
}

/// Past queries in groups of like ones.
#[derive(Debug)]
pub struct Groups {
    /// The group of each entry.
    pub of: Vec<u32>,
    /// How many there are.
    pub count: usize,
}

impl Groups {
    /// By single link where the cosine is at least `threshold`; if `centred`, the cosine around the mean of all. Of a log of more than [`ALL_PAIRS`] entries only the groups of
    /// `wanted` entries are whole; every other entry may be in a group of its own.
    pub fn new(log: &Log, (threshold, centred): (f32, bool), wanted: &[usize]) -> Self {
        let (dim, mut units) = (log.dim(), units(log));
        if centred {
            centre(&mut units, dim);
        }
        let mut sets = Sets::new(log.len());
        if log.len() <= ALL_PAIRS {
            let rows: Vec<u32> = memory::collect(0..log.len() as u32);
            near(&units, dim, &rows, threshold, false).into_iter().for_each(|(a, b)| sets.join(a, b));
        } else {
            let mut known = memory::vec![false; log.len()];
            let mut frontier: Vec<u32> = memory::collect(wanted.iter().map(|&row| row as u32));
            while !frontier.is_empty() {
                frontier.iter().for_each(|&row| known[row as usize] = true);
                let pairs = near(&units, dim, &frontier, threshold, true);
                frontier.clear();
                for (a, b) in pairs {
                    sets.join(a, b);
                    if !known[b as usize] {
                        known[b as usize] = true;
                        memory::push(&mut frontier, b);
                    }
                }
            }
        }
        let (of, count) = numbered(sets);
        Self { of, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of vectors in the plane at these angles, in degrees; the last is twice as long as the others.
    fn log(angles: &[f32]) -> Log {
        let length = |i: usize| if i + 1 == angles.len() { 2.0 } else { 1.0 };
        let queries: Vec<f32> = (angles.iter().enumerate())
            .flat_map(|(i, angle)| {
                [angle.to_radians().cos(), angle.to_radians().sin()].map(|v| v * length(i))
            })
            .collect();
        let clicks = (0..angles.len() as u32).map(|query| (query, query, 1.0)).collect();
        Log::new(&queries, 2, clicks).unwrap()
    }

    #[test]
    fn the_same_direction_is_one_entry_and_chains_are_one_group() {
        let log = log(&[0.0, 90.0, 0.0, 10.0, 20.0, 0.5, 180.0, 90.0]);
        assert_eq!(entries(&log), (vec![0, 1, 0, 2, 3, 0, 4, 5], 6));
        // cos 10 = .985, cos 20 = .940: 0 and 20 are one group through 10.
        let groups = Groups::new(&log, (0.95, false), &[]);
        assert_eq!((groups.of, groups.count), (vec![0, 1, 0, 0, 0, 0, 2, 1], 3));
        assert_eq!(Groups::new(&log, (0.99, false), &[]).of, [0, 1, 0, 2, 3, 0, 4, 1]);
    }

    #[test]
    fn around_their_mean_queries_that_share_a_direction_are_told_apart() {
        let log = log(&[30.0, 35.0, 40.0, 45.0]);
        assert_eq!(Groups::new(&log, (0.95, false), &[]).count, 1);
        assert_eq!(Groups::new(&log, (0.95, true), &[]).of, [0, 0, 1, 1]);
    }

    #[test]
    fn of_a_long_log_the_wanted_groups_are_whole() {
        let angles: Vec<f32> =
            (0..ALL_PAIRS as u32 + 10).map(|i| (i % 36) as f32 * 10.0 + 0.001 * (i / 36) as f32).collect();
        let log = log(&angles);
        let groups = Groups::new(&log, (0.9999, false), &[0, 5]);
        let members = |of: usize| groups.of.iter().filter(|&&group| group == groups.of[of]).count();
        assert!(
            [members(0), members(5)]
                .iter()
                .all(|&count| count == angles.len() / 36 || count == angles.len() / 36 + 1)
        );
    }
}
