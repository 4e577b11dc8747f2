//! Keys inserted into rising ones. Turning the loops into vectors is left to the compiler.

/// Keys that are moved together.
const BLOCK: usize = 8;

/// See [`Kernels::insert_keys`](super::Kernels::insert_keys).
///
/// A key's place takes no search: the key at `j` becomes `max(key_(j-1), min(key_j, new))`, whether that keeps it, moves one
/// up or puts the new one there; block by block, from the end down to where all keys are less.
///
/// # Safety
/// The processor has the instruction set that this is compiled into.
#[inline(always)]
pub(super) unsafe fn insert_keys(keys: &mut [u64], new: &[u64]) {
    let blocks = keys.len() / BLOCK;
    assert_eq!(keys.len(), blocks * BLOCK + 1, "insert_keys: keys are one and whole blocks");
    for &new in new {
        for start in (0..blocks).rev().map(|block| block * BLOCK) {
            let [before, here @ ..]: &mut [u64; BLOCK + 1] =
                (&mut keys[start..=start + BLOCK]).try_into().expect("a block and one");
            let below: [u64; BLOCK] = std::array::from_fn(|i| if i == 0 { *before } else { here[i - 1] });
            *here = std::array::from_fn(|i| below[i].max(here[i].min(new)));
            if *before < new {
                break;
            }
        }
    }
}
