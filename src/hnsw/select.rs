//! Which rows a list holds.
//!
//! From candidates in order of distance, one is left out if it is nearer to a chosen one than to the row (Malkov & Yashunin
//! 2018, algorithm 4), since it can be reached through that one, its [shadow](shadows). What was left out fills the list up.
//!
//! A full list is chosen anew for each row that is linked to it, from the same candidates and that one. Where it is known
//! what became of them [last time](super::notes), one that stood is compared with those alone that were not chosen then, and
//! one that was shadowed with none while its shadow stays. The outcome is the same.

use super::links::NONE;
use super::queue::{distance_of, slot_of};
use super::vectors::{Probe, Room, Sketch, Vectors};

/// Chosen rows that a candidate is compared with at once.
const AT_ONCE: usize = 8;

/// What distances between rows are taken by when links are chosen.
#[derive(Clone, Copy)]
pub(super) enum Ruler<'a> {
    /// The rows as the graph is built by them.
    Rows(&'a Vectors),
    /// Codes of all rows.
    Sketch(&'a Sketch),
}

impl Ruler<'_> {
    /// A row that is compared with others; `room` is for its copy.
    #[inline]
    pub fn probe<'a>(&'a self, slot: u32, room: &'a mut Room) -> Probe<'a> {
        match self {
            Self::Rows(vectors) => vectors.probe(slot, room),
            Self::Sketch(sketch) => sketch.probe(slot),
        }
    }

    /// Whether the score of a pair depends on the side that it is seen from.
    fn is_directed(&self) -> bool {
        match self {
            Self::Rows(vectors) => vectors.is_directed(),
            Self::Sketch(sketch) => sketch.is_directed(),
        }
    }
}

/// What the last choice for a list made of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// It was not there, or it is not known.
    Unseen,
    /// It was chosen without being compared.
    Owed,
    /// It was chosen.
    Stood,
    /// It was left out for this slot.
    Shadowed(u32),
}

/// What became of a row of a list: two bytes, for there is one for each link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate(u16);

impl Fate {
    const UNKNOWN: Self = Self(0);
    const OWED: Self = Self(1);
    const STOOD: Self = Self(2);

    fn shadowed(place: usize) -> Self {
        Self(place as u16 + 3)
    }

    /// The same, of a row of `list`.
    pub fn in_list(self, list: &[u32]) -> Before {
        match self {
            Self::UNKNOWN => Before::Unseen,
            Self::OWED => Before::Owed,
            Self::STOOD => Before::Stood,
            Self(place) => Before::Shadowed(list[usize::from(place) - 3]),
        }
    }
}

/// A choice, and room for making it.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Keys in order, with what is known of them.
    pub candidates: Vec<(u64, Before)>,
    /// What was chosen, as keys, then what fills the list up.
    pub keys: Vec<u64>,
    /// What became of these.
    pub fates: Vec<Fate>,
    slots: Vec<u32>,
    left: Vec<(u64, Fate)>,
    /// By place of a candidate, the first row chosen only now that shadows it.
    struck: Vec<u32>,
    later: Vec<u32>,
    later_slots: Vec<u32>,
    distances: Vec<f32>,
    room: Room,
}

impl Selection {
    /// Chooses, from candidates of which nothing is known, up to `limit`, and fills up with those that are left out.
    pub fn choose(&mut self, ruler: Ruler<'_>, candidates: &[u64], limit: usize) {
        self.candidates.clear();
        self.candidates.extend(candidates.iter().map(|&key| (key, Before::Unseen)));
        self.choose_again(ruler, limit, |_| false);
    }

    /// As [`choose`](Self::choose), from [`candidates`](Self::candidates). Those that `must` stay are chosen whatever they
    /// are near to.
    pub fn choose_again(&mut self, ruler: Ruler<'_>, limit: usize, must: impl Fn(u32) -> bool) {
        self.keys.clear();
        self.fates.clear();
        self.slots.clear();
        self.left.clear();
        self.struck.clear();
        let mut owed = self.candidates.iter().filter(|(key, _)| must(slot_of(*key))).count();
        for place in 0..self.candidates.len() {
            let (key, before) = self.candidates[place];
            let must_stay = must(slot_of(key));
            owed -= usize::from(must_stay);
            if !must_stay {
                if self.keys.len() + owed >= limit {
                    continue;
                }
                if let Some(shadow) = self.shadow(ruler, place) {
                    self.left.push((key, Fate::shadowed(shadow)));
                    continue;
                }
            }
            self.keys.push(key);
            self.slots.push(slot_of(key));
            self.fates.push(if must_stay { Fate::OWED } else { Fate::STOOD });
            if matches!(before, Before::Unseen | Before::Shadowed(_)) {
                self.strike(ruler, place);
            }
        }
        let room = limit - self.keys.len().min(limit);
        for &(key, fate) in self.left.iter().take(room) {
            self.keys.push(key);
            self.fates.push(fate);
        }
    }

    /// The place of the first of the chosen that shadows a candidate.
    fn shadow(&mut self, ruler: Ruler<'_>, place: usize) -> Option<usize> {
        let (key, before) = self.candidates[place];
        let known = match before {
            Before::Stood => Some(self.struck.get(place).copied().unwrap_or(NONE)),
            Before::Shadowed(shadow) => Some(shadow),
            Before::Unseen | Before::Owed => None,
        };
        let shadow = known.and_then(|shadow| self.slots.iter().position(|&slot| slot == shadow));
        if shadow.is_some() || before == Before::Stood {
            return shadow;
        }
        let probe = ruler.probe(slot_of(key), &mut self.room);
        for (part, (keys, slots)) in self.keys.chunks(AT_ONCE).zip(self.slots.chunks(AT_ONCE)).enumerate() {
            self.distances.resize(slots.len(), 0.0);
            probe.score(slots, &mut self.distances);
            let mut pairs = keys.iter().zip(&self.distances);
            let found = pairs
                .position(|(&other, &between)| shadows(between, distance_of(key), || distance_of(other)));
            if let Some(found) = found {
                return Some(part * AT_ONCE + found);
            }
        }
        None
    }

    /// Marks the candidates that stood without the one at `place`, and are shadowed by it.
    fn strike(&mut self, ruler: Ruler<'_>, place: usize) {
        let Self { candidates, struck, later, later_slots, distances, room, .. } = self;
        let key = candidates[place].0;
        let is_open = |&at: &u32| {
            let at = at as usize;
            candidates[at].1 == Before::Stood && struck.get(at).is_none_or(|&shadow| shadow == NONE)
        };
        later.clear();
        later.extend((place as u32 + 1..candidates.len() as u32).filter(is_open));
        if later.is_empty() {
            return;
        }
        later_slots.clear();
        later_slots.extend(later.iter().map(|&at| slot_of(candidates[at as usize].0)));
        distances.resize(later.len(), 0.0);
        if ruler.is_directed() {
            for (&slot, distance) in later_slots.iter().zip(&mut *distances) {
                *distance = ruler.probe(slot, room).distance(slot_of(key));
            }
        } else {
            ruler.probe(slot_of(key), room).score(later_slots, distances);
        }
        struck.resize(candidates.len(), NONE);
        for (&at, &between) in later.iter().zip(&*distances) {
            if shadows(between, distance_of(candidates[at as usize].0), || distance_of(key)) {
                struck[at as usize] = slot_of(key);
            }
        }
    }
}

/// Whether a candidate for a list can be left out for a neighbour of the row that is `between` from it: it is nearer to
/// that one than to the row, which is `distance` from it and `beside` from the neighbour, or all three are equally far.
///
/// Of copies of the row one is enough, and it must not stand for all other rows, which are as far from it as from the row:
/// copies whose lists hold nothing else would keep every walk that enters among them.
pub(super) fn shadows(between: f32, distance: f32, beside: impl FnOnce() -> f32) -> bool {
    between < distance || between == distance && beside() == distance
}
