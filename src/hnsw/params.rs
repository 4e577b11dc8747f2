//! What an index is built with.

use super::metric::Metric;
use crate::error::{Error, Result};

/// The parameters of an index, as Malkov & Yashunin (2018) name them.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// How vectors are compared.
    pub metric: Metric,
    /// Links per row on the upper levels; level 0 holds `2 m`. From 2 to 256.
    pub m: usize,
    /// Candidates that a new row is linked from. At least 1.
    pub ef_construction: usize,
    /// Candidates that a search keeps, unless it says otherwise. At least 1.
    pub ef_search: usize,
    /// How vectors are stored.
    pub storage: Storage,
    /// Whether quantized candidates are scored again with the exact vectors; exact storage has no need to.
    pub rescore: bool,
    /// What levels and insertion order are drawn from.
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            metric: Metric::Cosine,
            m: 16,
            ef_construction: 200,
            ef_search: 64,
            storage: Storage::F32,
            rescore: true,
            seed: 0,
        }
    }
}

impl Params {
    /// Refuses values outside their domain.
    pub fn validate(&self) -> Result<()> {
        if !(2..=256).contains(&self.m) {
            return Err(Error::Config(format!("m must be from 2 to 256, got {}", self.m)));
        }
        for (name, value) in [("ef_construction", self.ef_construction), ("ef_search", self.ef_search)] {
            if value == 0 || value > u32::MAX as usize {
                return Err(Error::Config(format!("{name} must be from 1 to {}, got {value}", u32::MAX)));
            }
        }
        Ok(())
    }
}

/// How vectors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As given, four bytes a value.
    F32,
    /// In half precision, two bytes a value.
    F16,
    /// One byte a value, on a range per dimension.
    I8,
    /// One bit a value: whether it lies above the mean of its dimension.
    Binary,
}

impl Storage {
    /// All of them.
    pub const ALL: [Storage; 4] = [Storage::F32, Storage::F16, Storage::I8, Storage::Binary];

    /// The name that the constructor takes.
    pub fn name(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::I8 => "i8",
            Storage::Binary => "binary",
        }
    }
}

impl std::str::FromStr for Storage {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        let known = Storage::ALL.into_iter().find(|storage| storage.name() == name);
        known.ok_or_else(|| {
            Error::Config(format!("storage must be 'f32', 'f16', 'i8' or 'binary', got '{name}'"))
        })
    }
}
