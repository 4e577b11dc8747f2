//! Files that are old, damaged, or made to deceive.

use super::*;
use crate::storage::{Reader, Writer};

/// Every storage, with and without the exact rows.
pub(super) fn kinds() -> impl Iterator<Item = Params> {
    let both = Storage::ALL.into_iter().flat_map(|storage| [true, false].map(|rescore| (storage, rescore)));
    let kinds = both.filter(|&(storage, rescore)| storage != Storage::F32 || rescore);
    kinds.map(|(storage, rescore)| Params { storage, rescore, ..Params::default() })
}

/// A few rows, of which some were removed, on more than one level.
pub(super) fn small(params: Params) -> HnswIndex {
    let mut index = built(&clustered(12, 5, 2, 34), Params { m: 2, ef_construction: 8, ..params });
    index.remove(&[3, 7], &mut Silent).unwrap();
    assert!(index.levels() > 1);
    index
}

/// The version that is written.
pub(super) const LATEST: u32 = 4;

/// Sections that no version before the third, and the fourth, had.
const SINCE_THIRD: [&str; 2] = ["terms", "scales"];
const SINCE_FOURTH: [&str; 7] = [
    "stretches",
    "outliers",
    "adjusted_rows",
    "adjustment_means",
    "adjustment_weights",
    "adjustment_limits",
    "far_slots",
];

/// A file with some sections changed, and right checksums.
pub(super) fn rewritten(bytes: &[u8], version: u32, change: impl Fn(&str, &mut Vec<u8>)) -> Vec<u8> {
    let reader = Reader::from_bytes(bytes.to_vec(), "hnsw", LATEST).unwrap();
    let mut sections = Vec::new();
    let plain = ["config", "levels", "parents", "links", "upper_links", "slots"];
    let coded =
        ["terms", "middles", "steps", "means", "below", "above", "codes", "vectors", "scales", "norms"];
    for name in plain.into_iter().chain(coded).chain(SINCE_FOURTH).filter(|name| reader.has(name)) {
        let mut section = reader.section(name).unwrap();
        change(name, &mut section);
        sections.push((name, section));
    }
    let mut writer = Writer::new("hnsw", version);
    for (name, section) in &sections {
        let is_known =
            (version >= 3 || !SINCE_THIRD.contains(name)) && (version >= 4 || !SINCE_FOURTH.contains(name));
        if is_known {
            let is_blocked = ["codes", "vectors"].contains(name);
            writer = if is_blocked { writer.blocks(name, section) } else { writer.values(name, section) };
        }
    }
    writer.to_bytes()
}

#[test]
fn every_bit_that_flips_and_every_cut_is_found() {
    for params in kinds() {
        let bytes = small(params).to_bytes();
        let mut damaged = bytes.clone();
        for bit in 0..8 * bytes.len() {
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read = HnswIndex::from_bytes(damaged.clone());
            assert!(matches!(read, Err(Error::Format(_))), "bit {bit}");
            damaged[bit / 8] = bytes[bit / 8];
        }
        for len in 0..bytes.len() {
            let read = HnswIndex::from_bytes(bytes[..len].to_vec());
            assert!(matches!(read, Err(Error::Format(_))), "cut at {len}");
        }
    }
}

#[test]
fn files_of_earlier_versions_are_read() {
    for params in kinds() {
        for metric in Metric::ALL {
            let params = Params { m: 3, metric, ..params.clone() };
            let more = clustered(200, 5, 2, 33);
            let mut index = built(&more, params);
            let bytes = index.to_bytes();
            // The first version had no slots; what stands there instead is not looked at.
            let no_slots = |name: &str, section: &mut Vec<u8>| {
                if name == "slots" {
                    section.clear()
                }
            };
            let first = rewritten(&bytes, 1, no_slots);
            let read = HnswIndex::from_bytes(first.clone()).unwrap();
            assert!(rewritten(&read.to_bytes(), 1, no_slots) == first);
            index.remove(&[5, 9], &mut Silent).unwrap();
            for version in [2, 3] {
                // Terms were others then.
                let earlier = rewritten(&index.to_bytes(), version, |name, section| {
                    if name == "terms" && index.params.storage == Storage::I8 && metric == Metric::Cosine {
                        section.fill(0)
                    }
                });
                let read = HnswIndex::from_bytes(earlier).unwrap();
                assert!(
                    rewritten(&read.to_bytes(), 2, |_, _| {}) == rewritten(&index.to_bytes(), 2, |_, _| {})
                );
                let [read, now] =
                    [&read, &index].map(|index| index.exact_search(part(&more, 0..9), 5, None).unwrap());
                assert_eq!(read, now);
            }
        }
    }
}

pub(super) type Change<'a> = (&'a str, &'a str, &'a dyn Fn(&mut Vec<u8>));

/// Writes a word of four bytes.
pub(super) fn word(section: &mut [u8], at: usize, value: u32) {
    section[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Changes to the vectors of [`small`], by parameters: the section, what the refusal says, the change.
pub(super) fn impossible_rows() -> Vec<(Params, Vec<Change<'static>>)> {
    let with = |storage, rescore, metric| Params { storage, rescore, metric, ..Params::default() };
    vec![
        (
            with(Storage::F32, true, Metric::Cosine),
            vec![
                ("vectors", "free, but holds a vector", &|s| word(s, 3 * 16, 1)),
                ("vectors", "row 1: vectors must be finite", &|s| word(s, 16, f32::NAN.to_bits())),
                ("vectors", "row 1: vectors: row 0 is zero", &|s| s[64..84].fill(0)),
                ("vectors", "padding of row 2", &|s| word(s, 2 * 16 + 5, 1)),
                ("scales", "inverse norm of row 1", &|s| word(s, 1, 1.0f32.to_bits())),
                ("scales", "inverse norm of row 3", &|s| word(s, 3, 1.0f32.to_bits())),
            ],
        ),
        (
            with(Storage::F32, true, Metric::L2),
            vec![("vectors", "too long", &|s| word(s, 16, 1e30f32.to_bits()))],
        ),
        (
            with(Storage::F16, false, Metric::Cosine),
            vec![
                ("codes", "row 0 has codes", &|s| s[..2].copy_from_slice(&0x7c00u16.to_le_bytes())),
                ("codes", "row 0 has codes", &|s| s[11] = 0x80),
                ("terms", "row 1 has codes", &|s| word(s, 1, 0)),
            ],
        ),
        (
            with(Storage::I8, false, Metric::L2),
            vec![
                ("codes", "row 1 has codes", &|s| s[33] = 128),
                ("codes", "row 1 has codes", &|s| s[37] = 1),
                ("terms", "row 1 has codes", &|s| word(s, 1, f32::NAN.to_bits())),
            ],
        ),
        (with(Storage::Binary, false, Metric::L2), vec![("codes", "padding of row 1", &|s| s[8] |= 32)]),
    ]
}

fn refusal(bytes: Vec<u8>) -> String {
    match HnswIndex::from_bytes(bytes) {
        Err(Error::Format(text)) => text,
        other => panic!("{:?}", other.map(|index| index.len())),
    }
}

#[test]
fn files_that_could_not_have_been_written_are_refused() {
    let mut index = built(&clustered(40, 5, 2, 34), Params { m: 3, ..Params::default() });
    index.remove(&[5, 20], &mut Silent).unwrap();
    let bytes = index.to_bytes();
    let again = rewritten(&bytes, LATEST, |_, _| {});
    assert!(HnswIndex::from_bytes(again).unwrap().to_bytes() == bytes);
    let first = index.core.links.list(0, 1)[0];
    let changes: [Change<'_>; 11] = [
        ("slots", "same slot", &|s| word(s, 1, 0)),
        ("slots", "slot 40 of 40", &|s| word(s, 1, 40)),
        ("slots", "37 rows", &|s| word(s, 1, u32::MAX)),
        ("links", "free, but has links", &|s| word(s, 5 * 6, 0)),
        ("links", "impossible link", &|s| word(s, 6, 20)),
        ("links", "impossible link", &|s| word(s, 7, first)),
        ("parents", "impossible parent", &|s| word(s, 20, 0)),
        ("levels", "wrong lengths", &|s| s[20] = 1),
        ("vectors", "vectors for 40 slots", &|s| s.truncate(39 * 64)),
        ("vectors", "cut short", &|s| s.truncate(39 * 64 + 4)),
        ("scales", "scales for 40 slots", &|s| s.truncate(39 * 4)),
    ];
    for (name, says, change) in changes {
        let text = refusal(rewritten(&bytes, LATEST, |section, bytes| {
            if section == name {
                change(bytes)
            }
        }));
        assert!(text.contains(says), "{name}: {text}");
    }
}

#[test]
fn rows_and_ranges_that_nothing_is_coded_to_are_refused() {
    let coded = |storage| Params { storage, rescore: false, metric: Metric::L2, ..Params::default() };
    let mut cases = impossible_rows();
    cases.push((
        coded(Storage::I8),
        vec![
            ("steps", "no ranges", &|s| word(s, 1, f32::NAN.to_bits())),
            ("steps", "no ranges", &|s| word(s, 1, f32::INFINITY.to_bits())),
            ("steps", "no ranges", &|s| word(s, 1, (-1.0f32).to_bits())),
            ("steps", "no ranges", &|s| word(s, 1, f32::MAX.to_bits())),
            ("steps", "no ranges", &|s| word(s, 1, 1e18f32.to_bits())),
            ("middles", "no ranges", &|s| word(s, 1, 1e20f32.to_bits())),
            ("middles", "no ranges", &|s| s.truncate(8)),
        ],
    ));
    cases.push((
        Params { metric: Metric::Ip, ..Params::default() },
        vec![
            ("adjustment_means", "adjustment", &|s| word(s, 1, f32::NAN.to_bits())),
            ("adjustment_weights", "adjustment", &|s| word(s, 1, 0)),
            ("adjustment_weights", "adjustment", &|s| s.truncate(8)),
            ("adjustment_limits", "adjustment", &|s| word(s, 0, 1.0f32.to_bits())),
            ("adjustment_limits", "limits", &|s| s.clear()),
            ("far_slots", "adjustment", &|s| s.extend(99u32.to_le_bytes())),
            ("adjusted_rows", "adjusted rows", &|s| s.clear()),
        ],
    ));
    cases.push((coded(Storage::Binary), vec![("means", "no numbers", &|s| word(s, 0, f32::NAN.to_bits()))]));
    cases.push((
        Params { metric: Metric::Cosine, ..coded(Storage::I8) },
        vec![("norms", "no length", &|s| word(s, 1, 0)), ("norms", "norms for", &|s| s.truncate(8))],
    ));
    for (params, changes) in cases {
        let bytes = small(params).to_bytes();
        for (name, says, change) in changes {
            let text = refusal(rewritten(&bytes, LATEST, |section, bytes| {
                if section == name {
                    change(bytes)
                }
            }));
            assert!(text.contains(says), "{name}, {says}: {text}");
        }
    }
}
