//! Evaluates instructions on rows of operands: one thread per row.

use super::{Kernel, text};
use ptx_emulator::machine::Argument;

/// Where the result is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Out {
    /// `%d`, 64 bits.
    B64,
    /// `%d32`.
    B32,
    /// `%d16`.
    B16,
    /// `%d8`.
    B8,
    /// `%dp`.
    Pred,
}

/// The kernel around `body`, which finds its operands in %a, %b, %c (64 bits), %a32, %a16, %a8, %pa (bit 0), and so
/// on for b and c, and leaves its result as `out` says.
pub fn kernel(target: &str, body: &str, out: Out) -> String {
    let widths: String = ["a", "b", "c"]
        .iter()
        .map(|x| {
            format!(
                "cvt.u32.u64 %{x}32, %{x}; cvt.u16.u64 %{x}16, %{x}; mov.b16 {{%{x}8, %z8}}, %{x}16;\n\
                 and.b64 %t, %{x}, 1; setp.ne.u64 %p{x}, %t, 0;\n"
            )
        })
        .collect();
    let result = match out {
        Out::B64 => "",
        Out::B32 => "cvt.u64.u32 %d, %d32;",
        Out::B16 => "cvt.u64.u16 %d, %d16;",
        Out::B8 => "cvt.u16.u8 %d16, %d8; cvt.u64.u16 %d, %d16;",
        Out::Pred => "selp.b64 %d, 1, 0, %dp;",
    };
    let version = if target == "sm_90a" { "8.6" } else { "8.8" };
    format!(
        ".version {version}\n.target {target}\n.address_size 64\n\
         .visible .entry k(.param .u64 in, .param .u64 out, .param .u32 n)\n{{\n\
         .reg .b64 %a, %b, %c, %d, %t, %e, %g, %in, %out; .reg .b32 %a32, %b32, %c32, %d32, %e32, %i, %n, %x32;\n\
         .reg .b16 %a16, %b16, %c16, %d16, %e16; .reg .b8 %a8, %b8, %c8, %d8, %z8;\n\
         .reg .pred %pa, %pb, %pc, %dp, %ep; .reg .b128 %q, %s;\n\
         mov.u32 %i, %ctaid.x; mov.u32 %n, %ntid.x; mov.u32 %x32, %tid.x; mad.lo.u32 %i, %i, %n, %x32;\n\
         ld.param.u32 %n, [n]; setp.ge.u32 %dp, %i, %n; @%dp ret;\n\
         ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mul.wide.u32 %t, %i, 24; add.u64 %in, %in, %t;\n\
         ld.global.u64 %a, [%in]; ld.global.u64 %b, [%in+8]; ld.global.u64 %c, [%in+16];\n{widths}\
         mov.b64 %d, 0; mov.b64 %e, 0; mov.b32 %d32, 0; mov.b16 %d16, 0; setp.ne.u32 %dp, %n, %n;\n\
         {body}\n{result}\nmul.wide.u32 %t, %i, 8; add.u64 %out, %out, %t; st.global.u64 [%out], %d;\nret;\n}}\n"
    )
}

/// Results of `body` for each row of operands, for instructions of sm_90a.
#[track_caller]
pub fn eval(body: &str, out: Out, rows: &[[u64; 3]]) -> Vec<u64> {
    eval_for("sm_90a", body, out, rows)
}

/// What an H200 gave: digests of cases and of their results (`tests/data/ptx-emulator/README.md`).
const HARDWARE: &str = include_str!("../../../../tests/data/ptx-emulator/h200.txt");

/// Digest of words.
fn digest(words: impl Iterator<Item = u64>) -> u64 {
    words.fold(1, |h: u64, w| {
        let mixed = w.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        h.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(mixed ^ mixed >> 32)
    })
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks(8).map(|c| {
        let mut word = [0; 8];
        word[..c.len()].copy_from_slice(c);
        u64::from_le_bytes(word)
    })
}

/// Results of `body` for each row of operands. If an H200 has run the case, the results must be the same.
#[track_caller]
pub fn eval_for(target: &str, body: &str, out: Out, rows: &[[u64; 3]]) -> Vec<u64> {
    run(target, body, out, rows).0
}

/// As [`eval`], for cases that an H200 must have run.
#[track_caller]
pub fn recorded(body: &str, out: Out, rows: &[[u64; 3]]) {
    assert!(run("sm_90a", body, out, rows).1, "there is no hardware result for {body}");
}

/// Results, and whether they have been compared with hardware. With `EVAL_DUMP` set to a directory, the case is
/// also written there, to be run on hardware.
#[track_caller]
fn run(target: &str, body: &str, out: Out, rows: &[[u64; 3]]) -> (Vec<u64>, bool) {
    let source = kernel(target, body, out);
    let mut k = Kernel::new(&source, 128);
    k.grid = [rows.len().div_ceil(128) as u32, 1, 1];
    k.shared = 0;
    let input: Vec<u8> = rows.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    let (from, to) = (k.upload(&input), k.allocate(rows.len() * 8));
    let arguments = [Argument::B64(from), Argument::B64(to), Argument::B32(rows.len() as u32)];
    let findings = k.run(&arguments);
    assert!(findings.is_empty(), "{body}:\n{}", text(&findings));
    let bytes = k.bytes(to, rows.len() * 8);
    let key = format!("{:016x}", digest(words(source.as_bytes()).chain(words(&input))));
    let hardware = HARDWARE.lines().filter_map(|l| l.split_once(' ')).find(|(case, _)| *case == key);
    if let Some((_, result)) = hardware {
        assert_eq!(result, format!("{:016x}", digest(words(&bytes))), "{body} differs from hardware");
    }
    if let Ok(dir) = std::env::var("EVAL_DUMP") {
        let stem = format!("{dir}/{target}-{key}");
        std::fs::write(format!("{stem}.ptx"), format!("{source}// {}\n", body.replace('\n', " "))).unwrap();
        std::fs::write(format!("{stem}.in"), &input).unwrap();
        std::fs::write(format!("{stem}.out"), &bytes).unwrap();
    }
    (words(&bytes).collect(), hardware.is_some())
}

/// Compares with a reference, row by row.
#[track_caller]
pub fn check(body: &str, out: Out, rows: &[[u64; 3]], reference: impl Fn([u64; 3]) -> u64) {
    check_for("sm_90a", body, out, rows, reference);
}

/// As [`check`], for a target.
#[track_caller]
pub fn check_for(target: &str, body: &str, out: Out, rows: &[[u64; 3]], reference: impl Fn([u64; 3]) -> u64) {
    let got = eval_for(target, body, out, rows);
    for (row, got) in rows.iter().zip(got) {
        let want = reference(*row);
        assert!(got == want, "{body} of {row:#x?}: got {got:#x}, expected {want:#x}");
    }
}

/// 64-bit pseudo-random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Every combination of `special` values, and `random` rows of random ones.
pub fn rows(special: &[u64], random: usize) -> Vec<[u64; 3]> {
    let mut out = Vec::new();
    for &a in special {
        for &b in special {
            for &c in special {
                out.push([a, b, c]);
            }
        }
    }
    let mut rng = Random(random as u64);
    out.extend((0..random).map(|_| [rng.next(), rng.next(), rng.next()]));
    out
}

/// Integers around every limit.
pub const INTEGERS: &[u64] = &[
    0,
    1,
    2,
    7,
    0x1f,
    0x20,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

/// f32 values of every kind.
pub const FLOATS: &[u64] = &[
    0x0000_0000,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x3400_0000,
    0x4b80_0001,
    0x5f00_0000,
    0x2000_0000,
    0xc2c8_0000,
];

/// f32 rows: every combination of kinds, and random values of near and far magnitudes.
pub fn float_rows(random: usize) -> Vec<[u64; 3]> {
    let mut out = rows(FLOATS, 0);
    let mut rng = Random(random as u64 + 1);
    out.extend((0..random).map(|_| {
        // All magnitudes, or close together, so that sums cancel.
        let near = rng.next() & 1 == 1;
        [0, 1, 2].map(|_| {
            let bits = rng.next() & 0xffff_ffff;
            if near { bits & 0x83ff_ffff | 0x3c00_0000 } else { bits }
        })
    }));
    out
}
