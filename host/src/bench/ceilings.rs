//! What the card can do: read bandwidth and dense bf16, in the same run as what is measured against them.

use kernels::launch::Dims;
use kernels::read_stream::{self, STEP_BYTES};

use super::cublas::Cublas;
use super::shape::Random;
use super::timing::time;
use crate::cuda::{CudaDevice, Graph};
use crate::runtime::{Args, Device, Memory, Queue};
use crate::{Error, Result};

/// The ceilings of one card in one run.
#[derive(Clone, Debug)]
pub struct Ceilings {
    /// Read-only bandwidth in GB/s, 4 GiB.
    pub read_gbs: f64,
    /// Dense bf16 by cuBLAS in TFLOP/s, sustained; `None` where cuBLAS is not found, with the reason.
    pub bf16_tflops: std::result::Result<f64, String>,
    /// The same before the clock falls.
    pub bf16_tflops_cool: f64,
}

/// Bytes read by the bandwidth measurement.
const READ_BYTES: usize = 4 << 30;
/// Size of the random pattern that fills large buffers.
const PATTERN_BYTES: usize = 64 << 20;

/// Device memory full of random 64-bit words `bits & and | or`: a pattern from the host, repeated.
fn random_memory(device: &CudaDevice, bytes: usize, and: u64, or: u64) -> Result<Memory<'_>> {
    let memory = Memory::new(device, bytes)?;
    let mut random = Random::new(7);
    let pattern: Vec<u8> =
        (0..PATTERN_BYTES / 8).flat_map(|_| (random.bits() & and | or).to_le_bytes()).collect();
    for start in (0..bytes).step_by(PATTERN_BYTES) {
        let len = PATTERN_BYTES.min(bytes - start);
        // SAFETY: inside the memory just made.
        unsafe { device.upload(memory.ptr().byte_add(start as u64), &pattern[..len])? };
    }
    Ok(memory)
}

/// Measures both.
pub fn measure(device: &CudaDevice) -> Result<Ceilings> {
    let read_gbs = read_bandwidth(device)?;
    let (bf16_tflops, bf16_tflops_cool) = match dense_bf16(device) {
        Ok((sustained, cool)) => (Ok(sustained), cool),
        Err(error) => (Err(error.to_string()), 0.0),
    };
    Ok(Ceilings { read_gbs, bf16_tflops, bf16_tflops_cool })
}

/// Best of several grids, gated on the exclusive or of all that was read.
fn read_bandwidth(device: &CudaDevice) -> Result<f64> {
    let data = random_memory(device, READ_BYTES, u64::MAX, 0)?;
    let sms = device.multiprocessors();
    let most = sms * 8;
    let fold = Memory::new(device, (most * read_stream::THREADS * 4) as usize)?;
    let steps = (READ_BYTES / STEP_BYTES as usize) as u32;
    // The pattern repeats an even number of times: the exclusive or of everything is 0.
    let mut best: f64 = 0.0;
    for per_sm in [2, 3, 4] {
        let grid = sms * per_sm;
        let dims = Dims { grid: [grid, 1, 1], block: [read_stream::THREADS, 1, 1], shared_bytes: 0 };
        let args = Args::new(&read_stream::LAUNCH)
            .input("data", data.ptr())
            .output("fold", fold.ptr())
            .u32("steps", steps);
        let graph = Graph::capture(device.kernels().context(), |stream| {
            // SAFETY: the buffers are of the table's shapes and outlive the graph.
            unsafe { device.kernels().on(stream).launch(dims, args.clone(), false) }
        })?;
        let timing = time(device.kernels().context(), device.stream(), 0.15, || {
            // SAFETY: as above.
            unsafe { graph.replay(device.stream()) }
        })?;
        let words = fold.to_vec()?;
        let folded = words[..(grid * read_stream::THREADS * 4) as usize]
            .chunks_exact(4)
            .fold(0u32, |acc, w| acc ^ u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        if folded != 0 {
            return Err(Error::mismatch("exclusive or of the memory read", 0, folded));
        }
        best = best.max(READ_BYTES as f64 / timing.sustained_us / 1e3);
    }
    Ok(best)
}

/// `[49152, 7168] x [6144, 7168]`, the dense form of DeepSeek-V4-Pro's L1 at 8192 tokens.
fn dense_bf16(device: &CudaDevice) -> Result<(f64, f64)> {
    const TOKENS: usize = 49_152;
    const ROWS: usize = 6144;
    const K: usize = 7168;
    let cublas = Cublas::load()?;
    // Four bf16 of +-[0.5, 2) in a word.
    let operand =
        |elements: usize| random_memory(device, 2 * elements, 0x80ff_80ff_80ff_80ff, 0x3f00_3f00_3f00_3f00);
    let (x, w) = (operand(TOKENS * K)?, operand(ROWS * K)?);
    let c = Memory::new(device, TOKENS * ROWS * 2)?;
    let timing = time(device.kernels().context(), device.stream(), 0.5, || {
        // SAFETY: the memory has these shapes.
        unsafe { cublas.gemm_bf16(device.stream().raw(), ROWS, TOKENS, K, w.ptr(), x.ptr(), c.ptr()) }
    })?;
    let flop = 2.0 * TOKENS as f64 * ROWS as f64 * K as f64;
    Ok((flop / timing.sustained_us / 1e6, flop / timing.cool_us / 1e6))
}
