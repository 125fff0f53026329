//! Descriptors of the block-scaled MMA of NVFP4 operands: the instruction's, and those of matrices in shared memory.

/// The instruction descriptor of `kind::mxf4nvf4` with one E4M3 scale per 16 (PTX ISA, Instruction descriptor, table
/// for `.kind::mxf4` and `.kind::mxf4nvf4`). Fields that are 0: sparsity (bit 2), the scale ids (4-5 and 29-30),
/// negations (13, 14), transpositions (15, 16: both operands are K-major), scale type (23: UE4M3), K (31: 64).
pub mod instruction {
    /// Bits 7-9: A is E2M1.
    const A_E2M1: u32 = 1 << 7;
    /// Bits 10-11: B is E2M1.
    const B_E2M1: u32 = 1 << 10;
    /// Bits 17-22: N over 8.
    const N_SHIFT: u32 = 17;
    /// Bits 27-28: M over 128.
    const M_SHIFT: u32 = 27;

    /// The descriptor of an M x N x 64 instruction. M is 128, or 256 of a pair; N at most 256, a multiple of 8, of 16 of
    /// a pair.
    #[inline(always)]
    pub const fn nvfp4(m: u32, n: u32) -> u32 {
        A_E2M1 | B_E2M1 | ((n >> 3) << N_SHIFT) | ((m >> 7) << M_SHIFT)
    }

    const _: () = {
        // Constants as CUTLASS's `InstrDescriptorBlockScaled` makes them.
        assert!(nvfp4(128, 8) == 0x0802_0480 && nvfp4(128, 64) == 0x0810_0480);
        assert!(nvfp4(128, 128) == 0x0820_0480 && nvfp4(128, 192) == 0x0830_0480);
        assert!(nvfp4(256, 128) == 0x1020_0480 && nvfp4(256, 256) == 0x1040_0480);
    };
}

/// Matrix descriptors (PTX ISA, Shared memory descriptor): operands without swizzle, in units of 16 bytes. Fields that
/// are 0: base offset (49-51), absolute leading-dimension mode (52), swizzle (61-63: none).
pub mod matrix {
    /// Bits 0-13: the start address over 16, without the block's rank in the cluster (bits 24 and up).
    const ADDRESS_MASK: u32 = 0x3_ffff;
    /// Bits 16-29: leading-dimension byte offset over 16.
    const LEADING_SHIFT: u64 = 16;
    /// Bits 32-45: stride-dimension byte offset over 16.
    const STRIDE_SHIFT: u64 = 32;
    /// Bits 46-48: the format of sm_100.
    const VERSION: u64 = 0b001 << 46;

    /// K-major, no swizzle: 8 rows x 16 bytes lie together; `leading` bytes on are the next 16 bytes of the same rows,
    /// `stride` bytes on the next 8 rows. Both are multiples of 16.
    #[inline(always)]
    pub const fn k_major(address: u32, leading: u64, stride: u64) -> u64 {
        start(address) | (leading >> 4) << LEADING_SHIFT | (stride >> 4) << STRIDE_SHIFT | VERSION
    }

    /// A tile of scales, source of `tcgen05.cp.32x128b`: 32 rows of 16 bytes, one after the other.
    #[inline(always)]
    pub const fn scale_tile(address: u32) -> u64 {
        k_major(address, 0, 128)
    }

    /// The start-address field of an address. A descriptor plus `start(bytes)` is that of the operand `bytes` further
    /// on (a multiple of 16, inside shared memory).
    #[inline(always)]
    pub const fn start(address: u32) -> u64 {
        ((address & ADDRESS_MASK) >> 4) as u64
    }

    const _: () = {
        // Upper words as CUTLASS's `SmemDescriptor` has them.
        assert!(k_major(0, 128, 256) >> 32 == 0x0000_4010 && scale_tile(0) >> 32 == 0x0000_4008);
        assert!(k_major(0, 128, 256) as u32 == 8 << 16 && scale_tile(0x0100_2400) as u32 == 0x240);
        assert!(k_major(0x400, 128, 256) + start(4608) == k_major(0x400 + 4608, 128, 256));
    };
}
