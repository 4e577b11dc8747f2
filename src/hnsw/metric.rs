//! How two vectors are compared: the smaller, the nearer.

use crate::error::{Error, Result};

/// The distance of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// `1 - <q, x> / (|q| |x|)`.
    Cosine,
    /// `|q - x|^2`, the squared Euclidean distance.
    L2,
    /// `1 - <q, x>`, the inner product turned round (as hnswlib).
    Ip,
}

impl Metric {
    /// All metrics.
    pub const ALL: [Metric; 3] = [Metric::Cosine, Metric::L2, Metric::Ip];

    /// The name that the constructor takes.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::L2 => "l2",
            Metric::Ip => "ip",
        }
    }
}

impl std::str::FromStr for Metric {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        let found = Metric::ALL.into_iter().find(|metric| metric.name() == name);
        found.ok_or_else(|| Error::Config(format!("metric must be 'cosine', 'l2' or 'ip', got '{name}'")))
    }
}
