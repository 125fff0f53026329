//! Arithmetic of the tensor cores, to the bit where a model exists.
//!
//! | unit | module | evidence |
//! |---|---|---|
//! | tcgen05 `mxf4nvf4`, UE4M3 scales, K = 64 | [`nvfp4_mma`] | published B200 words, a second independent model |
//! | wgmma / mma.sync f16, bf16 (K = 16), e4m3 (K = 32); tcgen05 `f16` | [`aligned_sum`] | an H200, 2400 of 2400 |
//!
//! [`Precision`] selects these or plain f32 arithmetic.

pub mod aligned_sum;
pub mod element;
pub mod nvfp4_mma;
pub mod round;

/// How products are accumulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As the hardware does, where a model exists.
    #[default]
    Hardware,
    /// Products in f32, added to the accumulator in order of k, each rounded to nearest.
    PlainF32,
}
