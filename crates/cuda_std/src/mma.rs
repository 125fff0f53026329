//! Warp-wide matrix multiply-accumulate and its operand loads (PTX ISA, Warp-Level Matrix Instructions).
//!
//! These are `.aligned` and stay `asm!` (operands are vectors of halves, or addresses): only in warp-uniform
//! control flow, and never `pure`, so that LLVM neither sinks one into a branch nor drops one.
//!
//! With `g = lane / 4` and `t = lane % 4`: A (16 x 16) has registers `a0` row g, k 2t and 2t+1; `a1` row g+8, the
//! same k; `a2` row g, k 2t+8 and 2t+9; `a3` row g+8. B (16 x 8) has `b0` k 2t, 2t+1 and `b1` k 2t+8, 2t+9 of
//! column g. C and D have `d0`, `d1` row g, columns 2t, 2t+1, and `d2`, `d3` row g+8. Low half = lower k.

use crate::gpu_only;

/// `d += a * b`, f16 operands, f32 sums (`mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32`).
///
/// # Safety
/// All lanes of the warp execute this call together.
#[gpu_only]
#[inline(always)]
pub unsafe fn m16n8k16_f16(d: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
    let [mut d0, mut d1, mut d2, mut d3] = *d;
    // SAFETY: registers only; the caller brings the warp.
    unsafe {
        core::arch::asm!("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
            "{{{0}, {1}, {2}, {3}}}, {{{4}, {5}, {6}, {7}}}, {{{8}, {9}}}, {{{0}, {1}, {2}, {3}}};",
            inout(reg32) d0, inout(reg32) d1, inout(reg32) d2, inout(reg32) d3,
            in(reg32) a[0], in(reg32) a[1], in(reg32) a[2], in(reg32) a[3],
            in(reg32) b[0], in(reg32) b[1], options(nomem, nostack));
    }
    *d = [d0, d1, d2, d3];
}

/// `d += a * b`, bf16 operands, f32 sums (`mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32`).
///
/// # Safety
/// All lanes of the warp execute this call together.
#[gpu_only]
#[inline(always)]
pub unsafe fn m16n8k16_bf16(d: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
    let [mut d0, mut d1, mut d2, mut d3] = *d;
    // SAFETY: registers only; the caller brings the warp.
    unsafe {
        core::arch::asm!("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
            "{{{0}, {1}, {2}, {3}}}, {{{4}, {5}, {6}, {7}}}, {{{8}, {9}}}, {{{0}, {1}, {2}, {3}}};",
            inout(reg32) d0, inout(reg32) d1, inout(reg32) d2, inout(reg32) d3,
            in(reg32) a[0], in(reg32) a[1], in(reg32) a[2], in(reg32) a[3],
            in(reg32) b[0], in(reg32) b[1], options(nomem, nostack));
    }
    *d = [d0, d1, d2, d3];
}

/// Four 8 x 8 matrices of 16-bit elements (`ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16`): lane `8j + i` gives
/// the address of row `i` (16 bytes, aligned) of matrix `j`; register `j` of a lane receives elements 2t and 2t+1
/// of row g of matrix `j`.
///
/// # Safety
/// All lanes of the warp execute this call together; every address is 16-byte aligned and inside shared memory.
#[gpu_only]
#[inline(always)]
pub unsafe fn load_matrix_x4(address: u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u32, u32, u32);
    // SAFETY: the caller vouches for the addresses and brings the warp.
    unsafe {
        core::arch::asm!("ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 {{{0}, {1}, {2}, {3}}}, [{4}];",
            lateout(reg32) a, lateout(reg32) b, lateout(reg32) c, lateout(reg32) d,
            in(reg32) address, options(readonly, nostack));
    }
    [a, b, c, d]
}
