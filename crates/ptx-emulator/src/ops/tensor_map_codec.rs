//! The 128 bytes of a tensor map: our own layout, a field after the other, so that `tensormap.replace` can
//! change them one by one.

use super::tensor_map::{
    BYTES, Element, Fill, Im2col, Interleave, L2Promotion, Swizzle, TensorMap, TensorMapError,
};

/// First bytes of an encoded map.
const MAGIC: [u8; 4] = *b"EMT1";

impl TensorMap {
    /// The 128 bytes, to be passed as a kernel parameter (64-byte aligned) or put into global memory.
    ///
    /// # Errors
    /// As [`Self::validate`].
    pub fn encode(&self) -> Result<[u8; BYTES], TensorMapError> {
        self.validate()?;
        let mut raw = Raw::new();
        let (mode, atomicity) = match self.swizzle {
            Swizzle::B128Atom32 => (3, 1),
            Swizzle::B128Atom32Flip8 => (3, 2),
            Swizzle::B128Atom64 => (3, 3),
            plain => (plain as u32, 0),
        };
        raw.set(Field::Element, 0, self.element as u64);
        raw.set(Field::Rank, 0, self.rank() as u64 - 1);
        raw.set(Field::Interleave, 0, self.interleave as u64);
        raw.set(Field::SwizzleMode, 0, u64::from(mode));
        raw.set(Field::SwizzleAtomicity, 0, u64::from(atomicity as u32));
        raw.set(Field::L2Promotion, 0, self.l2_promotion as u64);
        raw.set(Field::Fill, 0, self.fill as u64);
        raw.set(Field::Address, 0, self.address);
        for i in 0..self.rank() {
            raw.set(Field::Dim, i, self.dims[i]);
            raw.set(Field::Box, i, u64::from(self.box_dims[i]));
            raw.set(Field::ElementStride, i, u64::from(self.element_strides[i]));
        }
        for (i, &stride) in self.strides.iter().enumerate() {
            raw.set(Field::Stride, i, stride);
        }
        if let Some(im2col) = &self.im2col {
            raw.set(Field::Mode, 0, 1);
            for (field, corners) in [(Field::Lower, &im2col.lower), (Field::Upper, &im2col.upper)] {
                for (i, &corner) in corners.iter().enumerate() {
                    raw.set(field, i, corner as u64);
                }
            }
        }
        Ok(raw.0)
    }

    /// From the 128 bytes, validated.
    ///
    /// # Errors
    /// [`TensorMapError`].
    pub fn decode(bytes: &[u8; BYTES]) -> Result<Self, TensorMapError> {
        use TensorMapError as E;
        let raw = Raw(*bytes);
        if !raw.is_map() {
            return Err(E::NotATensorMap);
        }
        let small = |field: Field| raw.get(field, 0) as u32;
        let rank = small(Field::Rank) as usize + 1;
        if rank > 5 {
            return Err(E::Rank(rank));
        }
        let number = small(Field::Element);
        let element = Element::from_ptx(number).ok_or(E::Field("element type", number))?;
        let interleave = match small(Field::Interleave) {
            0 => Interleave::None,
            1 => Interleave::B16,
            2 => Interleave::B32,
            n => return Err(E::Field("interleave layout", n)),
        };
        let swizzle = match (small(Field::SwizzleMode), small(Field::SwizzleAtomicity)) {
            (0, 0) => Swizzle::None,
            (1, 0) => Swizzle::B32,
            (2, 0) => Swizzle::B64,
            (3, 0) => Swizzle::B128,
            (3, 1) => Swizzle::B128Atom32,
            (3, 2) => Swizzle::B128Atom32Flip8,
            (3, 3) => Swizzle::B128Atom64,
            (mode @ 0..=2, _) => return Err(E::Field("swizzle atomicity without 128-byte mode", mode)),
            (mode, _) => return Err(E::Field("swizzle mode", mode)),
        };
        let l2_promotion = match small(Field::L2Promotion) {
            0 => L2Promotion::None,
            1 => L2Promotion::B64,
            2 => L2Promotion::B128,
            3 => L2Promotion::B256,
            n => return Err(E::Field("L2 promotion", n)),
        };
        let fill = match small(Field::Fill) {
            0 => Fill::Zero,
            1 => Fill::Nan,
            n => return Err(E::Field("fill mode", n)),
        };
        let list = |field: Field, n: usize| (0..n).map(|i| raw.get(field, i)).collect::<Vec<u64>>();
        let narrow = |field: Field| list(field, rank).into_iter().map(|v| v as u32).collect::<Vec<u32>>();
        let corners = |field: Field| {
            let corners = list(field, rank.saturating_sub(2)).into_iter();
            corners.map(|v| i32::from(v as u16 as i16)).collect()
        };
        let im2col = match small(Field::Mode) {
            0 => None,
            1 => Some(Im2col { lower: corners(Field::Lower), upper: corners(Field::Upper) }),
            n => return Err(E::Field("mode", n)),
        };
        let map = Self {
            element,
            address: raw.get(Field::Address, 0),
            dims: list(Field::Dim, rank),
            strides: list(Field::Stride, rank - 1),
            box_dims: narrow(Field::Box),
            element_strides: narrow(Field::ElementStride),
            interleave,
            swizzle,
            l2_promotion,
            fill,
            im2col,
        };
        map.validate()?;
        Ok(map)
    }
}

/// Fields of an encoded map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Element,
    /// Minus one.
    Rank,
    Interleave,
    SwizzleMode,
    SwizzleAtomicity,
    L2Promotion,
    Fill,
    Address,
    Dim,
    Stride,
    Box,
    ElementStride,
    /// 1: im2col.
    Mode,
    /// Corners of the im2col box, signed.
    Lower,
    Upper,
}

impl Field {
    /// Offset, bytes of a value, number of values.
    pub(super) const fn place(self) -> (usize, usize, usize) {
        match self {
            Field::Element => (4, 1, 1),
            Field::Rank => (5, 1, 1),
            Field::Interleave => (6, 1, 1),
            Field::SwizzleMode => (7, 1, 1),
            Field::SwizzleAtomicity => (8, 1, 1),
            Field::L2Promotion => (9, 1, 1),
            Field::Fill => (10, 1, 1),
            Field::Address => (16, 8, 1),
            Field::Dim => (24, 5, 5),
            Field::Stride => (56, 8, 4),
            Field::Box => (88, 4, 5),
            Field::ElementStride => (112, 1, 5),
            Field::Mode => (11, 1, 1),
            Field::Lower => (118, 2, 3),
            Field::Upper => (50, 2, 3),
        }
    }
}

/// An encoded map, field by field, valid or not.
pub(super) struct Raw(pub [u8; BYTES]);

impl Raw {
    pub(super) fn new() -> Self {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        Raw(bytes)
    }

    /// Whether it is one.
    pub(super) fn is_map(&self) -> bool {
        self.0[..4] == MAGIC
    }

    fn get(&self, field: Field, index: usize) -> u64 {
        let (at, n, _) = field.place();
        let mut word = [0; 8];
        word[..n].copy_from_slice(&self.0[at + index * n..at + (index + 1) * n]);
        u64::from_le_bytes(word)
    }

    fn set(&mut self, field: Field, index: usize, value: u64) {
        let (at, n, _) = field.place();
        self.0[at + index * n..at + (index + 1) * n].copy_from_slice(&value.to_le_bytes()[..n]);
    }
}
