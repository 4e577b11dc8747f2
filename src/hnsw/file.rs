//! Saving and loading. The file is untrusted: checksums find damage, and everything that the search relies on is
//! checked besides, so that a file made to deceive may give wrong answers but never an access out of bounds, an
//! endless walk or a row out of reach.

use super::links::{Links, NONE};
use super::rows::Rows;
use super::traverse::Core;
use super::vectors::Vectors;
use super::visited::Pool;
use super::{HnswIndex, Params};
use crate::error::Result;
use crate::lines::Lines;
use crate::storage::{Reader, Writer};
use serde_json::{Value, json};
use std::path::Path;

const KIND: &str = "hnsw";
/// 1: rows and slots were the same numbers.
const VERSION: u32 = 2;

/// How [`HnswIndex::load`] reads a file. Nothing to choose yet.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct LoadOptions {}

impl HnswIndex {
    /// Writes the index in the place of `path`: a crash leaves the old file or the new one, whole.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.with_writer(|writer| writer.save(path))
    }

    /// The bytes that [`save`](Self::save) writes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.with_writer(|writer| writer.to_bytes())
    }

    /// Reads what [`save`](Self::save) wrote. A file that is damaged, cut short, of another kind or of a later
    /// version is refused with [`Error::Format`](crate::Error::Format).
    pub fn load(path: impl AsRef<Path>, _options: LoadOptions) -> Result<Self> {
        Self::read(&Reader::open(path, KIND, VERSION)?)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) made.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::read(&Reader::from_bytes(bytes, KIND, VERSION)?)
    }

    /// A number that differs, but for a chance of 2^-64, between indexes of other parameters, vectors or rows.
    pub fn fingerprint(&self) -> u64 {
        let config = self.config().to_string();
        let mut low = crc32fast::Hasher::new();
        low.update(config.as_bytes());
        self.core.vectors.digest(&mut low);
        let mut high = crc32fast::Hasher::new_with_initial(0x9e37_79b9);
        high.update(bytemuck::cast_slice(self.core.links.level0()));
        high.update(bytemuck::cast_slice(self.core.rows.slots_of_rows()));
        high.update(config.as_bytes());
        u64::from(high.finalize()) << 32 | u64::from(low.finalize())
    }

    fn with_writer<R>(&self, task: impl FnOnce(Writer<'_>) -> R) -> R {
        let (rows, links) = (&self.core.rows, &self.core.links);
        let upper = links.upper();
        let writer = Writer::new(KIND, VERSION)
            .section("config", self.config().to_string().into_bytes())
            .values("levels", links.levels())
            .values("parents", links.parents())
            .values("links", links.level0())
            .values("upper_links", &upper)
            .values("slots", rows.slots_of_rows());
        task(self.core.vectors.write(writer))
    }

    fn config(&self) -> Value {
        let params = &self.params;
        json!({
            "dim": self.dim(), "rows": self.len(), "entry": self.core.links.entry(),
            "metric": params.metric.name(), "m": params.m, "ef_construction": params.ef_construction,
            "ef_search": params.ef_search, "storage": params.storage.name(), "rescore": params.rescore,
            "seed": params.seed,
        })
    }

    fn read(reader: &Reader) -> Result<Self> {
        let config = reader.section("config")?;
        let config: Value = serde_json::from_slice(&config).map_err(|how| reader.damaged(how))?;
        let number = |name: &str| {
            let value = config[name].as_u64().and_then(|value| usize::try_from(value).ok());
            value.ok_or_else(|| reader.damaged(format!("config: {name} is not a number")))
        };
        let text = |name: &str| {
            config[name].as_str().ok_or_else(|| reader.damaged(format!("config: {name} is not a text")))
        };
        let params = Params {
            metric: text("metric")?.parse().map_err(|how| reader.damaged(how))?,
            m: number("m")?,
            ef_construction: number("ef_construction")?,
            ef_search: number("ef_search")?,
            storage: text("storage")?.parse().map_err(|how| reader.damaged(how))?,
            rescore: config["rescore"].as_bool().unwrap_or(true),
            seed: config["seed"].as_u64().ok_or_else(|| reader.damaged("config: seed is not a number"))?,
        };
        let (held, dim) = (number("rows")?, number("dim")?);
        let empty = Self::new(dim, params).map_err(|how| reader.damaged(how))?;
        let levels: Vec<u8> = reader.values("levels")?;
        let rows = read_rows(reader, levels.len())?;
        if rows.len() != held {
            return Err(reader.damaged(format!("{} rows, expected {held}", rows.len())));
        }
        let links = read_links(reader, empty.params.m, &levels, &rows, number("entry")?)?;
        let is_free = |slot: u32| (slot as usize) < rows.slots() && rows.is_free(slot);
        let vectors = Vectors::read(reader, dim, &empty.params, rows.slots(), &is_free)?;
        Ok(Self { core: Core { rows, vectors, links }, pool: Pool::default(), ..empty })
    }
}

fn read_rows(reader: &Reader, slots: usize) -> Result<Rows> {
    if reader.version() == 1 {
        let mut rows = Rows::default();
        rows.hand_out(slots);
        return Ok(rows);
    }
    Rows::from_slots_of_rows(reader.values("slots")?, slots).map_err(|how| reader.damaged(how))
}

fn read_links(reader: &Reader, m: usize, levels: &[u8], rows: &Rows, entry: usize) -> Result<Links> {
    let parents: Vec<u32> = reader.values("parents")?;
    let mut tables =
        [Lines::zeros(reader.count::<u32>("links")?), Lines::zeros(reader.count::<u32>("upper_links")?)];
    reader.values_into("links", &mut tables[0])?;
    reader.values_into("upper_links", &mut tables[1])?;
    let entry = u32::try_from(entry).unwrap_or(NONE);
    let links = Links::from_tables(m, levels, &parents, tables, entry, |slot| rows.is_free(slot));
    links.map_err(|how| reader.damaged(how))
}
