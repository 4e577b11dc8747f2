//! Removing rows, replacing their vectors, and closing the gaps.

use super::HnswIndex;
use super::access::Access;
use super::build::batch_len;
use super::draft::Changes;
use super::links::Links;
use super::rows::MAX_ROWS;
use super::seek::seek;
use crate::error::{Error, Result, catch};
use crate::memory;
use crate::monitor::Monitor;
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, Slice};

impl HnswIndex {
    /// Removes rows: no search finds them again, their numbers are never reused, and their vectors are wiped. The rows
    /// that linked to them are linked anew, so that the graph stays as good as one built without them (after Singh et
    /// al. 2021, "FreshDiskANN").
    ///
    /// Rows that are not held, or are given twice, are refused with [`Error::Row`], and nothing is removed. When
    /// `monitor` stops the work, the first of the rows are gone, and the error says how many.
    ///
    /// ```
    /// use ndarray::array;
    /// use ruvector_gnn::hnsw::{HnswIndex, Params};
    /// use ruvector_gnn::monitor::Silent;
    ///
    /// let mut index = HnswIndex::new(2, Params::default())?;
    /// index.add(array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]].view(), &mut Silent)?;
    /// index.remove(&[0], &mut Silent)?;
    /// assert_eq!(index.add(array![[2.0, 0.1]].view(), &mut Silent)?, 3..4);
    /// assert_eq!(index.rows().collect::<Vec<_>>(), [1, 2, 3]);
    /// let hits = index.search(array![[1.0, 0.0]].view(), 1, None, None)?;
    /// assert_eq!(hits.rows, array![[3]]);
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn remove(&mut self, rows: &[i64], monitor: &mut dyn Monitor) -> Result<()> {
        remove(self, rows, monitor)
    }

    /// Hands out the next `count` row numbers to nothing, as if those rows had been added and removed: so rows get the
    /// numbers that they have elsewhere.
    ///
    /// More numbers than there are are refused with [`Error::Config`].
    ///
    /// ```
    /// use ndarray::array;
    /// use ruvector_gnn::hnsw::{HnswIndex, Params};
    /// use ruvector_gnn::monitor::Silent;
    ///
    /// let mut index = HnswIndex::new(2, Params::default())?;
    /// index.skip_rows(7)?;
    /// assert_eq!(index.add(array![[1.0, 0.0]].view(), &mut Silent)?, 7..8);
    /// assert_eq!((index.len(), index.num_rows()), (1, 8));
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn skip_rows(&mut self, count: usize) -> Result<()> {
        catch(|| {
            if count > MAX_ROWS - self.num_rows() {
                let wanted = self.num_rows().saturating_add(count);
                return Err(Error::Config(format!(
                    "an index hands out at most {MAX_ROWS} rows, got {wanted}"
                )));
            }
            self.core.vectors.own()?;
            self.core.rows.skip(count);
            Ok(())
        })
    }

    /// Replaces the vectors `(n, dim)` of rows, which keep their numbers: each is taken out of the graph and linked
    /// anew where it belongs now.
    ///
    /// Rows are refused as by [`remove`](Self::remove), vectors as by [`add`](Self::add), and another number of vectors
    /// than of rows with [`Error::Shape`]; nothing is changed then. When `monitor` stops the work, the first of the
    /// rows have their new vectors, and the error says how many.
    ///
    /// ```
    /// use ndarray::array;
    /// use ruvector_gnn::hnsw::{HnswIndex, Params};
    /// use ruvector_gnn::monitor::Silent;
    ///
    /// let mut index = HnswIndex::new(2, Params::default())?;
    /// index.add(array![[1.0, 0.0], [0.0, 1.0]].view(), &mut Silent)?;
    /// index.update(&[0], array![[-1.0, 0.0]].view(), &mut Silent)?;
    /// assert_eq!(index.search(array![[-1.0, 0.1]].view(), 1, None, None)?.rows, array![[0]]);
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn update(
        &mut self,
        rows: &[i64],
        vectors: ArrayView2<'_, f32>,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        update(self, rows, vectors, monitor)
    }

    /// Moves what is held together in memory and gives the rest back. Rows keep their numbers; searches find what they
    /// found before, to the bit.
    ///
    /// Slots of removed rows are taken by the next rows that are added, so only an index that shrinks for good has to
    /// be compacted. While that runs, the links are held twice.
    pub fn compact(&mut self) -> Result<()> {
        catch(|| {
            self.core.vectors.own()?;
            let kept = memory::collect(self.core.rows.by_slot());
            self.arrange(&kept);
            Ok(())
        })
    }

    /// Removes all rows. Returns the links that there were.
    fn clear(&mut self) -> Links {
        self.core.vectors.truncate(0);
        self.core.rows.clear();
        std::mem::replace(&mut self.core.links, Links::new(self.params.m))
    }

    /// The slots of rows that must be held, and given once.
    fn distinct_slots(&self, rows: &[i64]) -> Result<Vec<u32>> {
        let mut slots = memory::try_with_capacity(rows.len())?;
        for &row in rows {
            slots.push(self.require_slot("rows", row)?);
        }
        let mut sorted = memory::copy_of(rows);
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(slots),
            Some(pair) => Err(Error::Row(format!("rows: row {} is given twice", pair[0]))),
        }
    }
}

/// See [`HnswIndex::remove`].
pub(super) fn remove(index: &mut impl Access, rows: &[i64], monitor: &mut dyn Monitor) -> Result<()> {
    catch(|| {
        let slots = index.plan(|index| index.distinct_slots(rows))?;
        index.own()?;
        if slots.len() == index.plan(HnswIndex::len) {
            drop(index.commit(HnswIndex::clear));
            return Ok(());
        }
        let mut done = 0;
        while done < slots.len() {
            let report = |done| format!("remove: the first {done} of these {} rows are gone", slots.len());
            let planned = catch(|| Ok(next_batch(index, &slots[done..])));
            let (batch, changes) = planned.map_err(|refused| stopped(refused, || report(done)))?;
            index.commit(|index| {
                index.core.links.write(&changes);
                index.core.links.vacate(batch);
                index.core.links.take_dropped();
                for &slot in batch {
                    index.core.vectors.clear(slot);
                    index.core.rows.remove(slot);
                }
            });
            done += batch.len();
            monitor.step(done, slots.len(), &[]).map_err(|stop| stopped(stop, || report(done)))?;
        }
        Ok(())
    })
}

/// See [`HnswIndex::update`].
pub(super) fn update(
    index: &mut impl Access,
    rows: &[i64],
    vectors: ArrayView2<'_, f32>,
    monitor: &mut dyn Monitor,
) -> Result<()> {
    catch(|| {
        let slots = index.plan(|index| {
            let slots = index.distinct_slots(rows)?;
            index.core.vectors.check_new("vectors", vectors)?;
            Ok(slots)
        })?;
        if vectors.nrows() != rows.len() {
            let (given, wanted) = (vectors.nrows(), rows.len());
            return Err(Error::Shape(format!("vectors: {given} vectors were given for {wanted} rows")));
        }
        index.own()?;
        let mut done = 0;
        while done < slots.len() {
            let report = |done| {
                format!("update: the first {done} of these {} rows have their new vectors", slots.len())
            };
            let len = catch(|| {
                Ok(update_batch(index, &slots[done..], vectors.slice_axis(Axis(0), Slice::from(done..))))
            });
            done += len.map_err(|refused| stopped(refused, || report(done)))?;
            monitor.step(done, slots.len(), &[]).map_err(|stop| stopped(stop, || report(done)))?;
        }
        Ok(())
    })
}

/// Updates the first of the slots, all of a batch or none, and returns how many.
fn update_batch(index: &mut impl Access, slots: &[u32], vectors: ArrayView2<'_, f32>) -> usize {
    let (batch, changes) = next_batch(index, slots);
    let (undo, old) = index.plan(|index| {
        let mut old = Array2::zeros((batch.len(), index.dim()));
        for (mut to, &slot) in old.rows_mut().into_iter().zip(batch) {
            to.assign(&ArrayView1::from(&*index.core.vectors.row(slot)));
        }
        (Changes::undoing(&changes, &index.core.links), old)
    });
    index.commit(|index| {
        index.core.links.write(&changes);
        index.core.links.take_dropped();
    });
    let (mut stored, mut linked) = (None, None);
    let relinked = catch(|| {
        stored = Some(index.store(batch, vectors.slice_axis(Axis(0), Slice::from(..batch.len()))));
        let changes = index.plan(|index| index.plan_insert(batch, None, Changes::none(&index.core.links)));
        linked = Some(index.plan(|index| Changes::undoing(&changes, &index.core.links)));
        index.commit(|index| index.core.links.write(&changes));
        seek(index, batch.to_vec());
        Ok(())
    });
    if let Err(refused) = relinked {
        index.commit(|index| {
            linked.iter().for_each(|undo| index.core.links.write(undo));
            if let Some(stored) = stored {
                index.core.vectors.take_back(stored);
                index.core.vectors.store(batch, old.view());
            }
            index.core.links.write(&undo);
        });
        refused.throw()
    }
    batch.len()
}

/// The first of the slots, as many as go out of the graph together, and what takes them out.
fn next_batch<'a>(index: &mut impl Access, slots: &'a [u32]) -> (&'a [u32], Changes) {
    index.plan(|index| {
        let batch = &slots[..batch_len(index.len()).min(slots.len())];
        (batch, index.plan_unlink(batch))
    })
}

/// What ends a call early tells what was done.
fn stopped(stop: Error, report: impl Fn() -> String) -> Error {
    match stop {
        Error::Interrupted(_) => Error::Interrupted(format!("interrupted: {}", report())),
        Error::Memory(what) => Error::Memory(format!("{}: {what}", report())),
        other => other,
    }
}
