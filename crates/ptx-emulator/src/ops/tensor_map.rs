//! Tensor maps: our own encoding of the 128-byte object (PTX ISA 5.5.8; the driver's is opaque), with the
//! limits of `cuTensorMapEncodeTiled`.

use thiserror::Error;

/// Bytes of an encoded map.
pub const BYTES: usize = 128;

/// Element type. The numbers are those of `tensormap.replace` (PTX ISA 9.7.9.28), not the driver's.
#[allow(missing_docs)] // The names are PTX's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    U8 = 0,
    U16 = 1,
    U32 = 2,
    S32 = 3,
    U64 = 4,
    S64 = 5,
    F16 = 6,
    F32 = 7,
    F32Ftz = 8,
    F64 = 9,
    BF16 = 10,
    TF32 = 11,
    TF32Ftz = 12,
    /// 16 packed 4-bit elements (`16U4_ALIGN8B`, `.b4x16`).
    U4Align8 = 13,
    /// 16 packed 4-bit elements, padded to 16 bytes in shared memory (`16U4_ALIGN16B`, `.b4x16_p64`).
    U4Align16 = 14,
    /// 16 packed 6-bit elements, padded (`16U6_ALIGN16B`).
    U6Align16 = 15,
}

impl Element {
    const ALL: [Element; 16] = [
        Element::U8,
        Element::U16,
        Element::U32,
        Element::S32,
        Element::U64,
        Element::S64,
        Element::F16,
        Element::F32,
        Element::F32Ftz,
        Element::F64,
        Element::BF16,
        Element::TF32,
        Element::TF32Ftz,
        Element::U4Align8,
        Element::U4Align16,
        Element::U6Align16,
    ];

    /// From the number of `tensormap.replace`.
    pub fn from_ptx(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// From the number of the driver's `CUtensorMapDataType`.
    pub fn from_driver(number: u32) -> Option<Self> {
        use Element::{
            BF16, F16, F32, F32Ftz, F64, S32, S64, TF32, TF32Ftz, U4Align8, U4Align16, U6Align16, U8, U16,
            U32, U64,
        };
        let all = [
            U8, U16, U32, S32, U64, S64, F16, F32, F64, BF16, F32Ftz, TF32, TF32Ftz, U4Align8, U4Align16,
            U6Align16,
        ];
        all.get(number as usize).copied()
    }

    /// Bits of an element in global memory.
    pub const fn bits(self) -> u32 {
        match self {
            Element::U4Align8 | Element::U4Align16 => 4,
            Element::U6Align16 => 6,
            Element::U8 => 8,
            Element::U16 | Element::F16 | Element::BF16 => 16,
            Element::U64 | Element::S64 | Element::F64 => 64,
            _ => 32,
        }
    }

    const fn is_float(self) -> bool {
        matches!(
            self,
            Element::F16
                | Element::F32
                | Element::F32Ftz
                | Element::F64
                | Element::BF16
                | Element::TF32
                | Element::TF32Ftz
        )
    }

    /// Whether 16 elements take 16 bytes in shared memory, whatever their size.
    const fn is_padded(self) -> bool {
        matches!(self, Element::U4Align16 | Element::U6Align16)
    }

    /// Whether loads round to 10 fraction bits.
    pub(super) const fn is_tf32(self) -> bool {
        matches!(self, Element::TF32 | Element::TF32Ftz)
    }
}

/// Interleaved layouts (PTX ISA 5.5.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Interleave {
    /// None.
    #[default]
    None = 0,
    /// 16 bytes.
    B16 = 1,
    /// 32 bytes.
    B32 = 2,
}

/// Swizzling modes (PTX ISA 5.5.7). The numbers are the driver's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// None.
    #[default]
    None = 0,
    /// 32 bytes.
    B32 = 1,
    /// 64 bytes.
    B64 = 2,
    /// 128 bytes, in units of 16.
    B128 = 3,
    /// 128 bytes, in units of 32.
    B128Atom32 = 4,
    /// 128 bytes, in units of 32; the 8-byte halves of 16 bytes change places in odd 128-byte lines.
    B128Atom32Flip8 = 5,
    /// 128 bytes, in units of 64.
    B128Atom64 = 6,
}

impl Swizzle {
    const ALL: [Swizzle; 7] = [
        Swizzle::None,
        Swizzle::B32,
        Swizzle::B64,
        Swizzle::B128,
        Swizzle::B128Atom32,
        Swizzle::B128Atom32Flip8,
        Swizzle::B128Atom64,
    ];

    /// From the driver's number.
    pub fn from_driver(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// Where the byte of shared address `a` of the unswizzled box lies.
    #[inline]
    pub const fn apply(self, a: u32) -> u32 {
        match self {
            Swizzle::None => a,
            Swizzle::B32 => a ^ ((a >> 3) & 0x10),
            Swizzle::B64 => a ^ ((a >> 3) & 0x30),
            Swizzle::B128 => a ^ ((a >> 3) & 0x70),
            Swizzle::B128Atom32 => a ^ ((a >> 2) & 0x60),
            Swizzle::B128Atom32Flip8 => a ^ ((a >> 2) & 0x60) ^ ((a >> 4) & 0x08),
            Swizzle::B128Atom64 => a ^ ((a >> 1) & 0x40),
        }
    }

    /// Widest inner box in bytes; `None` = no limit.
    pub const fn span(self) -> Option<u32> {
        match self {
            Swizzle::None => None,
            Swizzle::B32 => Some(32),
            Swizzle::B64 => Some(64),
            _ => Some(128),
        }
    }

    /// Bytes that stay together.
    pub(super) const fn unit(self) -> usize {
        match self {
            Swizzle::B128Atom32Flip8 => 8,
            _ => 16,
        }
    }
}

/// L2 promotion; a hint.
#[allow(missing_docs)] // Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum L2Promotion {
    #[default]
    None = 0,
    B64 = 1,
    B128 = 2,
    B256 = 3,
}

/// What out-of-bounds elements are filled with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Zeros.
    #[default]
    Zero = 0,
    /// A NaN: 0x7FF7 in every 16 bits, as an H200 writes it.
    Nan = 1,
}

/// The bounding box of im2col mode (PTX ISA 5.5.4), W first. It bounds where a filter's base may lie: from `lower` to
/// the dimension's extent plus `upper`, exclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Im2col {
    /// Lower corner in W, H, D.
    pub lower: Vec<i32>,
    /// Upper corner in W, H, D.
    pub upper: Vec<i32>,
}

/// A tensor map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Element type.
    pub element: Element,
    /// Global address.
    pub address: u64,
    /// Extents in elements, innermost first; their number is the rank.
    pub dims: Vec<u64>,
    /// Strides of dimensions 1.. in bytes.
    pub strides: Vec<u64>,
    /// Box in elements; of im2col mode channels per pixel, pixels per column, and ones.
    pub box_dims: Vec<u32>,
    /// Traversal strides.
    pub element_strides: Vec<u32>,
    /// Interleaved layout.
    pub interleave: Interleave,
    /// Swizzling of shared memory.
    pub swizzle: Swizzle,
    /// L2 promotion.
    pub l2_promotion: L2Promotion,
    /// Out-of-bounds fill.
    pub fill: Fill,
    /// im2col mode; `None` is tiled.
    pub im2col: Option<Im2col>,
}

/// Why a tensor map is not valid.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TensorMapError {
    /// Not one of ours.
    #[error("the 128 bytes are not a tensor map")]
    NotATensorMap,
    /// A field with a value that does not exist.
    #[error("field {0} holds {1}")]
    Field(&'static str, u32),
    /// Rank.
    #[error("rank {0} is not in 1..=5")]
    Rank(usize),
    /// Lists of different lengths.
    #[error("{what}: {got} values for rank {rank}")]
    Length {
        /// Which list.
        what: &'static str,
        /// Rank.
        rank: usize,
        /// Values.
        got: usize,
    },
    /// Alignment of the global address.
    #[error("global address {address:#x} is not {align}-byte aligned")]
    Address {
        /// Address.
        address: u64,
        /// Needed alignment.
        align: u64,
    },
    /// Extent of a dimension.
    #[error("dimension {0}: extent {1} is not in 1..=2^32, or not a multiple of what its type needs")]
    Dim(usize, u64),
    /// Stride of a dimension.
    #[error("stride of dimension {0}: {1} bytes is not a multiple of {2} below 2^40")]
    Stride(usize, u64, u64),
    /// Corners of an im2col bounding box.
    #[error("im2col of rank {rank}: corner {value} in dimension {dim} is out of range, or the box is empty")]
    Corner {
        /// Rank.
        rank: usize,
        /// Dimension.
        dim: usize,
        /// Corner.
        value: i32,
    },
    /// Box extent.
    #[error("box of dimension {0}: {1} is not in 1..=256 (128 for ALIGN16B types)")]
    Box(usize, u32),
    /// Bytes of the inner dimension of the box.
    #[error("the inner dimension of the box has {0} bytes, not a multiple of 16")]
    InnerBytes(u64),
    /// Inner box wider than the swizzle span.
    #[error("the inner dimension of the box has {bytes} bytes; swizzle {swizzle:?} allows {span}")]
    Span {
        /// Bytes.
        bytes: u64,
        /// Swizzle.
        swizzle: Swizzle,
        /// Its span.
        span: u32,
    },
    /// Traversal stride.
    #[error("traversal stride of dimension {0}: {1} is not in 1..=8 (1 for dimension 0)")]
    ElementStride(usize, u32),
    /// Swizzle that the element type does not allow.
    #[error("swizzle {0:?} is not possible for {1:?}")]
    Swizzle(Swizzle, Element),
    /// NaN fill of integers.
    #[error("{0:?} cannot be filled with NaN")]
    Fill(Element),
    /// Valid, but not modelled.
    #[error("not modelled: {0}")]
    NotModelled(&'static str),
}

impl TensorMap {
    /// A dense map without swizzle, zero-filled: `strides` of dimensions 1.. in bytes.
    pub fn new(element: Element, address: u64, dims: &[u64], strides: &[u64], box_dims: &[u32]) -> Self {
        Self {
            element,
            address,
            dims: dims.to_vec(),
            strides: strides.to_vec(),
            box_dims: box_dims.to_vec(),
            element_strides: vec![1; dims.len()],
            interleave: Interleave::None,
            swizzle: Swizzle::None,
            l2_promotion: L2Promotion::None,
            fill: Fill::Zero,
            im2col: None,
        }
    }

    /// An im2col map: corners in W, H, D.
    #[must_use]
    pub fn im2col(mut self, lower: &[i32], upper: &[i32], channels: u32, pixels: u32) -> Self {
        self.box_dims = vec![1; self.rank()];
        self.box_dims[0] = channels;
        if let Some(second) = self.box_dims.get_mut(1) {
            *second = pixels;
        }
        self.im2col = Some(Im2col { lower: lower.to_vec(), upper: upper.to_vec() });
        self
    }

    /// The same map with a swizzle.
    #[must_use]
    pub fn swizzled(self, swizzle: Swizzle) -> Self {
        Self { swizzle, ..self }
    }

    /// Rank.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Elements of the box along a dimension: `box / traversal stride`, rounded up.
    pub fn extent(&self, dim: usize) -> u32 {
        // Pixels are counted whatever the traversal stride.
        if dim == 0 || self.im2col.is_some() {
            self.box_dims[dim]
        } else {
            self.box_dims[dim].div_ceil(self.element_strides[dim])
        }
    }

    /// Bits of what dimension 0 counts: elements, or slices of an interleaved layout (PTX ISA 5.5.6).
    pub fn unit_bits(&self) -> usize {
        match self.interleave {
            Interleave::None => self.element.bits() as usize,
            Interleave::B16 => 128,
            Interleave::B32 => 256,
        }
    }

    /// Bytes of a row of the box in global memory.
    pub fn row_bytes(&self) -> usize {
        self.box_dims[0] as usize * self.unit_bits() / 8
    }

    /// Bytes of a row of the box in shared memory, without what follows up to the next row.
    pub fn shared_row_bytes(&self) -> usize {
        if self.element.is_padded() { self.box_dims[0] as usize } else { self.row_bytes() }
    }

    /// Distance of rows in shared memory: the swizzle's span if there is one; interleaved rows are dense.
    pub fn pitch(&self) -> usize {
        if self.interleave != Interleave::None {
            return self.shared_row_bytes();
        }
        self.swizzle.span().map_or(self.shared_row_bytes(), |s| s as usize)
    }

    /// Bytes that a load of the whole box counts on its mbarrier.
    pub fn transaction_bytes(&self) -> u64 {
        (1..self.rank()).map(|d| u64::from(self.extent(d))).product::<u64>() * self.row_bytes() as u64
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`TensorMapError`].
    pub fn validate(&self) -> Result<(), TensorMapError> {
        use TensorMapError as E;
        let rank = self.rank();
        if rank == 0 || rank > 5 || (self.interleave != Interleave::None && rank < 3) {
            return Err(E::Rank(rank));
        }
        let lengths = [
            ("strides", self.strides.len() + 1),
            ("box dimensions", self.box_dims.len()),
            ("traversal strides", self.element_strides.len()),
        ];
        for (what, got) in lengths {
            if got != rank {
                return Err(E::Length { what, rank, got });
            }
        }
        let wide = self.interleave == Interleave::B32 || self.element.is_padded();
        let align = if wide { 32 } else { 16 };
        if !self.address.is_multiple_of(align) {
            return Err(E::Address { address: self.address, align });
        }
        for (i, &dim) in self.dims.iter().enumerate() {
            let multiple = match self.element {
                Element::U4Align8 if i == 0 => 2,
                Element::U4Align16 | Element::U6Align16 if i == 0 => 128,
                _ => 1,
            };
            if dim == 0 || dim > 1 << 32 || dim % multiple != 0 {
                return Err(E::Dim(i, dim));
            }
        }
        for (i, &stride) in self.strides.iter().enumerate() {
            if !stride.is_multiple_of(align) || stride >= 1 << 40 {
                return Err(E::Stride(i + 1, stride, align));
            }
        }
        for (i, &extent) in self.box_dims.iter().enumerate() {
            let padded = i == 0 && self.element.is_padded();
            let most = if i == 1 && self.im2col.is_some() { 1024 } else { 256 };
            if extent == 0 || extent > most || (padded && extent != 128) {
                return Err(E::Box(i, extent));
            }
        }
        for (i, &stride) in self.element_strides.iter().enumerate() {
            if stride == 0 || stride > 8 || (i == 0 && stride != 1) {
                return Err(E::ElementStride(i, stride));
            }
        }
        let inner = u64::from(self.box_dims[0]) * u64::from(self.element.bits());
        if !inner.is_multiple_of(128) {
            return Err(E::InnerBytes(inner / 8));
        }
        let bytes = self.shared_row_bytes() as u64;
        if let Some(span) = self.swizzle.span()
            && self.interleave == Interleave::None
            && bytes > u64::from(span)
        {
            return Err(E::Span { bytes, swizzle: self.swizzle, span });
        }
        let swizzles = [Swizzle::None, Swizzle::B128, Swizzle::B128Atom32];
        if self.element.is_padded() && !swizzles.contains(&self.swizzle) {
            return Err(E::Swizzle(self.swizzle, self.element));
        }
        if self.fill == Fill::Nan && !self.element.is_float() {
            return Err(E::Fill(self.element));
        }
        self.validate_interleave()?;
        self.validate_im2col()
    }

    /// As an H200 treats them: dimension 0 counts slices, and the last but one dimension is one slice deep.
    fn validate_interleave(&self) -> Result<(), TensorMapError> {
        use TensorMapError as E;
        if self.interleave == Interleave::None {
            return Ok(());
        }
        if self.interleave == Interleave::B32 && self.swizzle != Swizzle::B32 {
            return Err(E::Swizzle(self.swizzle, self.element));
        }
        if self.im2col.is_some() || self.element.bits() < 8 {
            return Err(E::NotModelled("interleaved layouts of im2col and sub-byte types"));
        }
        if self.box_dims[self.rank() - 2] != 1 {
            return Err(E::NotModelled("an interleaved box of more than one in the last but one dimension"));
        }
        Ok(())
    }

    fn validate_im2col(&self) -> Result<(), TensorMapError> {
        let Some(Im2col { lower, upper }) = &self.im2col else { return Ok(()) };
        let rank = self.rank();
        if rank < 3 {
            return Err(TensorMapError::Rank(rank));
        }
        for (what, list) in [("lower corners", lower), ("upper corners", upper)] {
            if list.len() != rank - 2 {
                return Err(TensorMapError::Length { what, rank, got: list.len() });
            }
        }
        let limit = [1 << 15, 1 << 7, 1 << 4][rank - 3];
        for (i, (&low, &high)) in lower.iter().zip(upper).enumerate() {
            let dim = i + 1;
            for value in [low, high] {
                if !(-limit..limit).contains(&value) {
                    return Err(TensorMapError::Corner { rank, dim, value });
                }
            }
            if i64::from(low) >= self.dims[dim] as i64 + i64::from(high) {
                return Err(TensorMapError::Corner { rank, dim, value: high });
            }
        }
        Ok(())
    }
}
