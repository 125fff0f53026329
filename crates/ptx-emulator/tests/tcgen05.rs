//! `tcgen05`: data movement, MMAs against exact sums, pairs of CTAs, and misuse.
#![allow(clippy::unwrap_used)]

mod common;

use common::tcgen05::{COMMIT, WAIT, clean, descriptor, dump, list, program, run};
use common::{Kernel, entry, only, pattern, schedules, text};
use ptx_emulator::check::{Class, Mode};
use ptx_emulator::machine::Schedule;

/// Shape, registers for x4, and (lane, column) of register i of thread t, from the ISA's figures.
type Cell = fn(usize, usize) -> (usize, usize);
const SHAPES: [(&str, &str, usize, Cell); 5] = [
    ("32x32b", "", 4, |t, i| (t, i)),
    ("16x64b", "", 4, |t, i| (t / 4 + t % 2 * 8, 2 * i + t / 2 % 2)),
    ("16x128b", "", 8, |t, i| (t / 4 + i % 2 * 8, i / 2 * 4 + t % 4)),
    ("16x256b", "", 16, |t, i| (t / 4 + i / 2 % 2 * 8, i / 4 * 8 + t % 4 * 2 + i % 2)),
    ("16x32bx2", ", 8", 4, |t, i| (t % 16, t / 16 * 8 + i)),
];

#[test]
fn loads_and_stores() {
    for (shape, immediate, regs, cell) in SHAPES {
        for half in if shape == "32x32b" { 0..1 } else { 0..2 } {
            // Every cell holds 1000 lane + column; the shape is read, stored 64 columns further on, read back.
            let mut body = "mul.lo.u32 %r50, %r1, 1000;\n".to_owned();
            for i in 0..32 {
                body += &format!("add.u32 %x{i}, %r50, {i};\n");
            }
            let base = (half * 16) << 16;
            let offset = immediate;
            body += &format!(
                "tcgen05.st.sync.aligned.32x32b.x32.b32 [%r11], {all};\nadd.u32 %r13, %r11, 64;\n\
                 tcgen05.st.sync.aligned.32x32b.x32.b32 [%r13], {all};\ntcgen05.wait::st.sync.aligned;\n\
                 add.u32 %r14, %r11, {base};\n\
                 tcgen05.ld.sync.aligned.{shape}.x4.b32 {regs}, [%r14]{offset};\ntcgen05.wait::ld.sync.aligned;\n",
                all = list(32),
                regs = list(regs),
            );
            for i in 0..regs {
                body += &format!("st.global.b32 [%rd2+{}], %x{i};\nadd.u32 %x{i}, %x{i}, 500;\n", 4 * i);
            }
            body += &format!(
                "add.u32 %r14, %r14, 64;\ntcgen05.st.sync.aligned.{shape}.x4.b32 [%r14]{offset}, {};\n\
                 tcgen05.wait::st.sync.aligned;\nadd.s64 %rd2, %rd2, 64;\n{}",
                list(regs),
                dump(64, 32)
            );
            let words = 48;
            let got = clean(&program(1, 0, words, &body), 1, &[], words, Schedule::RoundRobin);
            let mut expected = vec![0; 128 * 32];
            for (lane, row) in expected.chunks_exact_mut(32).enumerate() {
                row.iter_mut().enumerate().for_each(|(c, v)| *v = (lane * 1000 + c) as u32);
            }
            for warp in 0..4 {
                for t in 0..32 {
                    for i in 0..regs {
                        let (lane, column) = cell(t, i);
                        let lane = warp * 32 + half * 16 + lane;
                        let want = (lane * 1000 + column) as u32;
                        assert_eq!(got[(warp * 32 + t) * words + i], want, "{shape} thread {t} register {i}");
                        expected[lane * 32 + column] = want + 500;
                    }
                }
            }
            for lane in 0..128 {
                assert_eq!(
                    got[lane * words + 16..][..32],
                    expected[lane * 32..][..32],
                    "{shape} lane {lane}"
                );
            }
        }
    }
}

#[test]
fn packed() {
    let body = "mov.b32 %x0, 0x00020001; mov.b32 %x1, 0x00040003;\n\
                tcgen05.st.sync.aligned.32x32b.x2.unpack::16b.b32 [%r11], {%x0,%x1};\ntcgen05.wait::st.sync.aligned;\n\
                tcgen05.ld.sync.aligned.32x32b.x2.pack::16b.b32 {%x4,%x5}, [%r11];\ntcgen05.wait::ld.sync.aligned;\n\
                st.global.v2.b32 [%rd2+16], {%x4,%x5};\n"
        .to_owned();
    let got = clean(&program(1, 0, 6, &(body + &dump(0, 4))), 1, &[], 6, Schedule::RoundRobin);
    assert!(got.chunks_exact(6).all(|w| w == [1, 2, 3, 4, 0x0002_0001, 0x0004_0003]), "{:?}", &got[..6]);
    // The second half of .16x32bx2 is where the immediate says, in columns, whatever is packed.
    let body = format!(
        "mov.b32 %x0, 0; tcgen05.st.sync.aligned.32x32b.x16.b32 [%r11], {{{}}};\ntcgen05.wait::st.sync.aligned;\n\
         mul.lo.u32 %r50, %r1, 65537; add.u32 %x0, %r50, 0x00650064; add.u32 %x1, %r50, 0x00670066;\n\
         tcgen05.st.sync.aligned.16x32bx2.x2.unpack::16b.b32 [%r11], 6, {{%x0,%x1}};\ntcgen05.wait::st.sync.aligned;\n\
         tcgen05.ld.sync.aligned.16x32bx2.x2.pack::16b.b32 {{%x4,%x5}}, [%r11], 6;\ntcgen05.wait::ld.sync.aligned;\n\
         st.global.v2.b32 [%rd2+64], {{%x4,%x5}};\n{}",
        ["%x0"; 16].join(","),
        dump(0, 16)
    );
    let got = clean(&program(1, 0, 18, &body), 1, &[], 18, Schedule::RoundRobin);
    for (w, t) in got.chunks_exact(18).zip(0u32..) {
        let stored = |t: u32| [t + 100, t + 101, t + 102, t + 103];
        let [a, b, c, d] = stored(t);
        assert_eq!(w[16..], [b << 16 | a, d << 16 | c], "thread {t}");
        // The lane of threads t and t + 16.
        let lane = [&stored(t)[..], &[0; 2], &stored(t + 16), &[0; 6]].concat();
        assert_eq!(w[..16], if t % 32 < 16 { lane } else { vec![0; 16] }, "lane {t}");
    }
}

#[test]
fn copies() {
    let image = pattern(4096);
    // Source row of a lane.
    type Row = fn(usize) -> usize;
    let shapes: [(&str, usize, Row); 5] = [
        ("128x256b", 32, |l| l),
        ("128x128b", 16, |l| l),
        ("64x128b.warpx2::02_13", 16, |l| l % 64),
        ("64x128b.warpx2::01_23", 16, |l| l % 32 + l / 64 * 32),
        ("32x128b.warpx4", 16, |l| l % 32),
    ];
    for (shape, bytes, row) in shapes {
        let (sbo, columns) = (8 * bytes as u64, bytes / 4);
        let body = format!(
            "or.b64 %rd6, %rd5, {};\n@!%p2 bra W;\ntcgen05.cp.cta_group::1.{shape} [%r10], %rd6;\n{COMMIT}{WAIT}{}",
            descriptor(128, sbo, 0),
            dump(0, columns)
        );
        let source = program(1, 4096, columns, &body);
        for schedule in schedules() {
            let got = clean(&source, 1, &image, columns, schedule);
            for lane in 0..128 {
                let r = row(lane);
                for c in 0..columns {
                    // Groups of eight rows, in them 16-byte columns of 128 bytes.
                    let at = r / 8 * sbo as usize + c / 4 * 128 + r % 8 * 16 + c % 4 * 4;
                    let want = u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
                    assert_eq!(
                        got[lane * columns + c],
                        want,
                        "{shape}, lane {lane}, column {c}, {schedule:?}"
                    );
                }
            }
        }
    }
}

/// Rows for the last lane of each partition, behind a shift that moves the others.
#[test]
fn shift_and_refresh() {
    let image = pattern(2048);
    let mut body = "mul.lo.u32 %r50, %r1, 1000;\n".to_owned();
    for i in 0..16 {
        body += &format!("add.u32 %x{i}, %r50, {i};\n");
    }
    body += &format!(
        "tcgen05.st.sync.aligned.32x32b.x16.b32 [%r11], {};\ntcgen05.wait::st.sync.aligned;\n\
         tcgen05.fence::before_thread_sync;\nbar.sync 0;\ntcgen05.fence::after_thread_sync;\n\
         or.b64 %rd6, %rd5, {};\nadd.u32 %r14, %r10, {};\n@!%p2 bra W;\n",
        list(16),
        descriptor(128, 256, 0),
        31 << 16,
    );
    for partition in 0..4 {
        body +=
            &format!("add.u32 %r15, %r10, {};\ntcgen05.shift.cta_group::1.down [%r15];\n", partition << 21);
    }
    body += &format!("tcgen05.cp.cta_group::1.4x256b [%r14], %rd6;\n{COMMIT}{WAIT}{}", dump(0, 16));
    for schedule in schedules() {
        let got = clean(&program(1, 2048, 16, &body), 1, &image, 16, schedule);
        for (i, &word) in got.iter().enumerate() {
            let (lane, column) = (i / 16, i % 16);
            let want = match (lane % 32, column) {
                (_, 8..) => lane * 1000 + column,
                (31, _) => {
                    let at = column / 4 * 128 + lane / 32 * 16 + column % 4 * 4;
                    u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize
                }
                _ => (lane + 1) * 1000 + column,
            };
            assert_eq!(word as usize, want, "{schedule:?}: lane {lane}, column {column}");
        }
    }
}

/// Sixteen elements of 4 or 6 bits and padding become sixteen bytes.
#[test]
fn decompressing_copies() {
    for (format, bits) in [("b4x16_p64", 4), ("b6x16_p32", 6)] {
        for (shape, rows, bytes) in [("128x256b", 128, 32), ("128x128b", 128, 16), ("32x128b.warpx4", 32, 16)]
        {
            let image = pattern(4096);
            let (sbo, columns) = (8 * bytes, bytes / 4);
            let body = format!(
                "or.b64 %rd6, %rd5, {};\n@!%p2 bra W;\n\
                 tcgen05.cp.cta_group::1.{shape}.b8x16.{format} [%r10], %rd6;\n{COMMIT}{WAIT}{}",
                descriptor(128, sbo as u64, 0),
                dump(0, columns)
            );
            let got = clean(&program(1, 4096, columns, &body), 1, &image, columns, Schedule::AsyncLate);
            for lane in 0..128 {
                let row = lane % rows;
                for byte in 0..bytes {
                    let chunk = row / 8 * sbo + byte / 16 * 128 + row % 8 * 16;
                    let want = (0..bits).map(|i| {
                        let bit = byte % 16 * bits + i;
                        (image[chunk + bit / 8] >> (bit % 8) & 1) << i
                    });
                    let got = got[lane * columns + byte / 4].to_le_bytes()[byte % 4];
                    assert_eq!(got, want.sum::<u8>(), "{shape} {format}: lane {lane}, byte {byte}");
                }
            }
        }
    }
}

/// Byte `b` of row `r` of a K-major operand with 128-byte rows, swizzled.
fn sw128(r: usize, b: usize) -> usize {
    r * 128 + ((b / 16) ^ (r % 8)) * 16 + b % 16
}

#[test]
fn half_precision() {
    for (bf16, m, negate) in [(true, 128, 0), (false, 128, 0), (true, 64, 0), (true, 128, 1), (false, 64, 1)]
    {
        let n = 32;
        let random = pattern((m + n) * 16);
        let value = |row: usize, k: usize| i32::from(random[row * 16 + k] % 9) - 4;
        let mut image = vec![0; 16_384 + 4096];
        for row in 0..m + n {
            for k in 0..16 {
                let f = value(row, k) as f32;
                let half = if f == 0.0 {
                    0
                } else {
                    f.to_bits() >> 16 & 0x8000
                        | ((f.to_bits() >> 23 & 255) - 112) << 10
                        | f.to_bits() >> 13 & 0x3ff
                };
                let word = if bf16 { f.to_bits() >> 16 } else { half };
                let base = if row < m { sw128(row, 2 * k) } else { 16_384 + sw128(row - m, 2 * k) };
                image[base..base + 2].copy_from_slice(&(word as u16).to_le_bytes());
            }
        }
        let ty = u32::from(bf16);
        let idesc = 1 << 4 | ty << 7 | ty << 10 | negate << 13 | (n as u32 / 8) << 17 | (m as u32 / 16) << 24;
        let d = descriptor(16, 1024, 2);
        let mma = format!(
            "or.b64 %rd6, %rd5, {d};\nadd.u64 %rd7, %rd6, 1024;\nmov.u32 %r20, {idesc};\n@!%p2 bra W;\n\
             setp.ne.u32 %p4, %r1, %r1;\ntcgen05.mma.cta_group::1.kind::f16 [%r10], %rd6, %rd7, %r20, %p4;\n\
             setp.eq.u32 %p4, %r1, %r1;\ntcgen05.mma.cta_group::1.kind::f16 [%r10], %rd6, %rd7, %r20, %p4;\n{COMMIT}{WAIT}"
        );
        // M = 64 leaves half of the lanes alone.
        let read = if m == 64 {
            let mut s = format!(
                "tcgen05.ld.sync.aligned.16x64b.x16.b32 {}, [%r11];\ntcgen05.wait::ld.sync.aligned;\n",
                list(16)
            );
            for i in 0..16 {
                s += &format!("st.global.b32 [%rd2+{}], %x{i};\n", 4 * i);
            }
            s
        } else {
            dump(0, n)
        };
        let words = if m == 64 { 16 } else { n };
        let got =
            clean(&program(1, image.len(), words, &(mma + &read)), 1, &image, words, Schedule::AsyncLate);
        for (at, &bits) in got.iter().enumerate() {
            let (thread, i) = (at / words, at % words);
            let (w, t) = (thread / 32, thread % 32);
            let (row, column) =
                if m == 64 { (16 * w + t / 4 + t % 2 * 8, 2 * i + t / 2 % 2) } else { (thread, i) };
            let sum: i32 = (0..16).map(|k| value(row, k) * value(m + column, k)).sum();
            let want = (if negate == 1 { -2 * sum } else { 2 * sum }) as f32;
            assert_eq!(f32::from_bits(bits), want, "m {m}, row {row}, column {column}");
        }
    }
}

/// Twice the value of an E2M1 code.
fn twice(code: u8) -> i32 {
    let magnitude = [0, 1, 2, 3, 4, 6, 8, 12][usize::from(code & 7)];
    if code & 8 != 0 { -magnitude } else { magnitude }
}

/// NVFP4 with M = 128 per CTA and N = 128: scales are 1, 2 and 4, so that every sum is an exact integer.
fn nvfp4(group: u32, schedule: Schedule) {
    let ctas = group as usize;
    let (m, n) = (128 * ctas, 128);
    let share = n / ctas;
    let (values, scales) = (pattern((m + n) * 32), pattern((m + n) * 4 + 1));
    let code = |row: usize, k: usize| values[row * 32 + k / 2] >> (4 * (k % 2)) & 15;
    let exponent = |row: usize, block: usize| scales[row * 4 + block + 1] % 3;
    // Per CTA: A 4096 bytes, its rows of B, the scales of its rows of A, the scales of all of B.
    let mut image = vec![0; 10_240 * ctas];
    for cta in 0..ctas {
        let at = cta * 10_240;
        let mut put = |base: usize, from: usize, rows: usize| {
            for r in 0..rows {
                for b in 0..32 {
                    image[at + base + r / 8 * 256 + b / 16 * 128 + r % 8 * 16 + b % 16] =
                        values[(from + r) * 32 + b];
                }
            }
        };
        put(0, cta * 128, 128);
        put(4096, m + cta * share, share);
        for r in 0..128 {
            for kb in 0..4 {
                let cell = r % 32 * 16 + r / 32 * 4 + kb;
                image[at + 8192 + cell] = (7 + exponent(cta * 128 + r, kb)) << 3;
                image[at + 8704 + cell] = (7 + exponent(m + r, kb)) << 3;
            }
        }
    }
    let idesc = 1u32 << 7 | 1 << 10 | (n as u32 / 8) << 17 | (m as u32 / 128) << 27;
    let commit = if group == 2 {
        "mov.b16 %h1, 3;\ntcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%r2], %h1;\n"
    } else {
        COMMIT
    };
    let body = format!(
        "or.b64 %rd6, %rd5, {operand};\nadd.u64 %rd7, %rd6, 256;\nor.b64 %rd8, %rd5, {scale};\n\
         add.u64 %rd9, %rd8, 544;\nadd.u64 %rd8, %rd8, 512;\nmov.u32 %r20, {idesc};\n\
         add.u32 %r21, %r10, 256; add.u32 %r22, %r10, 260;\nsetp.ne.u32 %p4, %r1, %r1;\n\
         setp.ne.u32 %p6, %r40, 0;\n@!%p2 bra W;\n@%p6 bra W;\n\
         tcgen05.cp.cta_group::{group}.32x128b.warpx4 [%r21], %rd8;\n\
         tcgen05.cp.cta_group::{group}.32x128b.warpx4 [%r22], %rd9;\n\
         tcgen05.mma.cta_group::{group}.kind::mxf4nvf4.block_scale.scale_vec::4X [%r10], %rd6, %rd7, %r20, [%r21], \
         [%r22], %p4;\n{commit}{WAIT}{}",
        dump(0, n),
        operand = descriptor(128, 256, 0),
        scale = descriptor(0, 128, 0),
    );
    let got = clean(&program(group, 10_240, n, &body), group, &image, n, schedule);
    for row in 0..m {
        for column in 0..n {
            let four: i32 = (0..64)
                .map(|k| {
                    let product = twice(code(row, k)) * twice(code(m + column, k));
                    product << (exponent(row, k / 16) + exponent(m + column, k / 16))
                })
                .sum();
            let bits = got[row * n + column];
            assert_eq!(f32::from_bits(bits), four as f32 / 4.0, "{schedule:?}: row {row}, column {column}");
        }
    }
}

#[test]
fn nvfp4_of_one_cta() {
    schedules().into_iter().for_each(|s| nvfp4(1, s));
}

#[test]
fn nvfp4_of_a_pair() {
    schedules().into_iter().for_each(|s| nvfp4(2, s));
}

/// A copy takes a whole tile of scales; an MMA needs those of its N columns only.
#[test]
fn scales_of_some_rows() {
    // Behind the image nothing is written: of the second tile the first eight rows are there, of all four columns.
    let image = vec![0; 6144];
    for n in [8, 16] {
        let body = format!(
            "or.b64 %rd6, %rd5, {};\nor.b64 %rd8, %rd5, {};\nadd.u64 %rd9, %rd8, 376;\nadd.u64 %rd8, %rd8, 256;\n\
             mov.u32 %r20, {};\nadd.u32 %r21, %r10, 256; add.u32 %r22, %r10, 260;\nsetp.ne.u32 %p4, %r1, %r1;\n\
             @!%p2 bra W;\ntcgen05.cp.cta_group::1.32x128b.warpx4 [%r21], %rd8;\n\
             tcgen05.cp.cta_group::1.32x128b.warpx4 [%r22], %rd9;\n\
             tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.scale_vec::4X [%r10], %rd6, %rd6, %r20, [%r21], \
             [%r22], %p4;\n{COMMIT}{WAIT}",
            descriptor(128, 256, 0),
            descriptor(0, 128, 0),
            1u32 << 7 | 1 << 10 | (n / 8) << 17 | 1 << 27,
        );
        let ran = run(&program(1, 6144, 1, &body), 1, &image, 1, Schedule::RoundRobin, Mode::StrictPtx);
        if n == 8 {
            assert!(ran.findings.is_empty(), "{}", text(&ran.findings));
        } else {
            only(&ran.findings, Class::Uninitialised);
        }
    }
}

/// Overwriting the scales of an MMA in flight is not a pipelined pair; CUTLASS relies on it.
#[test]
fn scales_overwritten() {
    let image = vec![0; 4096];
    let scale = "tcgen05.cp.cta_group::1.32x128b.warpx4 [%r21], %rd8;\n";
    let body = format!(
        "or.b64 %rd6, %rd5, {};\nor.b64 %rd8, %rd5, {};\nmov.u32 %r20, 0x08200480;\nadd.u32 %r21, %r10, 256;\n\
         setp.ne.u32 %p4, %r1, %r1;\n@!%p2 bra W;\n{scale}tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale\
         .scale_vec::4X [%r10], %rd6, %rd6, %r20, [%r21], [%r21], %p4;\n{scale}{COMMIT}{WAIT}",
        descriptor(128, 256, 0),
        descriptor(0, 128, 0),
    );
    let source = program(1, 4096, 1, &body);
    for schedule in schedules().into_iter().filter(|&s| s != Schedule::AsyncAtOnce) {
        let strict = run(&source, 1, &image, 1, schedule, Mode::StrictPtx);
        only(&strict.findings, Class::Tcgen05Order);
        let compatible = run(&source, 1, &image, 1, schedule, Mode::CutlassCompatible);
        assert!(compatible.findings.is_empty(), "{}", text(&compatible.findings));
    }
}

#[test]
fn misuse() {
    let faults = [
        // Lanes of another warp.
        (dump(0, 1).replace("%r11", "%r10"), Class::TensorLanes),
        // Columns beyond 512.
        (
            "add.u32 %r13, %r11, 510;\ntcgen05.st.sync.aligned.32x32b.x4.b32 [%r13], {%r1,%r1,%r1,%r1};\n"
                .to_owned(),
            Class::OutOfBounds,
        ),
        // Never written.
        (dump(0, 1), Class::Uninitialised),
        // After the permit was given up.
        (
            "@%p1 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r2+32], 32;\n".to_owned(),
            Class::TensorAlloc,
        ),
        // Not what was allocated.
        ("@%p1 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r10, 64;\n".to_owned(), Class::TensorAlloc),
        // The other group size.
        ("@%p1 tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;\n".to_owned(), Class::Undefined),
    ];
    for (body, class) in faults {
        let ran = run(&program(1, 0, 1, &body), 1, &[], 1, Schedule::RoundRobin, Mode::StrictPtx);
        assert!(
            ran.findings.iter().any(|f| f.class == class),
            "{class:?} for {body}\n{}",
            text(&ran.findings)
        );
    }
    for columns in [48, 16, 1024] {
        let body = format!(
            "mov.u32 %r2, smem;\ntcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r2], {columns};\n"
        );
        let k = Kernel::new(&entry("", &body), 32);
        only(&k.run(&[]), Class::TensorAlloc);
    }
}

/// What is not modelled is an error at load; what the instruction descriptor asks for in vain is a finding.
#[test]
fn not_modelled() {
    let text = |mma: &str| program(1, 0, 1, mma);
    for mma in [
        "tcgen05.mma.sp.cta_group::1.kind::f16 [%r10], %rd6, %rd7, [%r11], %r20, %p4;",
        "tcgen05.mma.cta_group::1.kind::f16.ashift [%r10], [%r11], %rd7, %r20, %p4;",
        "tcgen05.mma.ws.cta_group::1.kind::f16 [%r10], %rd6, %rd7, %r20, %p4, %rd8;",
        "tcgen05.mma.cta_group::1.kind::f16 [%r10], %rd6, %rd7, %r20, %p4, 16;",
        "tcgen05.mma.cta_group::1.kind::f8f6f4 [%r10], %rd6, %rd7, %r20, %p4, 1;",
        "tcgen05.mma.cta_group::1.kind::f16 [%r10], %rd6, %rd7, %r20, {%r1,%r1,%r1}, %p4;",
        "tcgen05.mma.ws.cta_group::2.kind::f16 [%r10], %rd6, %rd7, %r20, %p4;",
    ] {
        let Err(why) = ptx_emulator::program::load(&text(mma)) else { panic!("{mma} loads") };
        assert!(format!("{why}").contains("tcgen05.mma"), "{why}");
    }
    // N = 12 (in steps of 4), M = 96, s32 in kind::f16, M = 32 without .ws.
    for idesc in [
        1 << 4 | 1 << 7 | 1 << 10 | 6 << 24,
        1 << 4 | 4 << 17 | 6 << 24,
        2 << 4 | 4 << 17 | 8 << 24,
        1 << 4 | 8 << 17 | 2 << 24,
    ] {
        let body = format!(
            "or.b64 %rd6, %rd5, {};\nmov.u32 %r20, {idesc};\nsetp.ne.u32 %p4, %r1, %r1;\n\
             @%p2 tcgen05.mma.cta_group::1.kind::f16 [%r10], %rd6, %rd6, %r20, %p4;\n",
            descriptor(16, 1024, 2)
        );
        let ran = run(&text(&body), 1, &[], 1, Schedule::RoundRobin, Mode::StrictPtx);
        assert!(ran.findings.iter().any(|f| f.class == Class::Descriptor), "{idesc:#x}");
    }
}
