//! The 128x4 scale-factor layout against an independently written nested-loop form, and the padded expert
//! offsets by brute force.

use nvfp4::{layout, offsets};
use proptest::prelude::*;

/// Coordinates in storage order, as five nested loops: row tiles, K tiles, then the (32, 4, 4) atom with strides
/// (16, 4, 1): row mod 32, row div 32, group.
fn storage_order(rows: usize, groups: usize) -> Vec<(usize, usize)> {
    let mut order = Vec::new();
    for row_tile in (0..rows).step_by(128) {
        for group_tile in (0..groups).step_by(4) {
            for row_in_32 in 0..32 {
                for quarter in 0..4 {
                    for group in 0..4 {
                        order.push((row_tile + 32 * quarter + row_in_32, group_tile + group));
                    }
                }
            }
        }
    }
    order
}

fn check_shape(rows: usize, groups: usize) {
    let order = storage_order(rows, groups);
    assert_eq!(layout::sf_len(rows, groups), order.len(), "{rows}x{groups}");
    let mut real = 0;
    for (offset, &(row, group)) in order.iter().enumerate() {
        // Forward and inverse, padding included: a bijection of the padded matrix onto 0..len.
        assert_eq!(layout::sf_offset(row, group, groups), offset, "{rows}x{groups} at ({row},{group})");
        assert_eq!(layout::sf_coord(offset, groups), (row, group), "{rows}x{groups} at {offset}");
        real += usize::from(row < rows && group < groups);
    }
    assert_eq!(real, rows * groups, "the bytes that are not padding");
}

#[test]
fn every_ragged_shape_around_the_tiles() {
    for rows in [1, 2, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 255, 256, 257, 300] {
        for groups in 1..=13 {
            check_shape(rows, groups);
        }
    }
    check_shape(3, 448);
    check_shape(640, 1);
}

proptest! {
    #[test]
    fn any_shape(rows in 1usize..700, groups in 1usize..80) {
        check_shape(rows, groups);
    }

    #[test]
    fn swizzle_round_trip(rows in 1usize..300, groups in 1usize..40, seed in any::<u8>(), garbage in any::<u8>()) {
        let src: Vec<u8> = (0..rows * groups).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed) | 1).collect();
        let mut stored = vec![garbage; layout::sf_len(rows, groups)];
        layout::swizzle(&src, rows, groups, &mut stored);
        // What was in the destination does not matter, and padding is 0.
        let padding = stored.len() - src.len();
        prop_assert_eq!(stored.iter().filter(|&&b| b == 0).count(), padding);
        let mut back = vec![garbage; src.len()];
        layout::unswizzle(&stored, rows, groups, &mut back);
        prop_assert_eq!(back, src);
    }

    /// Experts whose segments start on 128-row boundaries: each segment is a complete layout of its own, so an
    /// expert's scales can be addressed from its first byte alone.
    #[test]
    fn expert_segments_are_whole_layouts(
        counts in prop::collection::vec(0usize..300, 1..9),
        groups in 1usize..20,
    ) {
        let mut starts = vec![0; counts.len() + 1];
        let total = offsets::padded_offsets(&counts, layout::TILE_ROWS, &mut starts);
        prop_assert_eq!(layout::sf_len(total, groups), total * layout::padded_groups(groups));
        for (e, &count) in counts.iter().enumerate() {
            prop_assert_eq!(starts[e] % layout::TILE_ROWS, 0);
            let base = layout::sf_len(starts[e], groups);
            for row in [0, count / 2, count.saturating_sub(1)] {
                for group in [0, groups - 1] {
                    prop_assert_eq!(
                        layout::sf_offset(starts[e] + row, group, groups),
                        base + layout::sf_offset(row, group, groups)
                    );
                }
            }
            prop_assert_eq!(layout::sf_len(starts[e + 1], groups) - base, layout::sf_len(count, groups));
        }
    }

    #[test]
    fn offsets_by_definition(counts in prop::collection::vec(0usize..1000, 0..20), tile in 1usize..300) {
        let mut starts = vec![usize::MAX; counts.len() + 1];
        let total = offsets::padded_offsets(&counts, tile, &mut starts);
        let mut want = 0;
        for (e, &count) in counts.iter().enumerate() {
            prop_assert_eq!(starts[e], want);
            let mut padded = 0;
            while padded < count {
                padded += tile;
            }
            prop_assert_eq!(offsets::pad(count, tile), padded);
            want += padded;
        }
        prop_assert_eq!(total, want);
        prop_assert_eq!(starts[counts.len()], want);
        prop_assert!(total <= offsets::max_padded_rows(counts.iter().sum(), counts.len(), tile));
        // Every row belongs to the expert whose segment it lies in; experts without rows own none.
        for row in (0..total).step_by((total / 50).max(1)).chain(starts.iter().copied()) {
            let owner = (0..counts.len()).find(|&e| starts[e] <= row && row < starts[e + 1]);
            prop_assert_eq!(offsets::expert_of_row(&starts, row), owner);
        }
        prop_assert_eq!(offsets::expert_of_row(&starts, total), None);
    }
}

/// Calls `visit` with every way to give `slots` rows to `counts.len()` experts.
fn every_routing(counts: &mut [usize], from: usize, slots: usize, visit: &mut dyn FnMut(&[usize])) {
    if from + 1 == counts.len() {
        counts[from] = slots;
        return visit(counts);
    }
    for here in 0..=slots {
        counts[from] = here;
        every_routing(counts, from + 1, slots - here, visit);
    }
}

/// The workspace bound is reached by some routing (tight) and passed by none, for every small problem.
#[test]
fn max_padded_rows_is_exact() {
    let mut routings = 0;
    for experts in 1..=4 {
        for slots in 0..=20 {
            for tile in 1..=6 {
                let mut largest = 0;
                every_routing(&mut vec![0; experts], 0, slots, &mut |counts| {
                    let mut starts = vec![0; experts + 1];
                    largest = largest.max(offsets::padded_offsets(counts, tile, &mut starts));
                    routings += 1;
                });
                assert_eq!(
                    offsets::max_padded_rows(slots, experts, tile),
                    largest,
                    "{slots} {experts} {tile}"
                );
            }
        }
    }
    assert!(routings > 20_000);
    // Skipped slots (-1) only shrink the total: the bound grows with the number of slots.
    for slots in 0..500 {
        assert!(offsets::max_padded_rows(slots, 8, 128) <= offsets::max_padded_rows(slots + 1, 8, 128));
    }
}

#[test]
fn misuse_panics() {
    let panics = |f: fn()| std::panic::catch_unwind(f).is_err();
    assert!(panics(|| layout::swizzle(&[0; 3], 2, 2, &mut [0; 512])));
    assert!(panics(|| layout::swizzle(&[0; 4], 2, 2, &mut [0; 511])));
    assert!(panics(|| layout::unswizzle(&[0; 512], 2, 2, &mut [0; 5])));
    assert!(panics(|| layout::unswizzle(&[0; 513], 2, 2, &mut [0; 4])));
    assert!(panics(|| {
        offsets::padded_offsets(&[1, 2], 4, &mut [0; 2]);
    }));
    assert!(panics(|| {
        offsets::padded_offsets(&[1, 2], 0, &mut [0; 3]);
    }));
}
