//! The largest of many rows, column by column, and the way back: the sum of what belongs to it.

use super::Rows;
use super::kernels::{LINE, require_rows, rows_ahead};
use super::lanes::Lanes;

/// `out = max_j table[rows_j]`, 0 without rows; NaN wins.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn gather_max<L: Lanes>(table: &[f32], rows: Rows<'_>, out: &mut [f32]) {
    let dim = out.len();
    require_rows(table, rows.now, dim);
    if rows.now.is_empty() {
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
            for &row in rows.now {
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
    rows: Rows<'_>,
    at: usize,
    out: *mut f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut best = [L::splat(f32::NEG_INFINITY); WIDTH];
        let ahead = rows_ahead(dim);
        for (j, &row) in rows.now.iter().enumerate() {
            if let Some(ahead) = rows.ahead(j + ahead) {
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

/// `out = sum_j values[rows_j]` where `keys[rows_j] == key`, column by column; 1 in place of `values` where there are none.
///
/// # Safety
/// The processor has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn gather_where_equal<L: Lanes>(
    keys: &[f32],
    values: Option<&[f32]>,
    rows: Rows<'_>,
    key: &[f32],
    out: &mut [f32],
) {
    let dim = out.len();
    assert_eq!(key.len(), dim, "{} keys but room for {dim} results", key.len());
    assert!(values.is_none_or(|values| values.len() == keys.len()), "keys and values of different lengths");
    for &row in rows.now {
        assert!((row as usize + 1) * dim <= keys.len(), "row {row} is outside the table");
    }
    let tables = (keys.as_ptr(), values.map(<[f32]>::as_ptr));
    let mut at = 0;
    // SAFETY: each tile lies within the row (`at + width <= dim`), and each row within both tables, as asserted.
    unsafe {
        while at + 4 * L::N <= dim {
            matching_tile::<L, 4>(tables, dim, rows, at, key.as_ptr(), out.as_mut_ptr());
            at += 4 * L::N;
        }
        while at + L::N <= dim {
            matching_tile::<L, 1>(tables, dim, rows, at, key.as_ptr(), out.as_mut_ptr());
            at += L::N;
        }
        if at < dim {
            let rest = dim - at;
            let key = L::load_partial(key.as_ptr().add(at), rest);
            let mut sum = L::splat(0.0);
            for &row in rows.now {
                let start = row as usize * dim + at;
                let value = match tables.1 {
                    Some(values) => L::load_partial(values.add(start), rest),
                    None => L::splat(1.0),
                };
                sum = sum.add(value.where_equal(L::load_partial(tables.0.add(start), rest), key));
            }
            sum.store_partial(out.as_mut_ptr().add(at), rest);
        }
    }
}

/// Columns `at .. at + WIDTH * N` of [`gather_where_equal`], held in registers over all rows.
///
/// # Safety
/// - The processor has the instruction set of `L`.
/// - Each row of `rows` lies within both tables; `at + WIDTH * N <= dim`; `key` and `out` are valid for `dim` values.
#[inline(always)]
unsafe fn matching_tile<L: Lanes, const WIDTH: usize>(
    (keys, values): (*const f32, Option<*const f32>),
    dim: usize,
    rows: Rows<'_>,
    at: usize,
    key: *const f32,
    out: *mut f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [L::splat(0.0); WIDTH];
        let mut own = [L::splat(0.0); WIDTH];
        for (lane, own) in own.iter_mut().enumerate() {
            *own = L::load(key.add(at + lane * L::N));
        }
        let ahead = rows_ahead(dim);
        for (j, &row) in rows.now.iter().enumerate() {
            if let Some(ahead) = rows.ahead(j + ahead) {
                let start = ahead as usize * dim + at;
                for line in 0..(WIDTH * L::N).div_ceil(LINE) {
                    L::prefetch(keys.wrapping_add(start + line * LINE));
                    if let Some(values) = values {
                        L::prefetch(values.wrapping_add(start + line * LINE));
                    }
                }
            }
            let start = row as usize * dim + at;
            for (lane, (sum, &own)) in sums.iter_mut().zip(&own).enumerate() {
                let offset = start + lane * L::N;
                let value = match values {
                    Some(values) => L::load(values.add(offset)),
                    None => L::splat(1.0),
                };
                *sum = sum.add(value.where_equal(L::load(keys.add(offset)), own));
            }
        }
        for (lane, sum) in sums.into_iter().enumerate() {
            sum.store(out.add(at + lane * L::N));
        }
    }
}
