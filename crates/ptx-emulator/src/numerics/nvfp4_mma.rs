//! `tcgen05.mma.kind::mxf4nvf4.block_scale.scale_vec::4X`: one output element over K = 64.
//!
//! Rules measured on B200 silicon and published (sf-tensor/tcgen05, MODEL.md), written down in our own words:
//! every operand is an integer times a power of two with its *encoded* exponent ("raw").
//! * A NaN scale (0x7F) or a NaN addend gives 0x7FFFFFFF; an infinite addend stays.
//! * Without a non-zero product D = C (-0 becomes +0).
//! * If C is not zero and raw(C) >= the largest raw product: the grid is 2^(raw(C) - 35), and C and each exact
//!   sum of 16 products are truncated to it.
//! * Else the grid is 2^max(max(raw product, raw C) - 39, raw scale pair - 35), and C and each exact sum of 4
//!   products are truncated to it.
//! * The sum is truncated to f32.

use nvfp4::e2m1;

use super::element::{Class, decode_f32};
use super::round::{CANONICAL_NAN, toward_zero};

/// Elements of one instruction along K.
pub const K: usize = 64;
/// Elements that share a scale.
const BLOCK: usize = 16;
/// Raw exponent of a zero element: far below every sum of real ones.
const NONE: i8 = -64;

/// Type of the scale bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleType {
    /// E4M3 without sign.
    Ue4m3,
    /// A power of two, bias 127.
    Ue8m0,
}

/// 64 elements of a row of A or B with their scales, prepared once per instruction.
#[derive(Clone)]
pub struct Row {
    /// Twice the E2M1 value: an integer in -12..=12.
    twice: [i8; K],
    /// Raw exponent of each element, [`NONE`] for zero.
    raw: [i8; K],
    /// Scale of each block: integer, exponent of its unit, raw exponent.
    scale: [(i32, i32, i32); K / BLOCK],
    nan: bool,
}

impl Row {
    /// From 32 packed bytes (low nibble = even k) and four scale bytes.
    pub fn new(packed: &[u8; K / 2], scales: [u8; K / BLOCK], ty: ScaleType) -> Self {
        let (mut twice, mut raw) = ([0i8; K], [NONE; K]);
        for (i, &byte) in packed.iter().enumerate() {
            for (k, code) in [(2 * i, byte & 15), (2 * i + 1, byte >> 4)] {
                let value = e2m1::decode(code) * 2.0;
                twice[k] = value as i8;
                if code & 7 != 0 {
                    raw[k] = ((code >> 1) & 3).saturating_sub(1) as i8;
                }
            }
        }
        let mut nan = false;
        let scale = scales.map(|byte| match ty {
            ScaleType::Ue4m3 => {
                let byte = i32::from(byte & 0x7f);
                nan |= byte == 0x7f;
                match (byte >> 3, byte & 7) {
                    (0, f) => (f, -9, -6),
                    (e, f) => (8 | f, e - 10, e - 7),
                }
            }
            ScaleType::Ue8m0 => {
                nan |= byte == 0xff;
                (1, i32::from(byte) - 127, i32::from(byte) - 127)
            }
        });
        Self { twice, raw, scale, nan }
    }

    /// The elements as f32, scales applied; NaN where the row has a NaN scale.
    pub fn values(&self) -> [f32; K] {
        std::array::from_fn(|k| {
            let (int, exp, _) = self.scale[k / BLOCK];
            let value = f64::from(i32::from(self.twice[k]) * int) * 2f64.powi(exp - 1);
            if self.nan { f32::NAN } else { value as f32 }
        })
    }
}

/// `c + sum over K = 64`, f32 bits in and out. `c = 0` is the form without accumulation.
pub fn dot(a: &Row, b: &Row, c: u32) -> u32 {
    let addend = decode_f32(c);
    if a.nan || b.nan || addend.class == Class::Nan {
        return CANONICAL_NAN;
    }
    if addend.class == Class::Infinite {
        return c;
    }
    // Largest raw product and raw scale pair over the non-zero products, and the exact sums of four.
    let (mut top, mut top_scale) = (i32::MIN, i32::MIN);
    let mut sums = [0i32; K / 4];
    for block in 0..K / BLOCK {
        let at = block * BLOCK;
        let mut raw = i8::MIN;
        for k in at..at + BLOCK {
            raw = raw.max(a.raw[k].saturating_add(b.raw[k]));
        }
        for (group, sum) in sums[block * 4..][..4].iter_mut().enumerate() {
            for k in at + group * 4..at + group * 4 + 4 {
                *sum += i32::from(a.twice[k]) * i32::from(b.twice[k]);
            }
        }
        let (sa, sb) = (a.scale[block], b.scale[block]);
        if raw >= 0 && sa.0 != 0 && sb.0 != 0 {
            top = top.max(i32::from(raw) + sa.2 + sb.2);
            top_scale = top_scale.max(sa.2 + sb.2);
        }
    }
    if top == i32::MIN {
        return if c << 1 == 0 { 0 } else { c };
    }
    let has_addend = addend.sig != 0;
    let dominant = has_addend && addend.exp >= top;
    let grid = if dominant {
        addend.exp - 35
    } else {
        let high = if has_addend { top.max(addend.exp) } else { top };
        (high - 39).max(top_scale - 35)
    };
    let mut total = i128::from(truncated(i64::from(addend.sig), addend.exp - 23 - grid));
    for block in 0..K / BLOCK {
        let (sa, sb) = (a.scale[block], b.scale[block]);
        let factor = i64::from(sa.0 * sb.0);
        // Twice times twice: two more bits of fraction.
        let shift = sa.1 + sb.1 - 2 - grid;
        let groups = &sums[block * 4..][..4];
        if dominant {
            let sum: i32 = groups.iter().sum();
            total += i128::from(truncated(i64::from(sum) * factor, shift));
        } else {
            for &sum in groups {
                total += i128::from(truncated(i64::from(sum) * factor, shift));
            }
        }
    }
    toward_zero(total, grid, 24)
}

/// `value * 2^shift`, truncated toward zero.
#[inline(always)]
fn truncated(value: i64, shift: i32) -> i64 {
    if value == 0 {
        // A block of zeros takes no part in the alignment: its scale may be far above the grid.
        0
    } else if shift >= 0 {
        value << shift
    } else {
        let s = (-shift).min(63);
        if value < 0 { -(-value >> s) } else { value >> s }
    }
}
