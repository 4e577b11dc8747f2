//! The query log: past queries and what each was clicked for.

#![forbid(unsafe_code)]

use crate::error::{Error, Result, require_finite};
use crate::memory;
use std::collections::BTreeMap;

/// One click: number of the query in the log, position of the document, grade above zero.
pub type Click = (u32, u32, f32);

/// Past queries `(n, dim)` with their clicked documents in rows of a CSR table, ascending, each once.
#[derive(Debug)]
pub struct Log {
    dim: usize,
    queries: Vec<f32>,
    indptr: Vec<usize>,
    docs: Vec<u32>,
    grades: Vec<f32>,
}

impl Log {
    /// A log from clicks in any order. A document clicked twice for a query counts once, with the higher grade;
    /// queries without a click are left out, since they teach nothing.
    pub fn new(queries: &[f32], dim: usize, mut clicks: Vec<Click>) -> Result<Self> {
        if dim == 0 || !queries.len().is_multiple_of(dim) {
            return Err(Error::Shape(format!("queries: {} values are no rows of {dim}", queries.len())));
        }
        require_finite("queries", queries)?;
        let count = queries.len() / dim;
        if let Some((query, _, _)) = clicks.iter().find(|click| click.0 as usize >= count) {
            return Err(Error::Row(format!("relevant: query {query} of a log of {count} queries")));
        }
        if let Some((_, _, grade)) = clicks.iter().find(|click| !(click.2 > 0.0 && click.2.is_finite())) {
            return Err(Error::Shape(format!("relevant: grades must be finite and above 0, got {grade}")));
        }
        clicks.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(b.2.total_cmp(&a.2)));
        clicks.dedup_by_key(|click| (click.0, click.1));
        let mut log = Self::with_room(dim, count, clicks.len());
        for group in clicks.chunk_by(|a, b| a.0 == b.0) {
            let query = group[0].0 as usize;
            log.push(&queries[query * dim..][..dim], group.iter().map(|click| (click.1, click.2)));
        }
        Ok(log)
    }

    /// No queries yet, with room for so many, and clicks.
    fn with_room(dim: usize, queries: usize, clicks: usize) -> Self {
        let mut indptr = memory::with_capacity(queries + 1);
        indptr.push(0);
        Self {
            dim,
            queries: memory::with_capacity(queries * dim),
            indptr,
            docs: memory::with_capacity(clicks),
            grades: memory::with_capacity(clicks),
        }
    }

    /// A copy.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self {
            dim: self.dim,
            queries: memory::copy_of(&self.queries),
            indptr: memory::copy_of(&self.indptr),
            docs: memory::copy_of(&self.docs),
            grades: memory::copy_of(&self.grades),
        }
    }

    fn push(&mut self, query: &[f32], clicks: impl Iterator<Item = (u32, f32)>) {
        self.queries.extend_from_slice(query);
        for (doc, grade) in clicks {
            self.docs.push(doc);
            self.grades.push(grade);
        }
        self.indptr.push(self.docs.len());
    }

    /// Number of queries, each with at least one click.
    pub fn len(&self) -> usize {
        self.indptr.len() - 1
    }

    /// Whether there is no query.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values per query.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All queries, row by row.
    pub fn queries(&self) -> &[f32] {
        &self.queries
    }

    /// One query.
    pub fn query(&self, number: usize) -> &[f32] {
        &self.queries[number * self.dim..][..self.dim]
    }

    /// The documents that a query was clicked for, with their grades.
    pub fn clicks(&self, number: usize) -> impl ExactSizeIterator<Item = (u32, f32)> + '_ {
        let range = self.indptr[number]..self.indptr[number + 1];
        self.docs[range.clone()].iter().copied().zip(self.grades[range].iter().copied())
    }

    /// As [`clicks`](Self::clicks), grades divided by the largest of the query: a plain click weighs 1.
    pub fn weights(&self, number: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let most = self.clicks(number).map(|(_, grade)| grade).fold(0.0, f32::max);
        self.clicks(number).map(move |(doc, grade)| (doc, grade / most))
    }

    /// All clicked documents, one for each click.
    pub fn docs(&self) -> &[u32] {
        &self.docs
    }

    /// The grade of each click.
    pub fn grades(&self) -> &[f32] {
        &self.grades
    }

    /// Where each query's clicks begin, and their number.
    pub fn indptr(&self) -> &[usize] {
        &self.indptr
    }

    /// The log of these queries, in this order.
    #[must_use]
    pub fn subset(&self, numbers: &[usize]) -> Self {
        let clicks = numbers.iter().map(|&number| self.clicks(number).len()).sum();
        let mut log = Self::with_room(self.dim, numbers.len(), clicks);
        numbers.iter().for_each(|&number| log.push(self.query(number), self.clicks(number)));
        log
    }

    /// One query for each of `count` entries, the first of it, clicked for all that its queries were clicked for: a grade is the
    /// mean over the entry's queries, 0 where one has none.
    #[must_use]
    pub fn merged(&self, entry_of: &[u32], count: usize) -> Self {
        let mut members: Vec<Vec<usize>> = memory::collect((0..count).map(|_| Vec::new()));
        entry_of
            .iter()
            .enumerate()
            .for_each(|(query, &entry)| memory::push(&mut members[entry as usize], query));
        let mut log = Self::with_room(self.dim, count, self.docs.len());
        for queries in members {
            let share = 1.0 / queries.len() as f32;
            let mut clicks = BTreeMap::new();
            for (doc, grade) in queries.iter().flat_map(|&query| self.clicks(query)) {
                *clicks.entry(doc).or_insert(0.0) += grade * share;
            }
            log.push(self.query(queries[0]), clicks.into_iter());
        }
        log
    }

    /// The same queries in vectors of another space, and clicks on documents numbered anew; clicks on documents
    /// without a number fall away, with the queries that lose all of theirs.
    #[must_use]
    pub fn mapped(&self, queries: &[f32], number: impl Fn(u32) -> Option<u32>) -> Self {
        let mut log = Self::with_room(self.dim, self.len(), self.docs.len());
        for query in 0..self.len() {
            let mut clicks: Vec<(u32, f32)> =
                self.clicks(query).filter_map(|(doc, grade)| Some((number(doc)?, grade))).collect();
            clicks.sort_by_key(|click| click.0);
            if !clicks.is_empty() {
                log.push(&queries[query * self.dim..][..self.dim], clicks.into_iter());
            }
        }
        log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clicks_are_grouped_merged_and_checked() {
        let queries = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let log = Log::new(&queries, 2, vec![(2, 9, 1.0), (0, 4, 1.0), (2, 3, 4.0), (0, 4, 2.0)]).unwrap();
        assert_eq!((log.len(), log.query(1)), (2, &queries[4..]));
        assert_eq!(log.clicks(0).collect::<Vec<_>>(), [(4, 2.0)]);
        assert_eq!(log.weights(1).collect::<Vec<_>>(), [(3, 1.0), (9, 0.25)]);
        assert_eq!(log.subset(&[1]).clicks(0).collect::<Vec<_>>(), [(3, 4.0), (9, 1.0)]);
        let merged = log.merged(&[0, 0], 1);
        assert_eq!((merged.len(), merged.query(0)), (1, &queries[..2]));
        assert_eq!(merged.clicks(0).collect::<Vec<_>>(), [(3, 2.0), (4, 1.0), (9, 0.5)]);
        let renumbered = log.mapped(log.queries(), |doc| (doc != 4).then_some(100 - doc));
        assert_eq!(renumbered.clicks(0).collect::<Vec<_>>(), [(91, 1.0), (97, 4.0)]);
        assert!(matches!(Log::new(&queries, 2, vec![(3, 0, 1.0)]), Err(Error::Row(_))));
        assert!(matches!(Log::new(&queries, 2, vec![(0, 0, 0.0)]), Err(Error::Shape(_))));
        assert!(matches!(Log::new(&[f32::NAN, 0.0], 2, vec![]), Err(Error::Shape(_))));
    }
}
