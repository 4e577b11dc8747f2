//! An index that some threads search while another one changes it.

use super::HnswIndex;
use super::search::Hits;
use super::{Filter, build, remove};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::shared::{Shared, Writer};
use ndarray::ArrayView2;
use std::ops::Range;

/// An index to be shared between threads: searches run beside [`add`](Self::add), [`remove`](Self::remove) and
/// [`update`](Self::update), of which one runs at a time.
///
/// What a search sees is the index as it was at one instant:
///
/// - Rows come in batches of up to 256, and are held, found, and counted from then on; those of an `add` at work come in
///   random order. When it has returned, all of them are there; if it is interrupted, those that it does not keep are
///   gone again.
/// - Rows go in such batches too, and when `remove` has returned, all of them are gone.
/// - A row that `update` is at is held throughout, with its old vector or the new one; a walk may miss it for the time
///   that its batch takes to be linked anew.
///
/// Searches wait while a batch is written, not while it is prepared; [`compact`](Self::compact) keeps them waiting. A
/// search that takes long keeps the writer waiting, and with it the searches that come after.
///
/// Tasks of [`threads`](crate::threads) must not use it: one that waits for the index may be what another, which holds
/// it, waits for.
///
/// ```
/// use ndarray::{Array2, array};
/// use ruvector_gnn::hnsw::{HnswIndex, Params, SharedIndex};
/// use ruvector_gnn::monitor::Silent;
///
/// let index = SharedIndex::new(HnswIndex::new(2, Params::default())?);
/// index.add(array![[1.0, 0.0]].view(), &mut Silent)?;
/// std::thread::scope(|scope| {
///     let writer = scope.spawn(|| index.add(Array2::from_elem((500, 2), -1.0).view(), &mut Silent));
///     let hits = index.search(array![[1.0, 0.1]].view(), 1, None, None)?;
///     assert_eq!(hits.rows, array![[0]]);
///     writer.join().expect("no panic")
/// })?;
/// assert_eq!(index.read(|index| index.len()), 501);
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
#[derive(Debug)]
pub struct SharedIndex {
    index: Shared<HnswIndex>,
}

impl SharedIndex {
    /// Shares an index.
    pub fn new(index: HnswIndex) -> Self {
        Self { index: Shared::new(index) }
    }

    /// Looks at the index as it is at one instant, within a call that changes it too. Waits while a batch is written; the writer waits for `task`, and so do
    /// others that come to read after it.
    pub fn read<R>(&self, task: impl FnOnce(&HnswIndex) -> R) -> R {
        self.index.read(task)
    }

    /// Looks at the index between the calls that change it, as saving must: waits for the one at work, and those that come wait for
    /// `task`. Others read meanwhile. In the monitor of such a call, refused with [`Error::Config`].
    pub fn settled<R>(&self, task: impl FnOnce(&HnswIndex) -> R) -> Result<R> {
        Ok(self.writer()?.plan(task))
    }

    /// See [`HnswIndex::search`].
    pub fn search(
        &self,
        queries: ArrayView2<'_, f32>,
        k: usize,
        ef: Option<usize>,
        filter: Option<Filter<'_>>,
    ) -> Result<Hits> {
        self.read(|index| index.search(queries, k, ef, filter))
    }

    /// See [`HnswIndex::add`]. `monitor` may read the index, and is refused to change it with [`Error::Config`].
    pub fn add(&self, vectors: ArrayView2<'_, f32>, monitor: &mut dyn Monitor) -> Result<Range<u64>> {
        build::add(&mut self.writer()?, vectors, monitor)
    }

    /// See [`HnswIndex::remove`], and [`add`](Self::add).
    pub fn remove(&self, rows: &[i64], monitor: &mut dyn Monitor) -> Result<()> {
        remove::remove(&mut self.writer()?, rows, monitor)
    }

    /// See [`HnswIndex::update`], and [`add`](Self::add).
    pub fn update(
        &self,
        rows: &[i64],
        vectors: ArrayView2<'_, f32>,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        remove::update(&mut self.writer()?, rows, vectors, monitor)
    }

    /// See [`HnswIndex::skip_rows`].
    pub fn skip_rows(&self, count: usize) -> Result<()> {
        self.writer()?.commit(|index| index.skip_rows(count))
    }

    /// See [`HnswIndex::compact`]. Searches wait until it is done.
    pub fn compact(&self) -> Result<()> {
        self.writer()?.commit(HnswIndex::compact)
    }

    /// See [`HnswIndex::optimize`]. Searches wait until it is done.
    pub fn optimize(&self) -> Result<()> {
        self.writer()?.commit(HnswIndex::optimize)
    }

    fn writer(&self) -> Result<Writer<'_, HnswIndex>> {
        let refused = || {
            Error::Config(
                "an index can't be changed or saved by the callback of a call that changes it".into(),
            )
        };
        self.index.writer().ok_or_else(refused)
    }
}
