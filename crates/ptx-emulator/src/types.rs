//! Fundamental types of PTX (PTX ISA 5.2), as written in modifiers and declarations.

/// A fundamental or packed type.
#[allow(missing_docs)] // The names are PTX's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    U16x2,
    S16x2,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F32x2,
    F64,
    E4M3,
    E5M2,
    E4M3x2,
    E5M2x2,
    E2M1x2,
    UE8M0x2,
    E2M3x2,
    E3M2x2,
    E2M1x4,
    E4M3x4,
    E5M2x4,
    E2M3x4,
    E3M2x4,
}

impl Ty {
    /// The type of that name (without the dot).
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Ty::Pred,
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "b128" => Ty::B128,
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::BF16,
            "bf16x2" => Ty::BF16x2,
            "tf32" => Ty::TF32,
            "f32" => Ty::F32,
            "f32x2" => Ty::F32x2,
            "f64" => Ty::F64,
            "e4m3" => Ty::E4M3,
            "e5m2" => Ty::E5M2,
            "e4m3x2" => Ty::E4M3x2,
            "e5m2x2" => Ty::E5M2x2,
            "e2m1x2" => Ty::E2M1x2,
            "ue8m0x2" => Ty::UE8M0x2,
            "u16x2" => Ty::U16x2,
            "s16x2" => Ty::S16x2,
            "e2m3x2" => Ty::E2M3x2,
            "e3m2x2" => Ty::E3M2x2,
            "e2m1x4" => Ty::E2M1x4,
            "e4m3x4" => Ty::E4M3x4,
            "e5m2x4" => Ty::E5M2x4,
            "e2m3x4" => Ty::E2M3x4,
            "e3m2x4" => Ty::E3M2x4,
            _ => return None,
        })
    }

    /// Size in bits.
    pub const fn bits(self) -> u32 {
        match self {
            Ty::Pred => 1,
            Ty::B8 | Ty::U8 | Ty::S8 | Ty::E4M3 | Ty::E5M2 | Ty::E2M1x2 => 8,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::BF16 => 16,
            Ty::E4M3x2 | Ty::E5M2x2 | Ty::UE8M0x2 | Ty::E2M3x2 | Ty::E3M2x2 | Ty::E2M1x4 => 16,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32 | Ty::TF32 | Ty::F16x2 | Ty::BF16x2 => 32,
            Ty::U16x2 | Ty::S16x2 | Ty::E4M3x4 | Ty::E5M2x4 | Ty::E2M3x4 | Ty::E3M2x4 => 32,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 | Ty::F32x2 => 64,
            Ty::B128 => 128,
        }
    }

    /// Size in bytes (1 for predicates).
    pub const fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    /// Whether the type is a signed integer.
    pub const fn is_signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    /// Whether the type is a floating-point one.
    pub const fn is_float(self) -> bool {
        !self.is_integer() && !matches!(self, Ty::Pred | Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64 | Ty::B128)
    }

    /// Whether the type is a signed or unsigned integer (packed ones included).
    pub const fn is_integer(self) -> bool {
        self.is_signed() || matches!(self, Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64 | Ty::U16x2 | Ty::S16x2)
    }

    /// `value` cut to the type's width: zero-extended, or sign-extended to 64 bits for signed types.
    pub const fn extend(self, value: u64) -> u64 {
        let bits = self.bits();
        if bits >= 64 {
            return value;
        }
        let shift = 64 - bits;
        if self.is_signed() { (((value << shift) as i64) >> shift) as u64 } else { (value << shift) >> shift }
    }

    /// `value` cut to the type's width, zero-extended: how registers hold it.
    pub const fn truncate(self, value: u64) -> u64 {
        let bits = self.bits();
        if bits >= 64 { value } else { value & ((1 << bits) - 1) }
    }
}
