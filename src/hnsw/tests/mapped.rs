//! Mapped indexes: the same answers as loaded ones, and damage found when it is touched.

use super::files::{LATEST, impossible_rows, kinds, rewritten, small};
use super::*;
use std::os::unix::fs::FileExt;
use std::path::Path;

fn load(path: &Path, mmap: bool) -> crate::Result<HnswIndex> {
    HnswIndex::load(path, LoadOptions { mmap, ..LoadOptions::default() })
}

/// What an index answers, by every way that leads to its vectors.
fn answers(
    index: &HnswIndex,
    queries: ArrayView2<'_, f32>,
) -> crate::Result<(Vec<Hits>, RangeHits, Array2<f32>)> {
    let some: Vec<i64> = index.rows().map(|row| row as i64).filter(|row| row % 3 > 0).collect();
    let filter = Some(Filter::Rows(&some));
    let hits = vec![
        index.search(queries, 5, None, None)?,
        index.search(queries, 5, None, filter)?,
        index.search(queries, 5, Some(2), filter)?,
        index.exact_search(queries, 7, None)?,
    ];
    Ok((hits, index.range_search(queries, 0.8, false)?, index.vectors(None)?))
}

fn is_damage<T>(result: crate::Result<T>) -> bool {
    matches!(result, Err(Error::Format(_)))
}

#[test]
fn mapped_answers_are_those_of_the_loaded_index_to_the_bit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    let queries = clustered(20, 40, 20, 1);
    for params in kinds() {
        for metric in Metric::ALL {
            let mut index = built(&clustered(1_500, 40, 20, 0), Params { metric, ..params.clone() });
            index.remove(&(0..1_500).step_by(7).collect::<Vec<_>>(), &mut Silent).unwrap();
            index.save(&path).unwrap();
            let loaded = load(&path, false).unwrap();
            for verify in [false, true] {
                let mapped = HnswIndex::load(&path, LoadOptions { mmap: true, verify }).unwrap();
                assert_eq!(mapped.mapped().unwrap().0, path);
                let wanted = answers(&loaded, queries.view()).unwrap();
                assert_eq!(answers(&mapped, queries.view()).unwrap(), wanted, "{metric:?} {params:?}");
                assert_eq!(mapped.fingerprint().unwrap(), index.fingerprint().unwrap());
                assert_eq!(mapped.vector(8).unwrap(), loaded.vector(8).unwrap());
                assert!(mapped.to_bytes() == index.to_bytes());
                let (own, all) = (mapped.stats().bytes, loaded.stats().bytes);
                assert!(own < all, "{own} of {all}");
            }
        }
    }
}

#[test]
fn changes_copy_what_was_mapped_and_leave_the_file_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    let more = clustered(60, 12, 4, 3) * 2.0;
    for params in kinds() {
        let mut index = built(&clustered(400, 12, 4, 2), params);
        index.remove(&[1, 5, 9], &mut Silent).unwrap();
        index.save(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        type Change<'a> = &'a dyn Fn(&mut HnswIndex) -> crate::Result<()>;
        let changes: [Change<'_>; 6] = [
            &|index| index.add(more.view(), &mut Silent).map(|_| ()),
            &|index| index.remove(&[0, 7], &mut Silent),
            &|index| index.update(&[2, 3], part(&more, 0..2), &mut Silent),
            &|index| index.compact(),
            &|index| index.optimize(),
            &|index| index.skip_rows(3),
        ];
        for change in changes {
            let [mut mapped, mut loaded] = [true, false].map(|mmap| load(&path, mmap).unwrap());
            let untouched = mapped.clone();
            change(&mut mapped).unwrap();
            change(&mut loaded).unwrap();
            assert!(mapped.mapped().is_none() && untouched.mapped().is_some());
            assert!(mapped.to_bytes() == loaded.to_bytes());
            assert!(std::fs::read(&path).unwrap() == before);
            assert!(untouched.to_bytes() == before);
        }
        // What is refused changes nothing, and leaves the vectors where they are.
        let mut mapped = load(&path, true).unwrap();
        assert!(mapped.remove(&[1], &mut Silent).is_err() && mapped.mapped().is_some());
        mapped.save(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == before);
        index.add(more.view(), &mut Silent).unwrap();
        index.save(&path).unwrap();
        assert_eq!((mapped.len(), mapped.vectors(None).unwrap().nrows()), (397, 397), "the old file stays");
    }
}

#[test]
fn files_of_earlier_versions_are_mapped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    let queries = clustered(10, 5, 2, 1);
    for params in kinds() {
        for metric in Metric::ALL {
            let index = small(Params { metric, ..params.clone() });
            std::fs::write(&path, rewritten(&index.to_bytes(), 2, |_, _| {})).unwrap();
            let mapped = load(&path, true).unwrap();
            let wanted = answers(&index, queries.view()).unwrap();
            assert_eq!(answers(&mapped, queries.view()).unwrap(), wanted);
        }
    }
}

/// Flips bits of a small file, `step` apart, and cuts it.
fn damage(step: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    let queries = clustered(2, 5, 2, 1);
    for params in kinds() {
        let index = small(params);
        let wanted = answers(&index, queries.view()).unwrap();
        index.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for bit in (0..8 * bytes.len()).step_by(step) {
            let at = bit / 8;
            file.write_all_at(&[bytes[at] ^ 1 << (bit % 8)], at as u64).unwrap();
            if let Ok(mapped) = load(&path, true) {
                let touched = answers(&mapped, queries.view());
                assert!(touched.as_ref().is_ok_and(|got| *got == wanted) || is_damage(touched), "bit {bit}");
                assert!(is_damage(mapped.verify()), "bit {bit}");
            } else {
                assert!(is_damage(load(&path, true)), "bit {bit}");
            }
            file.write_all_at(&bytes[at..=at], at as u64).unwrap();
        }
        for len in (0..bytes.len()).rev().step_by(step) {
            file.set_len(len as u64).unwrap();
            assert!(is_damage(load(&path, true)), "cut at {len}");
        }
    }
}

#[test]
fn bits_that_flip_and_cuts_are_found_in_mapped_files() {
    damage(5);
}

#[test]
#[ignore = "some ten seconds"]
fn every_bit_that_flips_and_every_cut_is_found_in_mapped_files() {
    damage(1);
}

/// A header whose checksum is right may still lie: the answer is an error, or what it was.
#[test]
fn lying_headers_are_refused_or_carry_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    let queries = clustered(2, 5, 2, 1);
    for params in [Params::default(), Params { storage: Storage::I8, rescore: false, ..Params::default() }] {
        let index = small(params);
        let (bytes, wanted) = (index.to_bytes(), answers(&index, queries.view()).unwrap());
        let sections = u32::from_le_bytes(bytes[32..36].try_into().unwrap()) as usize;
        let head = (64 + 48 * sections).next_multiple_of(64);
        for at in (8..60).chain(64..head) {
            for lie in [0, 1, 2, 16, 63, 64, 127, 128, 255, bytes[at] ^ 1, bytes[at].wrapping_add(1)] {
                let mut forged = bytes.clone();
                forged[at] = lie;
                let mut crc = crc32fast::Hasher::new();
                [&forged[..60], &forged[64..head]].into_iter().for_each(|part| crc.update(part));
                forged[60..64].copy_from_slice(&crc.finalize().to_le_bytes());
                std::fs::write(&path, &forged).unwrap();
                for mmap in [false, true] {
                    let got = load(&path, mmap).and_then(|index| answers(&index, queries.view()));
                    let held = got.as_ref().is_ok_and(|got| *got == wanted);
                    assert!(held || is_damage(got), "{lie} at {at}");
                }
            }
        }
    }
}

#[test]
fn damage_is_found_where_it_is_touched_and_never_answered_from() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    let vectors = clustered(4_000, 60, 8, 4);
    let index = built(&vectors, Params { metric: Metric::L2, ..Params::default() });
    index.save(&path).unwrap();
    let sound = std::fs::read(&path).unwrap();
    let place = sound.windows(16).position(|window| {
        window == &bytemuck::cast_slice::<f32, u8>(vectors.row(3_000).as_slice().unwrap())[..16]
    });
    let mut bytes = sound.clone();
    bytes[place.unwrap()] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(is_damage(load(&path, false)));
    assert!(is_damage(HnswIndex::load(&path, LoadOptions { mmap: true, verify: true })));
    let mut mapped = load(&path, true).unwrap();
    assert_eq!(mapped.vectors(Some(&[0, 200])).unwrap(), index.vectors(Some(&[0, 200])).unwrap());
    let query = part(&vectors, 3_000..3_001);
    assert!(is_damage(mapped.vectors(Some(&[3_000]))));
    assert!(is_damage(mapped.search(query, 1, None, None)), "damage is remembered");
    assert!(is_damage(mapped.add(query, &mut Silent)) && mapped.len() == 4_000);
    assert!(is_damage(mapped.save(&path)) && is_damage(mapped.fingerprint()) && is_damage(mapped.verify()));
    assert!(std::fs::read(&path).unwrap() == bytes);
    // By each way alone, which meets the damaged block.
    let rows: Vec<i64> = (2_990..3_010).collect();
    type Way<'a> = &'a dyn Fn(&HnswIndex) -> bool;
    let ways: [Way<'_>; 8] = [
        &|index| is_damage(index.search(query, 10, None, None)),
        &|index| is_damage(index.search(query, 10, None, Some(Filter::Rows(&rows)))),
        &|index| is_damage(index.exact_search(query, 10, None)),
        &|index| is_damage(index.range_search(query, 10.0, false)),
        &|index| is_damage(index.range_search(query, 10.0, true)),
        &|index| is_damage(index.vector(3_000)),
        &|index| is_damage(index.clone().skip_rows(1)),
        &|index| is_damage(index.clone().compact()),
    ];
    for (i, way) in ways.into_iter().enumerate() {
        assert!(way(&load(&path, true).unwrap()), "way {i}");
    }
}

#[test]
fn rows_that_could_not_have_been_written_are_refused_when_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    for (params, changes) in impossible_rows() {
        let bytes = small(params).to_bytes();
        for (name, says, change) in changes {
            let changed = rewritten(&bytes, LATEST, |section, bytes| {
                if section == name {
                    change(bytes)
                }
            });
            std::fs::write(&path, changed).unwrap();
            let mapped = load(&path, true).unwrap();
            match mapped.vectors(None) {
                Err(Error::Format(text)) => assert!(text.contains(says), "{name}: {text}"),
                other => panic!("{name}, {says}: {other:?}"),
            }
            assert!(is_damage(HnswIndex::load(&path, LoadOptions { mmap: true, verify: true })));
        }
    }
}

#[test]
fn empty_indexes_and_what_is_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    for params in kinds() {
        HnswIndex::new(3, params).unwrap().save(&path).unwrap();
        let mut mapped = load(&path, true).unwrap();
        assert!(mapped.is_empty() && mapped.search(Array2::ones((1, 3)).view(), 2, None, None).is_ok());
        mapped.add(Array2::ones((2, 3)).view(), &mut Silent).unwrap();
        assert_eq!(mapped.len(), 2);
    }
    for no_file in [directory.path(), &directory.path().join("none")] {
        assert!(matches!(load(no_file, true), Err(Error::Io { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever a section holds: an error, or answers about rows that are there.
    #[test]
    fn lying_sections_do_no_harm(
        kind in 0usize..7, metric in 0usize..3, section in 0usize..20, at in any::<prop::sample::Index>(), lie in any::<u64>(),
        width in 1usize..=8,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.rvx");
        let params = Params { metric: Metric::ALL[metric], ..kinds().nth(kind).unwrap() };
        let bytes = small(params).to_bytes();
        let number = std::cell::Cell::new(0);
        let changed = rewritten(&bytes, LATEST, |_, bytes| {
            if number.replace(number.get() + 1) == section && !bytes.is_empty() {
                let at = at.index(bytes.len());
                let width = width.min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&lie.to_le_bytes()[..width]);
            }
        });
        std::fs::write(&path, changed).unwrap();
        let queries = clustered(3, 5, 2, 1);
        for mmap in [false, true] {
            match load(&path, mmap) {
                Err(Error::Format(_)) => {}
                Err(other) => panic!("{other}"),
                Ok(index) if index.dim() != 5 => {}
                Ok(index) => match answers(&index, queries.view()) {
                    Err(Error::Format(_)) => prop_assert!(mmap),
                    Err(other) => panic!("{other}"),
                    Ok((hits, ..)) => prop_assert!(hits.iter().flat_map(|hits| &hits.rows).all(|&row| row < 12)),
                },
            }
        }
    }
}
