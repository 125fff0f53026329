//! `mma.sync`, `ldmatrix`, `stmatrix`, `movmatrix` against plain loops.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, entry, only, pattern, schedules, text};
use ptx_emulator::check::Class;

/// Runs one warp: `load` registers %x0.. from the input (`words` per lane), `body`, store %x0.. (`out` per lane).
fn run(input: &[u32], out: usize, body: &str) -> Vec<u32> {
    let words = input.len() / 32;
    let mut text = format!(
        ".reg .b32 %x<16>; mov.u32 %r1, %tid.x; mov.u32 %r2, smem; ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b];\n\
         mul.wide.u32 %rd3, %r1, {}; add.s64 %rd1, %rd1, %rd3; mul.wide.u32 %rd4, %r1, {}; add.s64 %rd2, %rd2, %rd4;\n",
        4 * words,
        4 * out
    );
    (0..words).for_each(|i| text += &format!("ld.global.b32 %x{i}, [%rd1+{}];\n", 4 * i));
    text += body;
    (0..out).for_each(|i| text += &format!("st.global.b32 [%rd2+{}], %x{i};\n", 4 * i));
    let mut k = Kernel::new(&entry(".param .u64 a, .param .u64 b", &text), 32);
    let arguments = [k.upload_u32(input), k.allocate(128 * out)];
    k.run_clean(&arguments);
    k.u32s(arguments[1], 32 * out)
}

fn bf16(v: i32) -> u32 {
    (v as f32).to_bits() >> 16
}

fn f16(v: i32) -> u32 {
    let bits = (v as f32).to_bits();
    if v == 0 { 0 } else { bits >> 16 & 0x8000 | ((bits >> 23 & 0xff) - 112) << 10 | bits >> 13 & 0x3ff }
}

fn e4m3(v: i32) -> u32 {
    let bits = (v as f32).to_bits();
    if v == 0 { 0 } else { bits >> 24 & 0x80 | ((bits >> 23 & 0xff) - 120) << 3 | bits >> 20 & 7 }
}

#[test]
fn mma_sync() {
    type Encode = fn(i32) -> u32;
    let cases: [(&str, usize, usize, Encode); 5] = [
        ("bf16", 16, 2, bf16),
        ("f16", 16, 2, f16),
        ("bf16", 8, 2, bf16),
        ("f16", 8, 2, f16),
        ("e4m3", 32, 4, e4m3),
    ];
    for (ty, k, per, encode) in cases {
        let random = pattern(24 * k);
        let a = |r: usize, x: usize| i32::from(random[r * k + x] % 9) - 4;
        let b = |c: usize, x: usize| i32::from(random[(16 + c) * k + x] % 9) - 4;
        let addend = |r: usize, c: usize| (r as i32 - 2 * c as i32) as f32;
        let (na, nb) = (if k == 8 { 2 } else { 4 }, if k == 8 { 1 } else { 2 });
        let mut input = Vec::new();
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            let word = |f: &dyn Fn(usize) -> i32, half: usize| {
                (0..per).fold(0, |w, e| w | encode(f(per * t + e + 4 * per * half)) << (32 / per * e))
            };
            (0..na).for_each(|r| input.push(word(&|x| a(g + 8 * (r % 2), x), r / 2)));
            (0..nb).for_each(|r| input.push(word(&|x| b(g, x), r)));
            (0..4).for_each(|i| input.push(addend(g + 8 * (i / 2), 2 * t + i % 2).to_bits()));
        }
        let list = |from: usize, n: usize| {
            let names: Vec<String> = (from..from + n).map(|i| format!("%x{i}")).collect();
            format!("{{{}}}", names.join(","))
        };
        let body = format!(
            "mma.sync.aligned.m16n8k{k}.row.col.f32.{ty}.{ty}.f32 {d}, {}, {}, {};\n",
            list(0, na),
            list(na, nb),
            list(na + nb, 4),
            d = "{%x0,%x1,%x2,%x3}"
        );
        for (at, bits) in run(&input, 4, &body).into_iter().enumerate() {
            let (lane, i) = (at / 4, at % 4);
            let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            let sum: i32 = (0..k).map(|x| a(row, x) * b(column, x)).sum();
            assert_eq!(f32::from_bits(bits), sum as f32 + addend(row, column), "{ty} k{k} [{row}][{column}]");
        }
    }
}

/// Element (row, column) of matrix `j`.
fn element(j: usize, row: usize, column: usize) -> u32 {
    (j * 1000 + row * 10 + column + 1) as u32
}

#[test]
fn fragments() {
    for (count, trans) in [(1, false), (2, false), (4, false), (1, true), (2, true), (4, true)] {
        let dot = if trans { ".trans" } else { "" };
        let list: Vec<String> = (0..count).map(|i| format!("%x{i}")).collect();
        let list = format!("{{{}}}", list.join(","));
        let fragment = |lane: usize, j: usize, trans: bool| {
            let half = |h: usize| {
                let (r, c) = (lane / 4, 2 * (lane % 4) + h);
                if trans { element(j, c, r) } else { element(j, r, c) }
            };
            half(0) | half(1) << 16
        };
        // Lane l writes row l % 8 of matrix l / 8; every matrix row is 16 bytes.
        let mut input = Vec::new();
        for lane in 0..32 {
            (0..4).for_each(|w| {
                input.push(element(lane / 8, lane % 8, 2 * w) | element(lane / 8, lane % 8, 2 * w + 1) << 16)
            });
        }
        let load = format!(
            "mad.lo.u32 %r3, %r1, 16, %r2; st.shared.v4.b32 [%r3], {{%x0,%x1,%x2,%x3}}; bar.warp.sync -1;\n\
             ldmatrix.sync.aligned.m8n8.x{count}{dot}.shared.b16 {list}, [%r3];\n"
        );
        let got = run(&input, count, &load);
        for lane in 0..32 {
            for j in 0..count {
                assert_eq!(
                    got[lane * count + j],
                    fragment(lane, j, trans),
                    "x{count}{dot} lane {lane} matrix {j}"
                );
            }
        }
        // What ldmatrix gave goes back where it was.
        let mut fragments = Vec::new();
        (0..32).for_each(|lane| (0..count).for_each(|j| fragments.push(fragment(lane, j, trans))));
        let store = format!(
            "mad.lo.u32 %r3, %r1, 16, %r2; mov.u32 %r4, 0; st.shared.v4.b32 [%r3], {{%r4,%r4,%r4,%r4}};\n\
             bar.warp.sync -1; stmatrix.sync.aligned.m8n8.x{count}{dot}.shared.b16 [%r3], {list};\n\
             bar.warp.sync -1; ld.shared.v4.b32 {{%x0,%x1,%x2,%x3}}, [%r3];\n"
        );
        let got = run(&fragments, 4, &store);
        assert_eq!(got[..count * 32], input[..count * 32], "x{count}{dot}");
        assert!(got[count * 32..].iter().all(|&w| w == 0));
    }
    let input: Vec<u32> =
        (0..32).map(|l| element(0, l / 4, 2 * (l % 4)) | element(0, l / 4, 2 * (l % 4) + 1) << 16).collect();
    let got = run(&input, 1, "movmatrix.sync.aligned.m8n8.trans.b16 %x0, %x0;\n");
    for (lane, word) in got.into_iter().enumerate() {
        let (r, c) = (lane / 4, 2 * (lane % 4));
        assert_eq!(word, element(0, c, r) | element(0, c + 1, r) << 16);
    }
}

/// 8-bit matrices: 16 rows transposed, 8 rows of packed elements, and the store of accumulator fragments.
#[test]
fn matrices_of_bytes() {
    let bytes = pattern(1024);
    let words: Vec<u32> = bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
    // The lanes' 32 bytes go to shared memory one after the other; row i is 16 bytes at 16 i.
    let store = "mul.lo.u32 %r3, %r1, 32; add.u32 %r3, %r3, %r2; st.shared.v4.b32 [%r3], {%x0,%x1,%x2,%x3};\n\
                 st.shared.v4.b32 [%r3+16], {%x4,%x5,%x6,%x7}; bar.warp.sync 0xffffffff;\n\
                 shl.b32 %r3, %r1, 4; add.u32 %r3, %r3, %r2;\n";
    let unpack = |row: usize, k: usize, bits: usize| {
        let at = |i: usize| {
            let bit = k * bits + i;
            u32::from(bytes[row * 16 + bit / 8] >> (bit % 8) & 1) << i
        };
        (0..bits).map(at).sum::<u32>()
    };
    for (format, bits) in [("b8", 8), ("b8x16.b6x16_p32", 6), ("b8x16.b4x16_p64", 4)] {
        for n in [1, 2] {
            let list: Vec<String> = (0..2 * n).map(|i| format!("%x{i}")).collect();
            let body = format!(
                "{store}ldmatrix.sync.aligned.m16n16.x{n}.trans.shared.{format} {{{}}}, [%r3];\n",
                list.join(",")
            );
            let got = run(&words, 2 * n, &body);
            for lane in 0..32 {
                for i in 0..8 * n {
                    let (matrix, register, byte) = (i / 8, i / 4 % 2, i % 4);
                    let row = 16 * matrix + lane % 4 * 4 + register * 2 + byte % 2;
                    let want = unpack(row, lane / 4 + byte / 2 * 8, bits);
                    let word = got[lane * 2 * n + i / 4];
                    assert_eq!(word >> (8 * byte) & 255, want, "{format} x{n}: lane {lane}, byte {i}");
                }
            }
        }
        for n in if bits == 8 { &[][..] } else { &[1, 2, 4] } {
            let list: Vec<String> = (0..*n).map(|i| format!("%x{i}")).collect();
            let body = format!(
                "{store}ldmatrix.sync.aligned.m8n16.x{n}.shared::cta.{format} {{{}}}, [%r3];\n",
                list.join(",")
            );
            let got = run(&words, *n, &body);
            for (i, word) in got.iter().enumerate() {
                let (lane, matrix) = (i / n, i % n);
                for byte in 0..4 {
                    let want = unpack(8 * matrix + lane / 4, lane % 4 * 4 + byte, bits);
                    assert_eq!(word >> (8 * byte) & 255, want, "{format} x{n}: lane {lane}, matrix {matrix}");
                }
            }
        }
    }
    for n in [1, 2, 4] {
        let list: Vec<String> = (0..n).map(|i| format!("%x{i}")).collect();
        let body = format!(
            "shl.b32 %r3, %r1, 4; add.u32 %r3, %r3, %r2;\n\
             stmatrix.sync.aligned.m16n8.x{n}.trans.shared.b8 [%r3], {{{}}};\nbar.warp.sync 0xffffffff;\n\
             rem.u32 %r4, %r1, {}; shl.b32 %r4, %r4, 4; add.u32 %r4, %r4, %r2;\n\
             ld.shared.v4.b32 {{%x0,%x1,%x2,%x3}}, [%r4];\n",
            list.join(","),
            8 * n
        );
        let got = run(&words, 4, &body);
        for lane in 0..8 * n {
            let (matrix, column) = (lane / 8, lane % 8);
            for row in 0..16 {
                // The fragment of an accumulator: rows g and g + 8, columns 2 t and 2 t + 1.
                let source = (row % 8 * 4 + column / 2) * 8 + matrix;
                let want = words[source] >> (8 * (row / 8 * 2 + column % 2)) & 255;
                assert_eq!(
                    got[lane * 4 + row / 4] >> (row % 4 * 8) & 255,
                    want,
                    "x{n}: lane {lane}, row {row}"
                );
            }
        }
    }
    for bad in [
        "ldmatrix.sync.aligned.m16n16.x1.shared.b8 {%r3,%r4}, [%r2];",
        "ldmatrix.sync.aligned.m16n16.x4.trans.shared.b8 {%r3,%r4,%r5,%r6,%r7,%r8,%r9,%r10}, [%r2];",
        "ldmatrix.sync.aligned.m8n16.x1.shared.b8 {%r3}, [%r2];",
        "stmatrix.sync.aligned.m16n8.x1.shared.b8 [%r2], {%r3};",
    ] {
        assert!(ptx_emulator::program::load(&entry("", bad)).is_err(), "{bad}");
    }
}

/// Two warps; the second reads or overwrites, with a matrix instruction, what the first has stored.
#[test]
fn accesses_of_other_warps_are_ordered() {
    for matrix in [
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10,%r11,%r12,%r13}, [%r4];",
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r4], {%r1,%r1,%r1,%r1};",
    ] {
        for barrier in ["", "bar.sync 0;"] {
            let source = entry(
                "",
                &format!(
                    "mov.u32 %r1, %tid.x; and.b32 %r3, %r1, 31; mov.u32 %r2, smem; mad.lo.u32 %r4, %r3, 16, %r2;\n\
                     setp.lt.u32 %p1, %r1, 32; @%p1 st.shared.v4.b32 [%r4], {{%r1,%r1,%r1,%r1}};\n\
                     {barrier} @%p1 bra E; {matrix}\nE:"
                ),
            );
            for schedule in schedules() {
                let found = Kernel::new(&source, 64).schedule(schedule).run(&[]);
                if barrier.is_empty() {
                    only(&found, Class::Race);
                } else {
                    assert!(found.is_empty(), "{}", text(&found));
                }
            }
        }
    }
}
