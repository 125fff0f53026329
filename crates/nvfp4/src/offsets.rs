//! Padded expert offsets: where each expert's rows start when every expert's segment is padded to a tile.
//!
//! No capacity, no clamp: an expert gets exactly `ceil(count / tile) * tile` rows, whatever the skew, and an
//! expert without tokens gets none.

/// `count` rounded up to whole tiles. `tile` must not be 0.
#[inline(always)]
pub const fn pad(count: usize, tile: usize) -> usize {
    count.div_ceil(tile) * tile
}

/// Exclusive prefix sums of the padded counts: `offsets[e]` is the first row of expert `e` and
/// `offsets[counts.len()]` the total. Returns the total.
///
/// # Panics
/// If `offsets.len() != counts.len() + 1` or `tile == 0`.
pub fn padded_offsets(counts: &[usize], tile: usize, offsets: &mut [usize]) -> usize {
    assert_eq!(offsets.len(), counts.len() + 1, "one offset per expert and the total");
    assert!(tile > 0, "tile must not be 0");
    let mut total = 0;
    for (offset, &count) in offsets.iter_mut().zip(counts) {
        *offset = total;
        total += pad(count, tile);
    }
    offsets[counts.len()] = total;
    total
}

/// The largest possible total for `slots` routed rows over `experts` experts, over every routing: what a
/// workspace must hold. Each expert that is used wastes at most `tile - 1` rows and needs at least one.
#[inline]
pub const fn max_padded_rows(slots: usize, experts: usize, tile: usize) -> usize {
    let used = if slots < experts { slots } else { experts };
    // With `used` experts in play the worst case is every one of them holding 1 (mod tile) rows.
    let worst = slots + used * (tile - 1);
    worst / tile * tile
}

/// The expert whose segment holds padded row `row`: the last `e` with `offsets[e] <= row` among experts with
/// rows. `None` past the end.
///
/// # Panics
/// If `offsets` is empty.
pub fn expert_of_row(offsets: &[usize], row: usize) -> Option<usize> {
    let experts = offsets.len() - 1;
    if row >= offsets[experts] {
        return None;
    }
    // First offset strictly greater than `row`, minus one: the searchsorted(right) rule. With `left`, the
    // first row of a segment would fall to the expert before it.
    Some(offsets.partition_point(|&o| o <= row) - 1)
}
