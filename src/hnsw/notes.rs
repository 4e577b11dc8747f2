//! What one `add` of many rows keeps, until it ends, to link them faster.

use super::HnswIndex;
use super::select::{Before, Fate};
use super::traverse::Core;
use super::vectors::Sketch;
use crate::memory;
use ndarray::ArrayView2;

/// Rows held for one that is added, at most: to code one takes as long as a few distances.
const NOTED: usize = 16;

/// What one `add` of many rows keeps.
#[derive(Debug)]
pub(super) struct Notes {
    /// Codes of all rows, where they tell rows apart.
    pub sketch: Option<Sketch>,
    pub choices: Choices,
    /// Where lists that are chosen anew are put together, and what became of their rows.
    pub room: (Vec<u32>, Vec<Fate>),
}

impl Notes {
    /// For an `add` of `vectors`, if they are many beside the rows held.
    pub fn for_rows(index: &HnswIndex, vectors: ArrayView2<'_, f32>) -> Option<Self> {
        let Core { rows, vectors: stored, .. } = &index.core;
        (rows.len() / NOTED <= vectors.nrows()).then(|| {
            let held = memory::collect(rows.by_slot());
            let slots = rows.slots() + vectors.nrows();
            Self {
                sketch: stored.new_sketch(&held, vectors),
                choices: Choices::new(2 * index.params.m, slots),
                room: Default::default(),
            }
        })
    }

    /// Gives up codes that do not tell most rows apart, and what was chosen by them.
    pub fn give_up_blurred(&mut self) {
        if self.sketch.take_if(|sketch| sketch.is_blurred()).is_some() {
            self.choices.prints.fill(0);
        }
    }
}

/// What the last choice for each full list of level 0 made of its rows.
#[derive(Debug)]
pub(super) struct Choices {
    width: usize,
    /// By slot and place in the list.
    fates: Vec<Fate>,
    /// What the list hashed to, since others change lists as well; 0 where none was chosen.
    prints: Vec<u64>,
}

impl Choices {
    /// For lists of `width` rows of so many slots.
    pub fn new(width: usize, slots: usize) -> Self {
        Self { width, fates: memory::vec![Fate::default(); slots * width], prints: memory::vec![0; slots] }
    }

    /// Takes down what a choice for `slot` made of the rows of a list; of one that is not full, nothing.
    pub fn note(&mut self, slot: u32, list: &[u32], fates: &[Fate]) {
        let slot = slot as usize;
        let is_full = list.len() == self.width;
        self.prints[slot] = if is_full { print(list) } else { 0 };
        if is_full {
            self.fates[slot * self.width..][..self.width].copy_from_slice(fates);
        }
    }

    /// What the last choice for `slot` made of the rows of its list.
    pub fn of<'a>(&'a self, slot: u32, list: &'a [u32]) -> impl Iterator<Item = Before> + 'a {
        let fates = &self.fates[slot as usize * self.width..][..self.width];
        let is_known = list.len() == self.width && self.prints[slot as usize] == print(list);
        let before = move |&fate: &Fate| if is_known { fate.in_list(list) } else { Before::Unseen };
        fates.iter().take(list.len()).map(before)
    }
}

/// A hash, not 0.
fn print(list: &[u32]) -> u64 {
    let mix =
        |sum: u64, &slot: &u32| (sum.rotate_left(5) ^ u64::from(slot)).wrapping_mul(0x517c_c1b7_2722_0a95);
    list.iter().fold(1, mix) | 1
}
