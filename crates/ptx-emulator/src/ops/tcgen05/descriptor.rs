//! The instruction descriptor of `tcgen05.mma` (PTX ISA 9.7.16.4.2).

use crate::numerics::element::Format;

/// `.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmaKind {
    /// `kind::f16`.
    F16,
    /// `kind::tf32`.
    Tf32,
    /// `kind::f8f6f4`.
    F8f6f4,
    /// `kind::mxf8f6f4.block_scale`.
    Mxf8f6f4,
    /// `kind::mxf4.block_scale` and `kind::mxf4nvf4.block_scale` with one scale per 32.
    Mxf4,
    /// `kind::mxf4nvf4.block_scale.scale_vec::4X`: one scale per 16.
    Nvf4,
}

impl MmaKind {
    /// Name in PTX; `mxf4nvf4` is the form with one scale per 16.
    pub fn name(self) -> &'static str {
        match self {
            MmaKind::F16 => "f16",
            MmaKind::Tf32 => "tf32",
            MmaKind::F8f6f4 => "f8f6f4",
            MmaKind::Mxf8f6f4 => "mxf8f6f4",
            MmaKind::Mxf4 => "mxf4",
            MmaKind::Nvf4 => "mxf4nvf4",
        }
    }

    /// Whether scales take part.
    pub fn is_scaled(self) -> bool {
        matches!(self, MmaKind::Mxf8f6f4 | MmaKind::Mxf4 | MmaKind::Nvf4)
    }

    /// Elements along K of one instruction.
    pub fn k(self) -> usize {
        match self {
            MmaKind::F16 => 16,
            MmaKind::Tf32 => 8,
            MmaKind::F8f6f4 | MmaKind::Mxf8f6f4 => 32,
            MmaKind::Mxf4 | MmaKind::Nvf4 => 64,
        }
    }

    /// Bytes of an element in shared memory; 4-bit kinds are packed and have no MN-major form.
    pub fn element_bytes(self) -> u32 {
        match self {
            MmaKind::F16 => 2,
            MmaKind::Tf32 => 4,
            _ => 1,
        }
    }
}

/// Decoded instruction descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionDescriptor {
    /// Rows of D.
    pub m: usize,
    /// Columns of D.
    pub n: usize,
    /// Type of A.
    pub a: Format,
    /// Type of B.
    pub b: Format,
    /// Negation of A and B.
    pub negate: (bool, bool),
    /// MN-major A and B.
    pub transpose: (bool, bool),
    /// f16 accumulators.
    pub f16_accumulator: bool,
    /// Scales are UE8M0 (else UE4M3).
    pub ue8m0: bool,
    /// Byte (or half-word) of the scale cells of A and B.
    pub scale_ids: (u32, u32),
}

impl InstructionDescriptor {
    /// Decodes and validates 32 bits.
    ///
    /// # Errors
    /// What is invalid, in words.
    pub fn decode(bits: u32, kind: MmaKind, cta_group: u32) -> Result<Self, String> {
        let field = |at: u32, n: u32| (bits >> at) & ((1 << n) - 1);
        let fail = |why: String| Err(format!("instruction descriptor {bits:#010x}: {why}"));
        let n = field(17, 6) as usize * 8;
        let scaled = kind.is_scaled();
        let reserved: &[(u32, u32)] = match kind {
            MmaKind::Nvf4 | MmaKind::Mxf4 => &[(0, 2), (3, 1), (6, 1), (12, 1), (24, 3)],
            MmaKind::Mxf8f6f4 => &[(0, 2), (3, 1), (6, 1), (24, 3)],
            _ => &[(6, 1), (23, 1), (29, 1)],
        };
        if let Some((at, _)) = reserved.iter().find(|&&(at, n)| field(at, n) != 0) {
            return fail(format!("reserved bits from {at} are set"));
        }
        if field(2, 1) != 0 {
            return fail("sparsity is not modelled".to_owned());
        }
        let (m, scale_ids) = if scaled {
            (field(27, 2) as usize * 128, (field(29, 2), field(4, 2)))
        } else {
            (field(24, 5) as usize * 16, (0, 0))
        };
        let (a, b) = (Self::format(kind, field(7, 3)), Self::format(kind, field(10, 3)));
        let (Some(a), Some(b)) = (a, b) else {
            return fail("operand types are not valid for this kind, or not modelled".to_owned());
        };
        let f16_accumulator = match (scaled, field(4, 2)) {
            (true, _) | (false, 1) => false,
            (false, 0) if matches!(kind, MmaKind::F16 | MmaKind::F8f6f4) => true,
            _ => return fail("the accumulator type is not valid for this kind".to_owned()),
        };
        let m_ok = match (cta_group, scaled) {
            (1, true) => m == 128,
            (1, false) => m == 64 || m == 128,
            _ => m == 128 || m == 256,
        };
        let step = if cta_group == 2 || m == 128 && !scaled { 16 } else { 8 };
        if !m_ok || n == 0 || n > 256 || !n.is_multiple_of(step) {
            return fail(format!("shape {m}x{n} is not valid for cta_group::{cta_group}"));
        }
        let this = Self {
            m,
            n,
            a,
            b,
            negate: (field(13, 1) == 1, field(14, 1) == 1),
            transpose: (field(15, 1) == 1, field(16, 1) == 1),
            f16_accumulator,
            ue8m0: scaled && field(23, 1) == 1,
            scale_ids,
        };
        match kind {
            MmaKind::Nvf4 if scale_ids != (0, 0) => fail("scale ids must be 0 with scale_vec::4X".to_owned()),
            MmaKind::Mxf4 if scale_ids.0 % 2 != 0 || scale_ids.1 % 2 != 0 => {
                fail("scale ids must be 0 or 2 with scale_vec::2X".to_owned())
            }
            MmaKind::Mxf4 | MmaKind::Mxf8f6f4 if !this.ue8m0 => {
                fail("this kind takes UE8M0 scales".to_owned())
            }
            MmaKind::Mxf4 | MmaKind::Nvf4 if this.transpose != (false, false) => {
                fail("4-bit operands must be K-major".to_owned())
            }
            MmaKind::Mxf4 | MmaKind::Nvf4 if field(31, 1) != 0 => fail("K = 96 is not of sm_100a".to_owned()),
            _ => Ok(this),
        }
    }

    fn format(kind: MmaKind, code: u32) -> Option<Format> {
        match (kind, code) {
            (MmaKind::F16, 0) => Some(Format::F16),
            (MmaKind::F16, 1) => Some(Format::Bf16),
            (MmaKind::Tf32, 2) => Some(Format::Tf32),
            (MmaKind::F8f6f4 | MmaKind::Mxf8f6f4, 0) => Some(Format::E4m3),
            (MmaKind::F8f6f4 | MmaKind::Mxf8f6f4, 1) => Some(Format::E5m2),
            (MmaKind::Mxf4 | MmaKind::Nvf4, 1) => Some(Format::E2m1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_of_the_fact_sheet() {
        for (bits, m, n, group) in [
            (0x0802_0480, 128, 8, 1),
            (0x0820_0480, 128, 128, 1),
            (0x0840_0480, 128, 256, 1),
            (0x1020_0480, 256, 128, 2),
            (0x1040_0480, 256, 256, 2),
        ] {
            let d = InstructionDescriptor::decode(bits, MmaKind::Nvf4, group).unwrap();
            assert_eq!((d.m, d.n, d.a, d.b, d.ue8m0), (m, n, Format::E2m1, Format::E2m1, false));
        }
        assert!(InstructionDescriptor::decode(0x0820_0481, MmaKind::Nvf4, 1).is_err(), "reserved bit 0");
        assert!(InstructionDescriptor::decode(0x1020_0480, MmaKind::Nvf4, 1).is_err(), "M 256 with one CTA");
        assert!(InstructionDescriptor::decode(0x0820_8480, MmaKind::Nvf4, 1).is_err(), "transpose");
    }
}
