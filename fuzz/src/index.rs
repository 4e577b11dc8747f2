//! Index files: reading any bytes, and all that an index does after it was read.

use crate::rng::Rng;
use crate::sections::{File, name_of, repair};
use crate::{Mutate, mutate_bytes, put, scratch_file};
use ndarray::Array2;
use ruvector_gnn::hnsw::{Filter, Hits, HnswIndex, LoadOptions, Metric, Params, RangeHits, Storage};
use ruvector_gnn::monitor::Silent;
use ruvector_gnn::{Error, Result};
use serde_json::{Value, json};
use std::sync::Once;

/// Vectors of more values are only loaded: an empty index of a million dimensions takes a few bytes of a file.
const MAX_DIM: usize = 512;

/// Rows per query.
const K: usize = 3;

/// What the file says about blocks that only a mapped file must have.
const UNMAPPABLE: &str = "can't be verified one by one";

/// Reads an index in memory, mapped and verified, mapped and not verified; requires that all agree, and tries whatever
/// was accepted.
pub fn check(data: &[u8]) {
    static ONE_THREAD: Once = Once::new();
    ONE_THREAD.call_once(|| ruvector_gnn::threads::set_num_threads(1).unwrap());
    let read = HnswIndex::from_bytes(data.to_vec());
    let path = scratch_file("index.rvx");
    std::fs::write(&path, data).unwrap();
    let mut options = LoadOptions::default();
    options.mmap = true;
    let lazy = HnswIndex::load(&path, options);
    options.verify = true;
    let verified = HnswIndex::load(&path, options);
    for outcome in [&read, &lazy, &verified] {
        assert!(matches!(outcome, Ok(_) | Err(Error::Format(_))), "not a format error: {outcome:?}");
    }
    match (&read, &verified) {
        (Ok(_), Err(error)) => assert!(error.to_string().contains(UNMAPPABLE), "mapped: {error}"),
        (Err(error), Ok(_)) => panic!("a mapped file is accepted, but not in memory: {error}"),
        _ => {}
    }
    let expected = read.as_ref().ok().map(|index| searches(index).expect("an index in memory is sound"));
    if let Ok(index) = &read {
        check_sound(index);
        check_stored(index);
        check_changed(index.clone(), Rng::new(crc32fast::hash(data)));
    }
    for mapped in [lazy, verified].into_iter().flatten() {
        match (searches(&mapped), &expected) {
            (Ok(found), Some(expected)) => assert_eq!(&found, expected, "mapped and read differ"),
            // What is wrong may lie where no search went.
            (Ok(_), None) => {}
            (Err(Error::Format(_)), None) => {}
            (Err(error), _) => panic!("{error}"),
        }
        let mut owned = mapped.clone();
        match owned.compact() {
            Ok(()) => assert!(expected.is_some(), "changing an index verifies all of it"),
            Err(error) => assert!(expected.is_none() && matches!(error, Error::Format(_)), "{error}"),
        }
    }
    std::fs::remove_file(&path).unwrap();
}

/// What some searches find.
#[derive(Debug, PartialEq)]
struct Found {
    hits: Vec<Hits>,
    ranges: Vec<RangeHits>,
}

/// Queries that lie near rows whatever these are, and some that do not.
fn queries(index: &HnswIndex) -> Array2<f32> {
    Array2::from_shape_fn((3, index.dim()), |(query, column)| match query {
        0 => 1.0,
        1 => column as f32 - 0.5,
        _ => -((column % 3) as f32) - 0.25,
    })
}

fn searches(index: &HnswIndex) -> Result<Found> {
    let mut found = Found { hits: Vec::new(), ranges: Vec::new() };
    if index.dim() > MAX_DIM || index.num_rows() > 1 << 16 {
        return Ok(found);
    }
    let queries = queries(index);
    let queries = queries.view();
    let marks: Vec<bool> = (0..index.num_rows()).map(|row| row % 2 == 0).collect();
    let some: Vec<i64> = index.rows().filter(|row| row % 3 != 0).map(|row| row as i64).collect();
    found.hits.push(index.search(queries, K, None, None)?);
    found.hits.push(index.search(queries, K, Some(1), None)?);
    found.hits.push(index.search(queries, K, Some(usize::MAX), None)?);
    found.hits.push(index.exact_search(queries, K, None)?);
    found.hits.push(index.search(queries, K, Some(2), Some(Filter::Mask(&marks)))?);
    found.hits.push(index.search(queries, K, None, Some(Filter::Rows(&some)))?);
    let radius = found.hits[3].distances[[0, 1]].into();
    for exact in [false, true] {
        found.ranges.push(index.range_search(queries, radius, exact)?);
    }
    for (i, hits) in found.hits.iter().enumerate() {
        let allowed = |row: i64| match i {
            4 => marks[row as usize],
            5 => some.contains(&row),
            _ => true,
        };
        let most = index.rows().filter(|&row| allowed(row as i64)).count().min(K);
        for (rows, distances) in hits.rows.rows().into_iter().zip(hits.distances.rows()) {
            let (rows, distances) = (rows.to_vec(), distances.to_vec());
            assert!(rows[..most].iter().all(|&row| index.contains(row) && allowed(row)), "{i}: {rows:?}");
            assert!((1..most).all(|at| !rows[..at].contains(&rows[at])), "{i}: {rows:?}");
            assert!(rows[most..].iter().all(|&row| row == -1), "{i}: {rows:?}");
            assert!(distances.is_sorted(), "{i}: {distances:?}");
        }
    }
    // With room for all rows a walk meets all of them; codes may rank them wrongly before some are scored again.
    if index.params().storage == Storage::F32 {
        assert_eq!(found.hits[2], found.hits[3]);
    }
    Ok(found)
}

/// What holds for every index that was accepted.
fn check_sound(index: &HnswIndex) {
    let rows: Vec<u64> = index.rows().collect();
    assert_eq!(rows.len(), index.len());
    assert!(rows.is_sorted() && rows.iter().all(|&row| index.contains(row as i64)));
    let vectors = index.vectors(None).unwrap();
    assert_eq!(vectors.dim(), (index.len(), index.dim()));
    let stats = index.stats();
    assert_eq!((stats.unreachable, stats.rows, stats.levels.len()), (0, index.len(), index.levels()));
    for level in 0..index.levels() {
        let graph = index.graph(level).unwrap();
        assert_eq!(
            (graph.num_nodes(), graph.num_edges()),
            (stats.levels[level].rows, stats.levels[level].links)
        );
    }
    let keeps_rows = index.params().storage == Storage::F32 || index.params().rescore;
    if keeps_rows && index.dim() <= MAX_DIM && !index.is_empty() {
        // A row that is held was allowed in, so it may be searched for.
        index.search(vectors.view(), 1, None, None).unwrap();
    }
}

/// Saving and loading again changes nothing.
fn check_stored(index: &HnswIndex) {
    let bytes = index.to_bytes();
    let again = HnswIndex::from_bytes(bytes.clone()).expect("what was saved can be read");
    assert_eq!(again.to_bytes(), bytes);
    assert_eq!(again.fingerprint().unwrap(), index.fingerprint().unwrap());
    assert_eq!(searches(&again).unwrap(), searches(index).unwrap());
}

/// Rows come and go, and what is left is an index that can be saved and read.
fn check_changed(mut index: HnswIndex, mut rng: Rng) {
    if index.dim() > MAX_DIM || index.num_rows() > 1 << 16 {
        return;
    }
    let queries = queries(&index);
    for _ in 0..4 {
        let rows: Vec<i64> = index.rows().map(|row| row as i64).collect();
        match rng.below(6) {
            0 | 1 => drop(index.add(queries.view(), &mut Silent).unwrap()),
            2 if !rows.is_empty() => {
                let row = rows[rng.below(rows.len())];
                index.update(&[row], queries.slice(ndarray::s![..1, ..]), &mut Silent).unwrap();
            }
            3 => index.optimize().unwrap(),
            4 => index.compact().unwrap(),
            _ => {
                let some: Vec<i64> = rows.into_iter().filter(|_| rng.one_in(3)).collect();
                index.remove(&some, &mut Silent).unwrap();
            }
        }
    }
    check_sound(&index);
    check_stored(&index);
}

/// Mutates an index file and repairs its checksums; one time in eight these stay wrong. The variable `FUZZ_REPAIR=0`
/// leaves all of them.
pub fn mutate(data: &mut [u8], size: usize, seed: u32, mutate: Mutate<'_>) -> usize {
    static REPAIR: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var_os("FUZZ_REPAIR").is_none_or(|value| value != "0"));
    let (mut rng, max) = (Rng::new(seed), data.len());
    let way = if *REPAIR { rng.below(8) } else { 0 };
    if way > 2
        && let Some(mut file) = File::parse(&data[..size]).filter(|file| !file.sections.is_empty())
    {
        for _ in 0..1 + rng.below(3) {
            if rng.one_in(6) {
                mutate_structure(&mut file, &mut rng);
            } else {
                mutate_section(&mut file, &mut rng, mutate);
            }
        }
        if let Some(size) = file.to_bytes(max).and_then(|bytes| put(&bytes, data)) {
            return size;
        }
    }
    let size = mutate(data, size);
    if way > 0 {
        repair(&mut data[..size]);
    }
    size
}

fn mutate_structure(file: &mut File, rng: &mut Rng) {
    let at = rng.below(file.sections.len());
    match rng.below(7) {
        0 => file.version = rng.pick(&[0, 1, 2, 3, 4, u32::MAX]),
        1 => drop((file.sections.len() > 1).then(|| file.sections.remove(at))),
        2 => {
            let mut copy = file.sections[at].clone();
            copy.name =
                name_of(rng.pick(&["later", "scales", "terms", "norms", "slots", "codes", "vectors"]));
            file.sections.push(copy);
        }
        3 => {
            file.sections[at].block = rng.pick(&[0, 1, 48, 63, 64, 65, 128, 4096, 1 << 16, 1 << 31, u32::MAX])
        }
        4 => {
            let other = rng.below(file.sections.len());
            file.sections.swap(at, other);
        }
        5 => (file.header_len, file.entry_len) = rng.pick(&[(64, 48), (65, 48), (64, 49), (128, 64)]),
        _ => drop(file.sections[at].bytes.pop()),
    }
}

fn mutate_section(file: &mut File, rng: &mut Rng, mutate: Mutate<'_>) {
    let slots =
        file.sections.iter().find(|section| section.is("levels")).map_or(0, |levels| levels.bytes.len());
    let at = rng.below(file.sections.len());
    let section = &mut file.sections[at];
    if section.is("config") {
        return mutate_config(&mut section.bytes, rng, mutate);
    }
    let len = section.bytes.len();
    if len == 0 || rng.one_in(3) {
        mutate_bytes(&mut section.bytes, len + 64, mutate);
        if !rng.one_in(4) {
            section.bytes.resize(len, 0);
        }
        return;
    }
    let is_number = |name: &&str| section.is(name);
    if section.is("levels") {
        section.bytes[rng.below(len)] = rng.pick(&[0, 1, 2, 3, 16, 254, 255]);
    } else if ["parents", "links", "upper_links", "slots"].iter().any(is_number) {
        let near = [u32::MAX, rng.below(slots.max(1)) as u32, rng.below(slots.max(1)) as u32, slots as u32];
        set_word(&mut section.bytes, rng, &near);
    } else if section.is("codes") {
        section.bytes[rng.below(len)] = rng.pick(&[0, 1, 127, 128, 255, 0x7c, 0xfc]);
    } else {
        let floats = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-16, 1e19, f32::MAX, f32::MIN, f32::INFINITY, f32::NAN];
        set_word(&mut section.bytes, rng, &floats.map(f32::to_bits));
    }
}

/// Sets a number of four bytes to one of `values`, or to another number of the section.
fn set_word(bytes: &mut [u8], rng: &mut Rng, values: &[u32]) {
    let words = bytes.as_chunks_mut::<4>().0;
    if words.is_empty() {
        return;
    }
    let (to, from) = (rng.below(words.len()), rng.below(words.len()));
    words[to] = if rng.one_in(3) { words[from] } else { rng.pick(values).to_le_bytes() };
}

fn mutate_config(bytes: &mut Vec<u8>, rng: &mut Rng, mutate: Mutate<'_>) {
    let Ok(Value::Object(mut config)) = serde_json::from_slice(bytes) else {
        return mutate_bytes(bytes, 4096, mutate);
    };
    if config.is_empty() || rng.one_in(8) {
        return mutate_bytes(bytes, bytes.len() + 64, mutate);
    }
    let keys: Vec<String> = config.keys().cloned().collect();
    let key = &keys[rng.below(keys.len())];
    let near = config[key].as_u64().unwrap_or(0);
    let value = match rng.below(4) {
        0 => json!(rng.pick(&["l2", "ip", "cosine", "f32", "f16", "i8", "binary", ""])),
        1 => rng
            .pick(&[json!(true), json!(false), json!(null), json!(-1), json!(0.5), json!([])].each_ref())
            .clone(),
        2 => json!(rng.pick(&[near.wrapping_sub(1), near.wrapping_add(1), near.wrapping_mul(2)])),
        _ => json!(rng.pick(&[0, 1, 2, 3, 16, 256, 257, 1 << 20, u32::MAX.into(), 1 << 32, u64::MAX])),
    };
    if rng.one_in(16) {
        config.remove(key);
    } else {
        config.insert(key.clone(), value);
    }
    *bytes = Value::Object(config).to_string().into_bytes();
}

/// Small indexes of every storage and metric, some changed since they were built, and files of older versions.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        for (storage, rescore) in
            Storage::ALL.into_iter().flat_map(|storage| [(storage, true), (storage, false)])
        {
            if storage == Storage::F32 && !rescore {
                continue;
            }
            let seed = seeds.len();
            let (dim, rows) = (1 + seed % 5, 3 + seed % 7);
            let params = Params {
                metric,
                m: 2,
                ef_construction: 4,
                ef_search: 3,
                storage,
                rescore,
                seed: seed as u64,
            };
            let mut index = HnswIndex::new(dim, params).unwrap();
            let value = |(row, column): (usize, usize)| ((row * 7 + column * 5 + seed) % 11) as f32 - 4.5;
            let vectors = Array2::from_shape_fn((rows, dim), value);
            index.add(vectors.view(), &mut Silent).unwrap();
            match seed % 4 {
                1 => index.remove(&[1], &mut Silent).unwrap(),
                2 => index.optimize().unwrap(),
                3 => index.skip_rows(2).unwrap(),
                _ => {}
            }
            let name = format!("{}-{}-{rescore}", metric.name(), storage.name());
            seeds.push((name, index.to_bytes()));
        }
    }
    let empty = HnswIndex::new(3, Params { m: 2, ..Params::default() }).unwrap();
    seeds.push(("empty".into(), empty.to_bytes()));
    for version in [1, 2] {
        let mut file = File::parse(&seeds[0].1).unwrap();
        file.version = version;
        file.sections.retain(|section| !section.is("slots") || version > 1);
        seeds.push((format!("version-{version}"), file.to_bytes(1 << 16).unwrap()));
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_small_and_sound() {
        for (name, bytes) in seeds() {
            assert!(bytes.len() < 4096, "{name}: {} bytes", bytes.len());
            HnswIndex::from_bytes(bytes.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
            check(&bytes);
        }
    }

    #[test]
    fn most_mutants_have_right_checksums() {
        let seeds = seeds();
        let mut refused = 0;
        for seed in 0..1000 {
            let start = &seeds[seed as usize % seeds.len()].1;
            let mut data = start.clone();
            data.resize(4096, 0);
            let mut flip = |data: &mut [u8], size: usize| {
                data[seed as usize % size.max(1)] ^= 1;
                size
            };
            let size = mutate(&mut data, start.len(), seed, &mut flip);
            check(&data[..size]);
            let checksum = HnswIndex::from_bytes(data[..size].to_vec())
                .is_err_and(|error| error.to_string().contains("checksum"));
            refused += usize::from(checksum);
        }
        assert!(refused < 200, "{refused} of 1000 have wrong checksums");
    }
}
