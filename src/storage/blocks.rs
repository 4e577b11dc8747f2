//! A section of a mapped file, verified block by block as it is read.
//!
//! Which blocks were verified is a bitmap of atomics: threads that touch the same block at once both verify it, and
//! none waits. The file is never written, so that the bits order nothing but themselves.

#![forbid(unsafe_code)]

use super::layout::{Entry, crc_of};
use super::mapped::Mapped;
use crate::error::{Error, Result};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// What the kind of file demands of its values, of which those in a range are asked for.
pub type Check<'a> = &'a dyn Fn(Range<usize>) -> Result<(), String>;

/// The numbers of a blocked section where they lie in a mapped file; see
/// [`Reader::blocks`](super::Reader::blocks).
///
/// The first damage found is remembered, for the caller to ask for when it has done what it read the values for: what
/// it read in a damaged block is wrong, but is safely read.
#[derive(Debug)]
pub struct Blocks<T> {
    file: Arc<Mapped>,
    /// Where the values lie, and their padding with them.
    place: Range<usize>,
    padded: Range<usize>,
    /// Bytes per block, as a power of two.
    shift: u32,
    checksums: Vec<u32>,
    seen: Vec<AtomicU64>,
    unseen: AtomicUsize,
    damage: OnceLock<String>,
    label: String,
    values: PhantomData<T>,
}

impl<T: bytemuck::AnyBitPattern> Blocks<T> {
    /// Over the section of `entry`, which the table of the file places within it and cuts into blocks of a power of two;
    /// `checksums` has one for each.
    pub(super) fn new(file: Arc<Mapped>, label: String, entry: &Entry, checksums: Vec<u32>) -> Result<Self> {
        let padded = entry.padded().expect("the table was checked") as usize;
        let start = entry.offset as usize;
        let (place, padded) = (start..start + entry.len as usize, start..start + padded);
        // Sections start on lines, and so does the map.
        bytemuck::try_cast_slice::<u8, T>(&file.bytes()[place.clone()])
            .map_err(|how| Error::Format(format!("{label}: {how}")))?;
        Ok(Self {
            file,
            place,
            padded,
            shift: entry.block.trailing_zeros(),
            seen: (0..checksums.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            unseen: AtomicUsize::new(checksums.len()),
            checksums,
            damage: OnceLock::new(),
            label,
            values: PhantomData,
        })
    }

    /// All values, verified or not: only what was [touched](Self::touch) is known to be what was written.
    #[inline]
    pub fn values(&self) -> &[T] {
        bytemuck::cast_slice(&self.file.bytes()[self.place.clone()])
    }

    /// Verifies the blocks that hold `values`, a range that lies within the section, unless that was done before. `check` is
    /// asked about the values of a block whose checksum is right.
    #[inline]
    pub fn touch(&self, values: Range<usize>, check: Check<'_>) {
        if self.unseen.load(Relaxed) > 0 && !values.is_empty() {
            let first = (values.start * size_of::<T>()) >> self.shift;
            let last = (values.end * size_of::<T>() - 1) >> self.shift;
            for block in first..=last {
                if self.seen[block / 64].load(Relaxed) >> (block % 64) & 1 == 0 {
                    self.verify(block, check);
                }
            }
        }
    }

    /// Verifies all blocks, as [`touch`](Self::touch) does.
    pub fn touch_all(&self, check: Check<'_>) {
        self.touch(0..self.place.len() / size_of::<T>(), check);
    }

    /// The damage that was found, if any was, as [`Error::Format`].
    pub fn require_sound(&self) -> Result<()> {
        self.damage.get().map_or(Ok(()), |how| Err(Error::Format(how.clone())))
    }

    #[cold]
    fn verify(&self, block: usize, check: Check<'_>) {
        // What follows on damage is thrown away by the caller, and need not be verified again and again.
        if self.damage.get().is_some() {
            return;
        }
        let bytes = &self.file.bytes()[self.padded.clone()];
        let (start, end) = (block << self.shift, ((block + 1) << self.shift).min(bytes.len()));
        let values = start.min(self.place.len())..end.min(self.place.len());
        let sound = if crc_of(&[&bytes[start..end]]) == self.checksums[block] {
            check(values.start / size_of::<T>()..values.end / size_of::<T>())
        } else {
            Err(format!("block {block} of {} is damaged", self.checksums.len()))
        };
        match sound {
            Err(how) => drop(self.damage.set(format!("{}: {how}", self.label))),
            Ok(()) => {
                let bit = 1 << (block % 64);
                if self.seen[block / 64].fetch_or(bit, Relaxed) & bit == 0 {
                    self.unseen.fetch_sub(1, Relaxed);
                }
            }
        }
    }
}
