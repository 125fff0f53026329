//! Tensor copies: layouts of all swizzles, ranks, out-of-bounds fill, stores, reductions, four rows, multicast.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, entry, only, pattern, schedules, text};
use ptx_emulator::check::{Class, Finding};
use ptx_emulator::machine::{Argument, Schedule};
use ptx_emulator::ops::tensor_map::{Element, Fill, Interleave, Swizzle, TensorMap, TensorMapError};

/// Loads a box to shared memory (zeroed before), and copies `n` bytes of shared memory out.
fn load_kernel(form: &str, coordinates: usize, n: usize) -> String {
    let params: String = (0..coordinates).map(|i| format!(", .param .b32 c{i}")).collect();
    let loads: String = (0..coordinates).map(|i| format!("ld.param.b32 %r{}, [c{i}]; ", 20 + i)).collect();
    let list: Vec<String> = (0..coordinates).map(|i| format!("%r{}", 20 + i)).collect();
    entry(
        &format!(".param .u64 out, .param .align 64 .b8 map[128], .param .b32 bytes{params}"),
        &format!(
            "ld.param.u64 %rd1, [out]; ld.param.b32 %r10, [bytes]; {loads} mov.b64 %rd2, map; cvta.param.u64 %rd2, %rd2;\n\
             mov.u32 %r1, %tid.x; mov.u32 %r2, smem; add.u32 %r3, %r2, {n}; mov.u32 %r5, 0; shl.b32 %r6, %r1, 4;\n\
             Z: add.u32 %r7, %r2, %r6; st.shared.v4.u32 [%r7], {{%r5,%r5,%r5,%r5}}; add.u32 %r6, %r6, 2048;\n\
             setp.lt.u32 %p1, %r6, {n}; @%p1 bra Z; fence.proxy.async.shared::cta;\n\
             setp.eq.u32 %p2, %r1, 0; @%p2 mbarrier.init.shared::cta.b64 [%r3], 1; @%p2 fence.mbarrier_init.release.cluster; bar.sync 0;\n\
             @%p2 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], %r10;\n\
             @%p2 cp.async.bulk.tensor.{form}.mbarrier::complete_tx::bytes [%r2], [%rd2, {{{}}}], [%r3];\n\
             W: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3], 0; @!%p3 bra W;\n\
             shl.b32 %r6, %r1, 4;\n\
             O: add.u32 %r7, %r2, %r6; ld.shared.v4.u32 {{%r12,%r13,%r14,%r15}}, [%r7]; cvt.u64.u32 %rd3, %r6;\n\
             add.u64 %rd4, %rd1, %rd3; st.global.v4.u32 [%rd4], {{%r12,%r13,%r14,%r15}}; add.u32 %r6, %r6, 2048;\n\
             setp.lt.u32 %p1, %r6, {n}; @%p1 bra O;",
            list.join(",")
        ),
    )
}

/// The 16-byte chunk of the unswizzled line that lies at chunk `j` of 128-byte line `line`: the tables of PTX
/// ISA 5.5.7.
fn table(swizzle: Swizzle, line: usize, j: usize) -> usize {
    match swizzle {
        Swizzle::None => j,
        Swizzle::B32 => j ^ (line % 2),
        Swizzle::B64 => j ^ (line % 4),
        Swizzle::B128 => j ^ (line % 8),
        Swizzle::B128Atom32 | Swizzle::B128Atom32Flip8 => j ^ (line % 4 * 2),
        Swizzle::B128Atom64 => j ^ (line % 2 * 4),
    }
}

/// Shared memory after a load by the tables: rows at their pitch, then line by line.
fn expected(rows: &[Vec<u8>], pitch: usize, swizzle: Swizzle, n: usize) -> Vec<u8> {
    let mut linear = vec![0; n];
    for (i, row) in rows.iter().enumerate() {
        linear[i * pitch..i * pitch + row.len()].copy_from_slice(row);
    }
    let mut out = vec![0; n];
    for (at, chunk) in out.chunks_exact_mut(16).enumerate() {
        let (line, j) = (at / 8, at % 8);
        let from = (line * 8 + table(swizzle, line, j)) * 16;
        chunk.copy_from_slice(&linear[from..from + 16]);
        if swizzle == Swizzle::B128Atom32Flip8 && line % 2 == 1 {
            chunk.rotate_left(8);
        }
    }
    out
}

fn run_load(
    form: &str,
    map: &TensorMap,
    coordinates: &[i32],
    bytes: u32,
    n: usize,
    data: &[u8],
    schedule: Schedule,
) -> (Vec<u8>, Vec<Finding>) {
    // All threads copy 16 bytes out at least.
    let whole = n.next_multiple_of(2048);
    let mut k = Kernel::new(&load_kernel(form, coordinates.len(), whole), 128).schedule(schedule);
    let (src, out) = (k.upload(data), k.allocate(whole));
    let map = TensorMap { address: src + map.address, ..map.clone() };
    let mut arguments =
        vec![Argument::B64(out), Argument::Bytes(map.encode().unwrap().to_vec()), Argument::B32(bytes)];
    arguments.extend(coordinates.iter().map(|&c| Argument::B32(c as u32)));
    let found = k.run(&arguments);
    (k.bytes(out, n), found)
}

#[test]
fn all_swizzles() {
    let data = pattern(96 * 256);
    for (swizzle, inner) in [
        (Swizzle::None, 64),
        (Swizzle::B32, 32),
        (Swizzle::B32, 16),
        (Swizzle::B64, 64),
        (Swizzle::B64, 32),
        (Swizzle::B128, 128),
        (Swizzle::B128, 48),
        (Swizzle::B128Atom32, 128),
        (Swizzle::B128Atom32Flip8, 128),
        (Swizzle::B128Atom64, 128),
    ] {
        let map = TensorMap::new(Element::U8, 0, &[256, 96], &[256], &[inner, 64]).swizzled(swizzle);
        let rows: Vec<Vec<u8>> =
            (0..64).map(|r| data[(r + 8) * 256 + 32..][..inner as usize].to_vec()).collect();
        for schedule in [Schedule::RoundRobin, Schedule::AsyncLate, Schedule::AsyncAtOnce] {
            for space in ["shared::cta", "shared::cluster"] {
                let form = format!("2d.{space}.global.tile");
                let (got, found) = run_load(&form, &map, &[32, 8], inner * 64, 8192, &data, schedule);
                assert!(found.is_empty(), "{}", text(&found));
                assert!(got == expected(&rows, map.pitch(), swizzle, 8192), "{swizzle:?} {inner} {space}");
            }
        }
    }
}

/// Element `at` of a tensor of shorts with the given extents, or the fill.
fn short(data: &[u8], dims: &[u64], strides: &[u64], at: &[i64], fill: [u8; 2]) -> [u8; 2] {
    if at.iter().zip(dims).any(|(&a, &d)| a < 0 || a >= d as i64) {
        return fill;
    }
    let offset =
        at[0] as usize * 2 + (1..at.len()).map(|d| at[d] as usize * strides[d - 1] as usize).sum::<usize>();
    [data[offset], data[offset + 1]]
}

#[test]
fn ranks_bounds_and_traversal_strides() {
    let dims = [40u64, 7, 5, 4, 3];
    let mut strides = vec![96u64];
    for d in 1..4 {
        strides.push(strides[d - 1] * dims[d] + 16);
    }
    let data = pattern((strides[3] * 3) as usize);
    let boxes = [16u32, 3, 2, 2, 2];
    let starts: [[i32; 5]; 4] = [[3, 1, 1, 1, 0], [-5, -1, 0, 3, -1], [32, 5, 4, -1, 2], [100, 0, 0, 0, 0]];
    for rank in 1..=5 {
        for start in starts {
            for (fill, bytes) in [(Fill::Zero, [0, 0]), (Fill::Nan, [0xf7, 0x7f])] {
                for step in [1u32, 2] {
                    if rank == 1 && step == 2 {
                        continue;
                    }
                    let mut map =
                        TensorMap::new(Element::BF16, 0, &dims[..rank], &strides[..rank - 1], &boxes[..rank]);
                    map.fill = fill;
                    if rank > 1 {
                        map.element_strides[1] = step;
                    }
                    let counts: Vec<u32> = (0..rank).map(|d| map.extent(d)).collect();
                    let rows: u32 = counts[1..].iter().product();
                    let mut rows_expected = Vec::new();
                    for row in 0..rows {
                        let (mut rest, mut at) = (row, vec![0i64; rank]);
                        for d in 1..rank {
                            let steps = if d == 1 { step } else { 1 };
                            at[d] = i64::from(start[d]) + i64::from(rest % counts[d] * steps);
                            rest /= counts[d];
                        }
                        let mut bytes_of_row = Vec::new();
                        for x in 0..16 {
                            at[0] = i64::from(start[0]) + x;
                            bytes_of_row.extend(short(&data, &dims[..rank], &strides, &at, bytes));
                        }
                        rows_expected.push(bytes_of_row);
                    }
                    let form = format!("{rank}d.shared::cta.global");
                    let n = (rows as usize * 32).max(128);
                    let (got, found) =
                        run_load(&form, &map, &start[..rank], rows * 32, n, &data, Schedule::RoundRobin);
                    assert!(found.is_empty(), "{}", text(&found));
                    assert!(
                        got == expected(&rows_expected, 32, Swizzle::None, n),
                        "{rank} {start:?} {fill:?} {step}"
                    );
                }
            }
        }
    }
}

#[test]
fn four_bit_elements() {
    let data = pattern(128 * 16);
    // Packed: the bytes of 256 elements.
    let map = TensorMap::new(Element::U4Align8, 0, &[256, 16], &[128], &[256, 8]).swizzled(Swizzle::B128);
    let rows: Vec<Vec<u8>> = (0..8).map(|r| data[(r + 4) * 128..][..128].to_vec()).collect();
    let (got, found) =
        run_load("2d.shared::cta.global.tile", &map, &[0, 4], 1024, 1024, &data, Schedule::default());
    assert!(found.is_empty(), "{}", text(&found));
    assert_eq!(got, expected(&rows, 128, Swizzle::B128, 1024));
    // Padded: 8 bytes of data, 8 bytes of nothing, which is uninitialised; packed bytes are counted.
    let map = TensorMap::new(Element::U4Align16, 0, &[256, 16], &[128], &[128, 8]);
    let (got, found) =
        run_load("2d.shared::cta.global.tile", &map, &[128, 4], 512, 1024, &data, Schedule::default());
    only(&found, Class::Uninitialised);
    for (i, chunk) in got.chunks_exact(16).enumerate() {
        let from = (i / 8 + 4) * 128 + 64 + i % 8 * 8;
        assert_eq!(chunk[..8], data[from..from + 8]);
    }
    let (_, found) =
        run_load("2d.shared::cta.global.tile", &map, &[64, 4], 512, 1024, &data, Schedule::AsyncLate);
    assert!(found.iter().any(|f| f.class == Class::TensorMap), "{}", text(&found));
}

#[test]
fn gather_of_four_rows() {
    let data = pattern(256 * 32);
    let map = TensorMap::new(Element::U16, 0, &[128, 32], &[256], &[64, 1]).swizzled(Swizzle::B128);
    let index = [9, 2, 31, 40];
    let rows: Vec<Vec<u8>> = index
        .iter()
        .map(|&r| if r < 32 { data[r * 256 + 64..][..128].to_vec() } else { vec![0; 128] })
        .collect();
    for space in ["shared::cta", "shared::cluster"] {
        let form = format!("2d.{space}.global.tile::gather4");
        let (got, found) = run_load(&form, &map, &[32, 9, 2, 31, 40], 512, 512, &data, Schedule::RoundRobin);
        assert!(found.is_empty(), "{}", text(&found));
        assert_eq!(got, expected(&rows, 128, Swizzle::B128, 512));
    }
}

/// Loads a box by map `a`, then stores or reduces it by map `b` (`line`); every thread waits in between.
fn store_kernel(line: &str) -> String {
    entry(
        ".param .align 64 .b8 a[128], .param .align 64 .b8 b[128], .param .b32 bytes",
        &format!(
            "ld.param.b32 %r10, [bytes]; mov.b64 %rd2, a; cvta.param.u64 %rd2, %rd2; mov.b64 %rd3, b; cvta.param.u64 %rd3, %rd3;\n\
             mov.u32 %r1, %tid.x; mov.u32 %r2, smem; add.u32 %r3, %r2, 32768; setp.ne.u32 %p2, %r1, 0; @%p2 exit;\n\
             prefetch.tensormap [%rd2]; mbarrier.init.shared::cta.b64 [%r3], 1; fence.mbarrier_init.release.cluster;\n\
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], %r10;\n\
             cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%r2], [%rd2, {{0, 0}}], [%r3], %rd3;\n\
             W: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3], 0; @!%p3 bra W;\n\
             {line} cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;"
        ),
    )
}

#[test]
fn stores_undo_swizzles_and_drop_what_is_outside() {
    let data = pattern(64 * 128);
    let store = "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd3, {48, 20}], [%r2];";
    for swizzle in
        [Swizzle::None, Swizzle::B128, Swizzle::B128Atom32, Swizzle::B128Atom32Flip8, Swizzle::B128Atom64]
    {
        for schedule in schedules() {
            let mut k = Kernel::new(&store_kernel(store), 32).schedule(schedule);
            let (src, dst) = (k.upload(&data), k.upload(&[7; 256 * 64]));
            let a = TensorMap::new(Element::U16, src, &[64, 64], &[128], &[64, 64]).swizzled(swizzle);
            let b = TensorMap::new(Element::U16, dst, &[100, 64], &[256], &[64, 64]).swizzled(swizzle);
            let maps = [&a, &b].map(|m| Argument::Bytes(m.encode().unwrap().to_vec()));
            let [x, y] = maps;
            let found = k.run(&[x, y, Argument::B32(8192)]);
            assert!(found.is_empty(), "{}", text(&found));
            let got = k.bytes(dst, 256 * 64);
            for row in 0..64 {
                for byte in 0..256 {
                    let inside = row >= 20 && (96..200).contains(&byte);
                    let wanted = if inside { data[(row - 20) * 128 + byte - 96] } else { 7 };
                    assert_eq!(got[row * 256 + byte], wanted, "{swizzle:?} {row} {byte}");
                }
            }
        }
    }
}

#[test]
fn scatter_and_reductions() {
    let data: Vec<u8> = (0..256u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let run = |line: &str, rows: u32, element: Element, before: &[u8]| {
        let mut k = Kernel::new(&store_kernel(line), 32);
        let (src, dst) = (k.upload(&data), k.upload(before));
        let a = TensorMap::new(Element::F32, src, &[32, 8], &[128], &[32, 4]);
        let b = TensorMap::new(element, dst, &[32, 8], &[128], &[32, rows]);
        let [x, y] = [&a, &b].map(|m| Argument::Bytes(m.encode().unwrap().to_vec()));
        let found = k.run(&[x, y, Argument::B32(512)]);
        (found, k.bytes(dst, 1024))
    };
    let scatter = "cp.async.bulk.tensor.2d.global.shared::cta.tile::scatter4.bulk_group [%rd3, {0, 6, 1, 3, 9}], [%r2];";
    let (found, got) = run(scatter, 1, Element::F32, &[1; 1024]);
    assert!(found.is_empty(), "{}", text(&found));
    for (row, bytes) in got.chunks_exact(128).enumerate() {
        let from = [6, 1, 3].iter().position(|&r| r == row);
        let wanted = from.map_or(vec![1; 128], |f| data[f * 128..][..128].to_vec());
        assert_eq!(bytes, wanted, "{row}");
    }
    let half: Vec<u8> = (0..256).flat_map(|_| 0.5f32.to_le_bytes()).collect();
    let add = "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%rd3, {0, 4}], [%r2];";
    let (found, got) = run(add, 4, Element::F32, &half);
    assert!(found.is_empty(), "{}", text(&found));
    for (i, bytes) in got.chunks_exact(4).enumerate() {
        let value = f32::from_le_bytes(bytes.try_into().unwrap());
        assert_eq!(value, if i < 128 { 0.5 } else { (i - 128) as f32 + 0.5 });
    }
    // There is no floating-point `and`.
    let and = "cp.reduce.async.bulk.tensor.2d.global.shared::cta.and.tile.bulk_group [%rd3, {0, 4}], [%r2];";
    only(&run(and, 4, Element::F32, &half).0, Class::TensorMap);
    // Poison is reported when it reaches the output.
    let (found, _) = run(add.replace("[%r2]", "[%r2+1024]").as_str(), 4, Element::F32, &half);
    only(&found, Class::Uninitialised);
}

/// Cluster of `n`; rank 0 (and rank 1 for `cta_group::2`) load.
fn cluster_kernel(n: u32, load: &str, wait: &str, bytes: u32) -> String {
    entry(
        ".param .u64 out, .param .align 64 .b8 map[128]",
        &format!(
            "ld.param.u64 %rd1, [out]; mov.b64 %rd2, map; cvta.param.u64 %rd2, %rd2; mov.u32 %r1, %tid.x; mov.u32 %r2, smem;\n\
             mov.u32 %r5, %cluster_ctarank; add.u32 %r3, %r2, 4096; setp.eq.u32 %p1, %r1, 0; setp.eq.and.u32 %p2, %r5, 0, %p1;\n\
             and.b32 %r4, %r3, 0xFEFFFFFF; mov.u16 %h1, {}; mov.u16 %h2, 0b0101; mul.lo.u32 %r6, %r5, 8;\n\
             @%p1 mbarrier.init.shared::cta.b64 [%r3], 1; @%p1 fence.mbarrier_init.release.cluster;\n\
             @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], {bytes};\n\
             barrier.cluster.arrive; barrier.cluster.wait;\n{load}\n{wait}\n\
             barrier.cluster.arrive; barrier.cluster.wait;\n\
             shl.b32 %r8, %r1, 3; add.u32 %r9, %r2, %r8; ld.shared.v2.u32 {{%r12,%r13}}, [%r9];\n\
             mul.wide.u32 %rd3, %r5, 1024; cvt.u64.u32 %rd4, %r8; add.u64 %rd3, %rd3, %rd4; add.u64 %rd3, %rd3, %rd1;\n\
             st.global.v2.u32 [%rd3], {{%r12,%r13}};",
            (1 << n) - 1
        ),
    )
}

const WAIT: &str = "W: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3], 0; @!%p3 bra W;";

#[test]
fn multicast_and_pairs() {
    let data = pattern(128 * 32);
    let block = |row: usize| data[row * 128..][..1024].to_vec();
    let run = |n: u32, source: &str| {
        let mut all = Vec::new();
        for schedule in schedules() {
            let mut k = Kernel::new(source, 128).cluster(n).schedule(schedule);
            let (src, out) = (k.upload(&data), k.allocate(1024 * n as usize));
            let map = TensorMap::new(Element::U8, src, &[128, 32], &[128], &[128, 8]);
            let found = k.run(&[Argument::B64(out), Argument::Bytes(map.encode().unwrap().to_vec())]);
            assert!(found.is_empty(), "{schedule:?}\n{}", text(&found));
            all = k.bytes(out, 1024 * n as usize);
        }
        all
    };
    for n in [2, 4] {
        let load = "@%p2 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster\
                    [%r2], [%rd2, {0, 16}], [%r3], %h1;";
        let got = run(n, &cluster_kernel(n, load, WAIT, 1024));
        assert!(got.chunks_exact(1024).all(|c| c == block(16)));
    }
    // A pair: both CTAs load their own rows, the even one's mbarrier counts both.
    let load = "@%p1 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.cta_group::2\
                [%r2], [%rd2, {0, %r6}], [%r4];";
    let wait = format!("setp.ne.u32 %p4, %r5, 0; @%p4 bra E; {WAIT} E:");
    let got = run(2, &cluster_kernel(2, load, &wait, 2048));
    assert_eq!(got, [block(0), block(8)].concat());
    // Two pairs, multicast to the CTAs 0 and 2 and signalled on them (even barrier), and to all.
    let load = "@%p2 cp.async.bulk.tensor.2d.cta_group::2.shared::cluster.global.mbarrier::complete_tx::bytes\
                .multicast::cluster [%r2], [%rd2, {0, 24}], [%r4], %h1;";
    let wait = format!("and.b32 %r7, %r5, 1; setp.ne.u32 %p4, %r7, 0; @%p4 bra E; {WAIT} E:");
    let got = run(4, &cluster_kernel(4, load, &wait, 2048));
    assert!(got.chunks_exact(1024).all(|c| c == block(24)));
}

#[test]
fn wrong_barriers_and_masks() {
    let find = |n: u32, load: &str| {
        let mut k = Kernel::new(&cluster_kernel(n, load, "", 1024), 128).cluster(n);
        let (src, out) = (k.upload(&pattern(4096)), k.allocate(4096));
        let map = TensorMap::new(Element::U8, src, &[128, 32], &[128], &[128, 8]);
        k.run(&[Argument::B64(out), Argument::Bytes(map.encode().unwrap().to_vec())])
    };
    let has = |found: &[Finding], class: Class, words: &str| {
        assert!(
            found.iter().any(|f| f.class == class && f.message.contains(words)),
            "{words}:\n{}",
            text(found)
        );
    };
    // Rank 1's data on rank 0's barrier without `.cta_group::2`.
    let other = "@%p1 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd2, {0, 0}], [%r4];";
    has(&find(2, other), Class::Mbarrier, "the mbarrier is in rank 0");
    let mask = "mov.u16 %h1, 7; @%p2 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes\
                .multicast::cluster [%r2], [%rd2, {0, 0}], [%r3], %h1;";
    has(&find(2, mask), Class::OutOfBounds, "multicast mask 0x7");
    let aligned = "@%p2 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r2+64], [%rd2, {0, 0}], [%r3];";
    has(&find(2, aligned), Class::Misaligned, "128-byte");
    let rank = "@%p2 cp.async.bulk.tensor.3d.shared::cta.global.mbarrier::complete_tx::bytes [%r2], [%rd2, {0, 0, 0}], [%r3];";
    has(&find(2, rank), Class::TensorMap, "rank 2");
    let no_map = "@%p2 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r2], [%rd1, {0, 0}], [%r3];";
    has(&find(2, no_map), Class::TensorMap, "not a tensor map");
}

#[test]
fn maps_are_validated() {
    use TensorMapError as E;
    let good = TensorMap::new(Element::U8, 256, &[256, 64], &[256], &[128, 64]).swizzled(Swizzle::B128);
    assert_eq!(TensorMap::decode(&good.encode().unwrap()), Ok(good.clone()));
    let wide = TensorMap::new(
        Element::F64,
        1 << 40,
        &[1 << 32, 5, 6, 7, 8],
        &[16, 32, 48, (1 << 40) - 16],
        &[2, 1, 256, 3, 4],
    );
    assert_eq!(TensorMap::decode(&wide.encode().unwrap()), Ok(wide));
    let wrong = |f: &dyn Fn(&mut TensorMap)| {
        let mut map = good.clone();
        f(&mut map);
        map.encode().unwrap_err()
    };
    assert_eq!(wrong(&|m| m.address = 264), E::Address { address: 264, align: 16 });
    assert_eq!(wrong(&|m| m.dims[1] = 0), E::Dim(1, 0));
    assert_eq!(wrong(&|m| m.strides[0] = 24), E::Stride(1, 24, 16));
    assert_eq!(wrong(&|m| m.box_dims[1] = 257), E::Box(1, 257));
    assert_eq!(wrong(&|m| m.box_dims[0] = 24), E::InnerBytes(24));
    assert!(matches!(wrong(&|m| m.box_dims[0] = 256), E::Span { bytes: 256, span: 128, .. }));
    assert_eq!(wrong(&|m| m.element_strides[1] = 9), E::ElementStride(1, 9));
    assert_eq!(wrong(&|m| m.fill = Fill::Nan), E::Fill(Element::U8));
    assert!(matches!(wrong(&|m| m.strides.clear()), E::Length { .. }));
    assert_eq!(wrong(&|m| m.interleave = Interleave::B16), E::Rank(2));
    assert_eq!(wrong(&|m| (m.element, m.dims[0]) = (Element::U6Align16, 100)), E::Dim(0, 100));
    let mut deep = TensorMap::new(Element::U16, 0, &[8, 4, 4], &[64, 256], &[8, 2, 1]);
    deep.interleave = Interleave::B16;
    assert!(matches!(deep.validate(), Err(E::NotModelled(_))));
    deep.box_dims[1] = 1;
    assert_eq!(TensorMap::decode(&deep.encode().unwrap()), Ok(deep));
    let im2col = TensorMap::new(Element::U16, 0, &[16, 9, 8, 4], &[32, 288, 2304], &[]);
    let columns = im2col.clone().im2col(&[-1, -2], &[1, -3], 8, 300);
    assert_eq!(TensorMap::decode(&columns.encode().unwrap()), Ok(columns));
    let corner = |lower: &[i32], upper: &[i32]| im2col.clone().im2col(lower, upper, 8, 8).validate();
    assert!(matches!(corner(&[-129, 0], &[0, 0]), Err(E::Corner { rank: 4, dim: 1, value: -129 })));
    assert!(matches!(corner(&[0, 3], &[0, -5]), Err(E::Corner { rank: 4, dim: 2, value: -5 })));
    assert!(matches!(corner(&[0], &[0]), Err(E::Length { .. })));
    assert_eq!(TensorMap::decode(&[0; 128]), Err(E::NotATensorMap));
}

#[test]
fn maps_changed_on_the_device() {
    // Thread 0 copies the parameter map to shared memory, points it at other data with another swizzle, the warp
    // publishes it, and the load uses the copy in global memory.
    let source = entry(
        ".param .u64 out, .param .align 64 .b8 map[128], .param .u64 data, .param .u64 copy",
        &format!(
            "ld.param.u64 %rd1, [out]; ld.param.u64 %rd5, [data]; ld.param.u64 %rd6, [copy]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem;\n\
             add.u32 %r3, %r2, 4096; add.u32 %r4, %r2, 8192; mov.b64 %rd2, map; cvta.param.u64 %rd2, %rd2; setp.eq.u32 %p1, %r1, 0;\n\
             shl.b32 %r5, %r1, 2; cvt.u64.u32 %rd3, %r5; add.u64 %rd3, %rd2, %rd3; ld.b32 %r6, [%rd3]; add.u32 %r7, %r4, %r5; st.shared.b32 [%r7], %r6;\n\
             bar.warp.sync 0xffffffff; mov.u32 %r8, 16;\n\
             @%p1 tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%r4], %rd5;\n\
             @%p1 tensormap.replace.tile.swizzle_mode.shared::cta.b1024.b32 [%r4], 2;\n\
             @%p1 tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%r4], 1, %r8;\n\
             @%p1 tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%r4], 1, 40;\n\
             bar.warp.sync 0xffffffff;\n\
             tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%rd6], [%r4], 128;\n\
             fence.proxy.tensormap::generic.acquire.gpu [%rd6], 128;\n\
             @%p1 mbarrier.init.shared::cta.b64 [%r3], 1; @%p1 fence.mbarrier_init.release.cluster; bar.warp.sync 0xffffffff;\n\
             @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 1024;\n\
             @%p1 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r2], [%rd6, {{0, 0}}], [%r3];\n\
             {WAIT}\n\
             shl.b32 %r8, %r1, 5; add.u32 %r9, %r2, %r8; cvt.u64.u32 %rd4, %r8; add.u64 %rd4, %rd4, %rd1;\n\
             ld.shared.v4.u32 {{%r12,%r13,%r14,%r15}}, [%r9]; st.global.v4.u32 [%rd4], {{%r12,%r13,%r14,%r15}};\n\
             ld.shared.v4.u32 {{%r12,%r13,%r14,%r15}}, [%r9+16]; st.global.v4.u32 [%rd4+16], {{%r12,%r13,%r14,%r15}};"
        ),
    );
    let data = pattern(64 * 64);
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 32).schedule(schedule);
        let (out, zeros, src, copy) =
            (k.allocate(1024), k.upload(&[0; 4096]), k.upload(&data), k.allocate(128));
        let map = TensorMap::new(Element::U8, zeros, &[64, 64], &[64], &[64, 8]);
        let found = k.run(&[
            Argument::B64(out),
            Argument::Bytes(map.encode().unwrap().to_vec()),
            Argument::B64(src),
            Argument::B64(copy),
        ]);
        assert!(found.is_empty(), "{}", text(&found));
        let rows: Vec<Vec<u8>> = data.chunks_exact(64).take(16).map(<[u8]>::to_vec).collect();
        assert_eq!(k.bytes(out, 1024), expected(&rows, 64, Swizzle::B64, 1024));
    }
}

/// Six-bit elements: 12 bytes of data, 4 of nothing, to 16 elements.
#[test]
fn six_bit_elements() {
    let data = pattern(192 * 16);
    let map = TensorMap::new(Element::U6Align16, 0, &[256, 16], &[192], &[128, 8]);
    let (got, found) =
        run_load("2d.shared::cta.global.tile", &map, &[128, 4], 768, 1024, &data, Schedule::default());
    only(&found, Class::Uninitialised);
    for (i, chunk) in got.chunks_exact(16).enumerate() {
        let from = (i / 8 + 4) * 192 + 96 + i % 8 * 12;
        assert_eq!(chunk[..12], data[from..from + 12]);
    }
}

/// A tiled copy of an im2col map, coordinates that the H200 refuses, and modes that are not modelled.
#[test]
fn im2col_misuse() {
    let data = pattern(16 * 2 * 9 * 8);
    let map = TensorMap::new(Element::U16, 0, &[16, 9, 8], &[32, 288], &[]).im2col(&[-1], &[-1], 8, 16);
    for (form, coordinates) in [
        ("3d.shared::cta.global.tile", [0, 0, 0]),
        ("3d.shared::cta.global.im2col", [4, 0, 0]),
        ("3d.shared::cta.global.im2col", [0, -2, 0]),
        ("3d.shared::cta.global.im2col", [0, 8, 0]),
    ] {
        let source = load_kernel(form, 3, 2048);
        let source =
            if form.ends_with("im2col") { source.replace("], [%r3];", "], [%r3], {%h0};") } else { source };
        let source = source.replace("ld.param.u64 %rd1", "mov.b16 %h0, 1; ld.param.u64 %rd1");
        let mut k = Kernel::new(&source, 128);
        let (src, out) = (k.upload(&data), k.allocate(2048));
        let map = TensorMap { address: src, ..map.clone() };
        let mut arguments =
            vec![Argument::B64(out), Argument::Bytes(map.encode().unwrap().to_vec()), Argument::B32(256)];
        arguments.extend(coordinates.map(|c: i32| Argument::B32(c as u32)));
        let found = k.run(&arguments);
        assert!(
            found.iter().any(|f| f.class == Class::TensorMap),
            "{form} {coordinates:?}: {}",
            text(&found)
        );
    }
    for form in ["3d.shared::cta.global.im2col::w", "2d.shared::cta.global.im2col"] {
        assert!(ptx_emulator::program::load(&load_kernel(form, form[..1].parse().unwrap(), 2048)).is_err());
    }
}
