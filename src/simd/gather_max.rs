//! The largest of many rows, column by column: the loop of a gathered sum with a maximum in its place.

use super::lanes::Lanes;

/// How many rows ahead are prefetched.
const AHEAD: usize = 3;

/// Values per cache line.
const LINE: usize = 16;

/// `out = max_j table[rows_j]`, 0 without rows; NaN wins.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn gather_max<L: Lanes>(table: &[f32], rows: &[u32], out: &mut [f32]) {
    let dim = out.len();
    for &row in rows {
        assert!((row as usize + 1) * dim <= table.len(), "row {row} is outside the table");
    }
    if rows.is_empty() {
        out.fill(0.0);
        return;
    }
    let mut at = 0;
    // SAFETY: each tile lies within the row (`at + width <= dim`), and each row within the table, as asserted.
    unsafe {
        while at + 8 * L::N <= dim {
            tile::<L, 8>(table.as_ptr(), dim, rows, at, out.as_mut_ptr());
            at += 8 * L::N;
        }
        while at + 4 * L::N <= dim {
            tile::<L, 4>(table.as_ptr(), dim, rows, at, out.as_mut_ptr());
            at += 4 * L::N;
        }
        while at + L::N <= dim {
            tile::<L, 1>(table.as_ptr(), dim, rows, at, out.as_mut_ptr());
            at += L::N;
        }
        if at < dim {
            let rest = dim - at;
            let mut best = L::splat(f32::NEG_INFINITY);
            for &row in rows {
                best = best.max(L::load_partial(table.as_ptr().add(row as usize * dim + at), rest));
            }
            best.store_partial(out.as_mut_ptr().add(at), rest);
        }
    }
}

/// Columns `at .. at + WIDTH * N`, held in `WIDTH` registers over all rows.
///
/// # Safety
/// - The processor has the instruction set of `L`.
/// - Each row of `rows` lies within the table; `at + WIDTH * N <= dim`; `out` is valid for `dim` values.
#[inline(always)]
unsafe fn tile<L: Lanes, const WIDTH: usize>(
    table: *const f32,
    dim: usize,
    rows: &[u32],
    at: usize,
    out: *mut f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut best = [L::splat(f32::NEG_INFINITY); WIDTH];
        for (j, &row) in rows.iter().enumerate() {
            if let Some(&ahead) = rows.get(j + AHEAD) {
                let start = table.wrapping_add(ahead as usize * dim + at);
                for line in 0..(WIDTH * L::N).div_ceil(LINE) {
                    L::prefetch(start.wrapping_add(line * LINE));
                }
            }
            let values = table.add(row as usize * dim + at);
            for (lane, best) in best.iter_mut().enumerate() {
                *best = best.max(L::load(values.add(lane * L::N)));
            }
        }
        for (lane, best) in best.into_iter().enumerate() {
            best.store(out.add(at + lane * L::N));
        }
    }
}
