//! The scale-factor layout of the tensor core, and padded offsets.

use megamoe_tests::golden::Golden;
use nvfp4::{layout, offsets};

use super::harness::{Check, equal, prove, require};

type Swizzle = dyn Fn(&[u8], usize, usize, &mut [u8]);

/// A swizzle from an offset function that may point anywhere.
fn swizzle(offset: impl Fn(usize, usize, usize, usize) -> usize) -> impl Fn(&[u8], usize, usize, &mut [u8]) {
    move |src, rows, groups, dst| {
        dst.fill(0);
        for row in 0..rows {
            for group in 0..groups {
                dst[offset(row, group, rows, groups)] = src[row * groups + group];
            }
        }
    }
}

fn tile(row: usize, group: usize, groups: usize) -> usize {
    (row / 128) * groups.div_ceil(4) + group / 4
}

#[test]
fn scale_factor_layout() {
    let golden = Golden::load();
    let check = |f: &Swizzle| -> Check {
        for case in golden.cases("swizzle/in_", "") {
            let input = golden.get(&format!("swizzle/in_{case}"));
            let [rows, groups] = input.dims();
            let want = golden.get(&format!("swizzle/out_{case}")).u8();
            // What was there before must not matter.
            let mut got = vec![0xee; want.len()];
            f(input.u8(), rows, groups, &mut got);
            equal(case, &got, want)?;
        }
        Ok(())
    };
    let within = |r: usize, g: usize| (r % 32) * 16 + (r / 32 % 4) * 4 + g % 4;
    let mutants: &[(&str, &Swizzle)] = &[
        (
            "row and group exchanged",
            &swizzle(|r, g, rows, _| {
                (g / 128 * rows.div_ceil(4) + r / 4) * 512 + (g % 32) * 16 + (g / 32 % 4) * 4 + r % 4
            }),
        ),
        (
            "row and group exchanged within the tile",
            &swizzle(|r, g, _, n| tile(r, g, n) * 512 + (g % 4) * 128 + (r % 32) * 4 + r / 32 % 4),
        ),
        ("rows in order", &swizzle(|r, g, _, n| tile(r, g, n) * 512 + (r % 128) * 4 + g % 4)),
        (
            "quarters of the tile exchanged",
            &swizzle(|r, g, _, n| tile(r, g, n) * 512 + (r / 4 % 32) * 16 + (r % 4) * 4 + g % 4),
        ),
        (
            "tiles along rows first",
            &swizzle(move |r, g, rows, _| (g / 4 * rows.div_ceil(128) + r / 128) * 512 + within(r, g)),
        ),
        (
            "groups not padded to four",
            &swizzle(move |r, g, _, n| (r / 128 * (n / 4).max(1) + g / 4) * 512 + within(r, g)),
        ),
        ("not swizzled", &swizzle(|r, g, _, n| r * n + g)),
        // `size` for `cosize`: the loop ends at the number of logical scales.
        ("only as many bytes as there are scales", &|src, rows, groups, dst| {
            let mut all = vec![0; dst.len()];
            layout::swizzle(src, rows, groups, &mut all);
            dst[..src.len()].copy_from_slice(&all[..src.len()]);
        }),
        ("the padding is not written", &|src, rows, groups, dst| {
            for row in 0..rows {
                for group in 0..groups {
                    dst[layout::sf_offset(row, group, groups)] = src[row * groups + group];
                }
            }
        }),
    ];
    prove::<Swizzle>("the layout", &layout::swizzle, mutants, check);
}

/// Experts one behind the other: each starts on a tile of its own, wherever the one before ended.
#[test]
fn experts_start_on_fresh_tiles() {
    let counts = [130, 0, 1, 300, 128];
    const GROUPS: usize = 6;
    type Place = dyn Fn(&[usize], usize, usize, usize) -> usize;
    fn padded(counts: &[usize], expert: usize) -> usize {
        let mut starts = vec![0; counts.len() + 1];
        offsets::padded_offsets(counts, layout::TILE_ROWS, &mut starts);
        starts[expert]
    }
    let real: &Place = &|counts, e, row, g| layout::sf_offset(padded(counts, e) + row, g, GROUPS);
    let check = |place: &Place| -> Check {
        // What the tensor core reads for an expert is the layout of that expert's scales alone.
        for (e, &rows) in counts.iter().enumerate() {
            for row in 0..rows {
                for g in 0..GROUPS {
                    let start = padded(&counts, e) * layout::padded_groups(GROUPS);
                    let want = start + layout::sf_offset(row, g, GROUPS);
                    require(place(&counts, e, row, g) == want, format!("expert {e} row {row} group {g}"))?;
                }
            }
        }
        Ok(())
    };
    fn sum(counts: &[usize], e: usize) -> usize {
        counts[..e].iter().sum()
    }
    let mutants: &[(&str, &Place)] = &[
        ("one swizzle over all rows", &|counts, e, row, g| {
            layout::sf_offset(sum(counts, e) + row, g, GROUPS)
        }),
        ("128 rows for every expert", &|_, e, row, g| layout::sf_offset(e * 128 + row, g, GROUPS)),
        ("offsets without padded groups", &|counts, e, row, g| {
            padded(counts, e) * GROUPS + layout::sf_offset(row, g, GROUPS)
        }),
    ];
    prove("grouped scales", real, mutants, check);
}

#[test]
fn padded_offsets() {
    type Offsets = dyn Fn(&[usize], &mut [usize]);
    let real: &Offsets = &|counts, out| {
        offsets::padded_offsets(counts, 128, out);
    };
    fn running(counts: &[usize], out: &mut [usize], size: &dyn Fn(usize) -> usize) {
        let mut total = 0;
        for (o, &c) in out.iter_mut().zip(counts) {
            *o = total;
            total += size(c);
        }
        out[counts.len()] = total;
    }
    let mutants: &[(&str, &Offsets)] = &[
        ("no leading zero", &|counts, out| {
            running(counts, out, &|c| c.next_multiple_of(128));
            out.rotate_left(1);
        }),
        ("no padding", &|counts, out| running(counts, out, &|c| c)),
        ("always one tile", &|counts, out| running(counts, out, &|_| 128)),
        ("at least one tile", &|counts, out| running(counts, out, &|c| c.next_multiple_of(128).max(128))),
        ("at most two tiles", &|counts, out| running(counts, out, &|c| c.next_multiple_of(128).min(256))),
        ("rounded down", &|counts, out| running(counts, out, &|c| c / 128 * 128)),
    ];
    prove("padded offsets", real, mutants, |f| {
        let mut out = [0; 7];
        f(&[1, 0, 127, 128, 129, 500], &mut out);
        equal("offset", &out, &[0, 128, 128, 256, 384, 640, 1152])
    });
}

/// Workspaces hold every routing, not the average one.
#[test]
fn workspace_bound() {
    type Bound = dyn Fn(usize, usize, usize) -> usize;
    let average = |slots: usize, experts: usize, tile: usize| experts * slots.div_ceil(experts * tile) * tile;
    let mutants: &[(&str, &Bound)] = &[
        ("the average routing", &average),
        ("no padding", &|slots, _, _| slots),
        ("one tile per expert", &|_, experts, tile| experts * tile),
    ];
    prove::<Bound>("the workspace", &offsets::max_padded_rows, mutants, |bound| {
        // Experts that all hold one row more than whole tiles, or one that holds everything.
        let routings: [&[usize]; 4] = [&[129, 129, 129], &[1, 1, 1, 1, 1, 1], &[900, 0, 0, 0], &[257, 1, 1]];
        for counts in routings {
            let mut starts = vec![0; counts.len() + 1];
            let rows = offsets::padded_offsets(counts, 128, &mut starts);
            let slots = counts.iter().sum();
            require(bound(slots, counts.len(), 128) >= rows, format!("{counts:?} needs {rows} rows"))?;
        }
        Ok(())
    });
}

#[test]
fn expert_of_a_row() {
    type Find = dyn Fn(&[usize], usize) -> Option<usize>;
    let left: &Find = &|starts, row| Some(starts.partition_point(|&o| o < row).saturating_sub(1));
    let first: &Find = &|starts, row| starts.iter().position(|&o| o >= row);
    let mutants: &[(&str, &Find)] = &[("searchsorted left", left), ("the leading zero is an expert", first)];
    prove::<Find>("searchsorted", &offsets::expert_of_row, mutants, |find| {
        let starts = [0, 128, 128, 256, 384];
        let got: Vec<Option<usize>> = [0, 1, 127, 128, 255, 256, 383, 384].map(|r| find(&starts, r)).into();
        let want = [Some(0), Some(0), Some(0), Some(2), Some(2), Some(3), Some(3), None];
        equal("expert", &got, &want)
    });
}
