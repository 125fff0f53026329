//! `tcgen05.mma`: operands as elements, and one element of D.

use super::Pending;
use super::compute::{Cell, K_BYTES};
use crate::numerics::aligned_sum::{self, Addend, WIDE};
use crate::numerics::element::{Element, Format};
use crate::numerics::nvfp4_mma::{self, Row, ScaleType};
use crate::numerics::{Precision, round};
use crate::ops::tcgen05::descriptor::MmaKind;

/// An operand as it was read: rows of [`K_BYTES`] bytes.
#[derive(Default)]
pub(super) struct Operand {
    pub data: Vec<u8>,
    /// 4-bit and 6-bit elements are in bytes (tensor memory), not packed with padding (shared memory).
    pub containers: bool,
}

impl Operand {
    /// Further rows.
    pub fn append(&mut self, other: Self) {
        self.data.extend(other.data);
        self.containers = other.containers;
    }
}

/// The 8-bit elements of `kind::f8f6f4` and `kind::mxf8f6f4` from 16 bytes: 4-bit and 6-bit ones are packed and
/// followed by padding (9.7.16.10.4.4), or in the low bits of a byte each (9.7.16.10.4.3).
fn unpacked(format: Format, containers: bool, bytes: &[u8; 16]) -> [u8; 16] {
    let bits = match format {
        Format::E2m1 => 4,
        Format::E2m3 | Format::E3m2 => 6,
        _ => 8,
    };
    if containers || bits == 8 {
        return bytes.map(|b| b & (0xff >> (8 - bits)));
    }
    let word = u128::from_le_bytes(*bytes);
    std::array::from_fn(|i| (word >> (bits * i)) as u8 & (0xff >> (8 - bits)))
}

/// Prepared operands of one instruction.
pub(super) enum Products<'a> {
    Four {
        a: Vec<Row>,
        b: Vec<Row>,
        precision: Precision,
        raw: Box<(Vec<f32>, Vec<f32>)>,
    },
    Wide {
        a: Vec<Element>,
        b: Vec<Element>,
        sa: Vec<Cell>,
        sb: Vec<Cell>,
        op: &'a Pending,
        precision: Precision,
    },
    Integer {
        a: Vec<i32>,
        b: Vec<i32>,
        saturate: bool,
    },
}

impl<'a> Products<'a> {
    pub fn new(
        op: &'a Pending,
        a: &Operand,
        b: &Operand,
        sa: &[Cell],
        sb: &[Cell],
        precision: Precision,
    ) -> Self {
        let (na, nb) = op.idesc.negate;
        if matches!(op.kind, MmaKind::Mxf4 | MmaKind::Nvf4) {
            let ty = if op.idesc.ue8m0 { ScaleType::Ue8m0 } else { ScaleType::Ue4m3 };
            let rows = |data: &[u8], scales: &[Cell], id: u32, negate: bool| -> Vec<Row> {
                data.as_chunks::<K_BYTES>()
                    .0
                    .iter()
                    .zip(scales)
                    .map(|(bytes, cell)| {
                        let bytes = bytes.map(|b| if negate { b ^ 0x88 } else { b });
                        let cell = match op.kind {
                            MmaKind::Mxf4 => {
                                let (s0, s1) = (cell[id as usize], cell[id as usize + 1]);
                                [s0, s0, s1, s1]
                            }
                            _ => *cell,
                        };
                        Row::new(&bytes, cell, ty)
                    })
                    .collect()
            };
            let (ra, rb) =
                (rows(&a.data, sa, op.idesc.scale_ids.0, na), rows(&b.data, sb, op.idesc.scale_ids.1, nb));
            let raw = match precision {
                Precision::Hardware => Box::default(),
                Precision::PlainF32 => Box::new((
                    ra.iter().flat_map(Row::values).collect(),
                    rb.iter().flat_map(Row::values).collect(),
                )),
            };
            return Products::Four { a: ra, b: rb, precision, raw };
        }
        if op.kind == MmaKind::I8 {
            let integers = |data: &[u8], signed: bool| -> Vec<i32> {
                data.iter().map(|&x| if signed { i32::from(x as i8) } else { i32::from(x) }).collect()
            };
            let (a, b) = (integers(&a.data, op.idesc.signed.0), integers(&b.data, op.idesc.signed.1));
            return Products::Integer { a, b, saturate: op.idesc.saturate };
        }
        let bytes = op.kind.element_bytes() as usize;
        let elements = |operand: &Operand, format: Format, negate: bool| -> Vec<Element> {
            let decode = |bits: u32| {
                let mut e = format.decode(bits);
                if negate {
                    e.sig = -e.sig;
                }
                e
            };
            if bytes == 1 {
                let chunks = operand.data.as_chunks::<16>().0;
                let codes = chunks.iter().flat_map(|chunk| unpacked(format, operand.containers, chunk));
                return codes.map(|code| decode(u32::from(code))).collect();
            }
            operand
                .data
                .chunks_exact(bytes)
                .map(|chunk| {
                    let mut word = [0; 4];
                    word[..bytes].copy_from_slice(chunk);
                    decode(u32::from_le_bytes(word))
                })
                .collect()
        };
        Products::Wide {
            a: elements(a, op.idesc.a, na),
            b: elements(b, op.idesc.b, nb),
            sa: sa.to_vec(),
            sb: sb.to_vec(),
            op,
            precision,
        }
    }

    /// `D[m][n]` for the addend `c`.
    pub fn element(&self, m: usize, n: usize, c: u32) -> u32 {
        match self {
            Products::Four { a, b, precision: Precision::Hardware, .. } => nvfp4_mma::dot(&a[m], &b[n], c),
            Products::Four { raw, .. } => {
                let (x, y) = (&raw.0[m * 64..][..64], &raw.1[n * 64..][..64]);
                x.iter().zip(y).fold(f32::from_bits(c), |s, (x, y)| s + x * y).to_bits()
            }
            Products::Integer { a, b, saturate } => {
                let (x, y) = (&a[m * K_BYTES..][..K_BYTES], &b[n * K_BYTES..][..K_BYTES]);
                let sum = x.iter().zip(y).map(|(x, y)| i64::from(x * y)).sum::<i64>() + i64::from(c as i32);
                if *saturate { sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32 } else { sum as u32 }
            }
            Products::Wide { a, b, sa, sb, op, precision } => {
                let k = op.kind.k();
                let (x, y) = (&a[m * k..][..k], &b[n * k..][..k]);
                let fraction = op.idesc.a.fraction() + op.idesc.b.fraction();
                match (op.kind, precision) {
                    (MmaKind::F16, _) if op.idesc.f16_accumulator => {
                        aligned_sum::step_f16(x, y, Addend::f16(c).scaled_down(op.scale_d), fraction, WIDE)
                    }
                    (MmaKind::F8f6f4, _) if op.idesc.f16_accumulator => {
                        aligned_sum::nearest_f16(x, y, c, fraction)
                    }
                    (MmaKind::F16 | MmaKind::Tf32, Precision::Hardware) => {
                        let c = Addend::f32(c).scaled_down(op.scale_d);
                        aligned_sum::step_onto(x, y, c, fraction, WIDE)
                    }
                    (MmaKind::Mxf8f6f4, _) => {
                        let (ia, ib) = op.idesc.scale_ids;
                        let (sa, sb) = (sa[m][ia as usize], sb[n][ib as usize]);
                        if sa == 0xff || sb == 0xff {
                            return round::CANONICAL_NAN;
                        }
                        aligned_sum::nearest(x, y, c, fraction, i32::from(sa) + i32::from(sb) - 254)
                    }
                    _ => {
                        // An exact quotient, but for results below the normal range.
                        let c = f64::from(f32::from_bits(c)) / f64::from(1u32 << op.scale_d);
                        aligned_sum::nearest(x, y, (c as f32).to_bits(), fraction, 0)
                    }
                }
            }
        }
    }
}
