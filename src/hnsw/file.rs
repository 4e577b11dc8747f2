//! Saving and loading. The file is untrusted: checksums find damage, and everything that the search relies on is
//! checked besides, so that a file made to deceive may give wrong answers but never an access out of bounds, an
//! endless walk or a row out of reach.
//!
//! A file may be searched where it lies, mapped. Its vectors are then verified as they are touched; what the walk is
//! led by (links, levels, parents, rows, terms of distances) is verified and read at load all the same, so that no number
//! that was checked can change under a walk.

use super::links::{Links, NONE};
use super::rows::Rows;
use super::traverse::{Core, Lists};
use super::vectors::{Reading, Vectors};
use super::visited::Pool;
use super::{HnswIndex, Params};
use crate::error::{Error, Result, catch};
use crate::lines::Lines;
use crate::memory;
use crate::storage::{self, Reader, Writer};
use serde_json::{Value, json};
use std::path::Path;

const KIND: &str = "hnsw";
/// 1: rows and slots were the same numbers. 2: they were as long as no row was removed, and terms of distances were left
/// to the reader. 3: rows of `storage="i8"` had no stretches, and nothing was said of how rows are linked under `ip`.
const VERSION: u32 = 4;

/// How [`HnswIndex::load`] reads a file.
///
/// ```
/// let mut mapped = ruvector_gnn::hnsw::LoadOptions::default();
/// mapped.mmap = true;
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Leave the vectors in the file, which is mapped, and verify them as they are touched, in blocks of 64 KiB. Where codes
    /// are kept beside exact vectors (`rescore`), the codes are read and the exact vectors stay.
    pub mmap: bool,
    /// Verify a mapped file whole at load; a file that is read always is.
    pub verify: bool,
}

impl HnswIndex {
    /// Writes the index in the place of `path`, which may be the file that it is mapped from: a crash leaves the old file
    /// or the new one, whole. In the middle of an `add` it is refused with [`Error::Config`]: see
    /// [`SharedIndex::settled`](super::SharedIndex::settled).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        if !self.core.rows.is_settled() {
            return Err(Error::Config("an index can't be saved in the middle of an add".into()));
        }
        self.verify()?;
        match self.core.vectors.file() {
            None => self.with_writer(|writer| writer.save(path)),
            Some((file, _)) => storage::replace(path.as_ref(), |out| out.write_all(file.bytes())),
        }
    }

    /// The bytes that [`save`](Self::save) writes, of use only between calls of `add`; of a mapped index those of its file,
    /// which have not been verified.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.core.vectors.file() {
            None => self.with_writer(|writer| writer.to_bytes()),
            Some((file, _)) => memory::copy_of(file.bytes()),
        }
    }

    /// Reads what [`save`](Self::save) wrote. A file that is damaged, cut short, of another kind or of a later
    /// version is refused with [`Error::Format`].
    ///
    /// With `mmap` the vectors stay in the file: what is damaged in them is found when it is first touched, and every
    /// search or other reading of vectors from then on is refused with `Format`. The first change brings them into memory;
    /// the file is never written. It may be replaced meanwhile, as `save` does, and must not be changed in place: see
    /// [`Mapped`](crate::storage::Mapped). Without the feature `mmap` this is [`Error::Config`].
    ///
    /// ```
    /// use ndarray::array;
    /// use ruvector_gnn::hnsw::{HnswIndex, LoadOptions, Params};
    /// use ruvector_gnn::monitor::Silent;
    /// # #[cfg(feature = "mmap")] {
    /// let path = std::env::temp_dir().join(format!("mapped-{}.rvx", std::process::id()));
    /// let mut index = HnswIndex::new(2, Params::default())?;
    /// index.add(array![[1.0, 0.0], [0.0, 1.0]].view(), &mut Silent)?;
    /// index.save(&path)?;
    /// let mut options = LoadOptions::default();
    /// options.mmap = true;
    /// let mapped = HnswIndex::load(&path, options)?;
    /// let query = array![[1.0, 0.1]];
    /// assert_eq!(mapped.search(query.view(), 2, None, None)?, index.search(query.view(), 2, None, None)?);
    /// assert!(mapped.mapped().is_some() && index.mapped().is_none());
    /// # std::fs::remove_file(&path).unwrap();
    /// # }
    /// # Ok::<(), ruvector_gnn::Error>(())
    /// ```
    pub fn load(path: impl AsRef<Path>, options: LoadOptions) -> Result<Self> {
        catch(|| {
            let reader = if options.mmap {
                Reader::map(path, KIND, VERSION)?
            } else {
                Reader::open(path, KIND, VERSION)?
            };
            Self::read(&reader, options.verify)
        })
    }

    /// Reads what [`to_bytes`](Self::to_bytes) made.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        catch(|| Self::read(&Reader::from_bytes(bytes, KIND, VERSION)?, true))
    }

    /// The file that the index is mapped from, and its checksum: another file in its place has another. `None` if the
    /// index is in memory.
    pub fn mapped(&self) -> Option<(&Path, u32)> {
        self.core.vectors.file().map(|(file, checksum)| (file.path(), checksum))
    }

    /// Maps again the file that [`mapped`](Self::mapped) told of, or refuses another that stands in its place with
    /// [`Error::Format`].
    pub fn remap(path: impl AsRef<Path>, checksum: u32) -> Result<Self> {
        let reader = Reader::map(path, KIND, VERSION)?;
        if reader.checksum() != checksum {
            return Err(reader.damaged("another file than was mapped before"));
        }
        Self::read(&reader, false)
    }

    /// Verifies what was not touched yet of a mapped file; [`Error::Format`] if it is damaged. An
    /// index in memory was verified when it was loaded.
    pub fn verify(&self) -> Result<()> {
        self.core.vectors.verify()
    }

    /// A number that differs, but for a chance of 2^-64, between indexes of other parameters, vectors or rows. Of a mapped
    /// index all vectors are read, and what is damaged is refused with [`Error::Format`].
    pub fn fingerprint(&self) -> Result<u64> {
        self.verify()?;
        let config = self.config().to_string();
        let mut low = crc32fast::Hasher::new();
        low.update(config.as_bytes());
        self.core.vectors.digest(&mut low);
        let mut high = crc32fast::Hasher::new_with_initial(0x9e37_79b9);
        high.update(bytemuck::cast_slice(self.core.links.level0()));
        high.update(bytemuck::cast_slice(self.core.rows.slots_of_rows()));
        high.update(config.as_bytes());
        Ok(u64::from(high.finalize()) << 32 | u64::from(low.finalize()))
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

    fn read(reader: &Reader, verify: bool) -> Result<Self> {
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
        let slots = rows.slots();
        let free = memory::collect((0..slots as u32).filter(|&slot| rows.is_free(slot)));
        let vectors = Vectors::read(Reading { reader, dim, params: &empty.params, slots, free, verify })?;
        Ok(Self { core: Core { rows, vectors, links }, pool: Pool::default(), ..empty })
    }
}

fn read_rows(reader: &Reader, slots: usize) -> Result<Rows> {
    if reader.version() == 1 {
        let all = memory::collect(0..slots as u32);
        return Rows::from_slots_of_rows(all, slots).map_err(|how| reader.damaged(how));
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
