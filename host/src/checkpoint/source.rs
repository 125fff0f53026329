//! A run of bytes of an open tensor: read whole, or converted in small pieces; and the checks of values.

use std::path::PathBuf;

use half::bf16;
use nvfp4::e4m3;

use super::error::{CheckpointError, Result};
use super::open::{Checkpoint, TensorInfo};
use super::plan::Source;

/// Bytes converted at a time where the stored form is not the final one. A multiple of every element size.
const CHUNK: usize = 64 << 10;

/// A source with its tensor at hand.
pub struct At<'a> {
    pub checkpoint: &'a Checkpoint,
    pub tensor: &'a TensorInfo,
    pub source: Source,
}

impl At<'_> {
    /// The file, for messages.
    pub fn file(&self) -> PathBuf {
        self.checkpoint.file_of(self.tensor).to_owned()
    }

    /// The tensor's name, for messages.
    pub fn name(&self) -> String {
        self.tensor.name().to_owned()
    }

    /// Fills `buf` from byte `skip` of the source.
    pub fn read(&self, buf: &mut [u8], skip: u64) -> Result<()> {
        let offset = self.tensor.entry.offset + self.source.offset + skip;
        self.checkpoint.shards[self.tensor.shard].read_exact_at(self.tensor.name(), buf, offset)
    }

    /// The source as bytes.
    pub fn bytes(&self) -> Result<Box<[u8]>> {
        let mut out = self.checkpoint.allocate(self.tensor, self.source.bytes)?;
        self.read(&mut out, 0)?;
        Ok(out.into())
    }

    /// Converts elements of `N` bytes. `f` gets the index of the element in the tensor and its bytes.
    pub fn convert<const N: usize, T: bytemuck::Zeroable + Clone>(
        &self,
        f: impl Fn(u64, [u8; N]) -> Result<T>,
    ) -> Result<Box<[T]>> {
        let mut out = self.checkpoint.allocate(self.tensor, self.source.bytes / N as u64)?;
        let mut buffer = vec![0; CHUNK.min(out.len() * N)];
        for (piece, values) in out.chunks_mut(CHUNK / N).enumerate() {
            let bytes = &mut buffer[..values.len() * N];
            self.read(bytes, (piece * CHUNK) as u64)?;
            let first = self.source.offset / N as u64 + (piece * (CHUNK / N)) as u64;
            for (i, (value, bytes)) in values.iter_mut().zip(bytes.as_chunks::<N>().0).enumerate() {
                *value = f(first + i as u64, *bytes)?;
            }
        }
        Ok(out.into())
    }

    /// Index in the tensor of byte or element `i` of the source, for elements of `size` bytes.
    fn index(&self, i: usize, size: u64) -> u64 {
        self.source.offset / size + i as u64
    }

    /// E4M3 block scales: no NaN, no sign.
    pub fn check_scales(&self, scales: &[u8]) -> Result<()> {
        // The maximum is one vector instruction a piece; the search happens only in broken files.
        if scales.iter().fold(0, |m, &b| b.max(m)) < e4m3::NAN {
            return Ok(());
        }
        let Some((i, &found)) = scales.iter().enumerate().find(|(_, b)| !e4m3::is_valid_scale(**b)) else {
            return Ok(());
        };
        let (file, tensor, index) = (self.file(), self.name(), self.index(i, 1));
        Err(if found & 0x7f == e4m3::NAN {
            CheckpointError::NanScale { file, tensor, index, found }
        } else {
            CheckpointError::NegativeScale { file, tensor, index, found }
        })
    }

    /// E4M3 weights: no NaN.
    pub fn check_fp8(&self, codes: &[u8]) -> Result<()> {
        if codes.iter().fold(0, |m, &b| (b & 0x7f).max(m)) < e4m3::NAN {
            return Ok(());
        }
        match codes.iter().position(|b| b & 0x7f == e4m3::NAN) {
            Some(i) => Err(self.non_finite(self.index(i, 1), f32::NAN)),
            None => Ok(()),
        }
    }

    /// BF16 weights: no NaN, no infinity.
    pub fn check_bf16(&self, values: &[bf16]) -> Result<()> {
        if values.iter().fold(0, |m, v| (v.to_bits() & 0x7fff).max(m)) < 0x7f80 {
            return Ok(());
        }
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(self.non_finite(self.index(i, 2), values[i].to_f32())),
            None => Ok(()),
        }
    }

    /// [`CheckpointError::NonFinite`] for an element of the tensor.
    pub fn non_finite(&self, index: u64, found: f32) -> CheckpointError {
        CheckpointError::NonFinite { file: self.file(), tensor: self.name(), index, found }
    }
}

/// A global scale as a multiplier, if it and its stored form are positive, finite and normal.
pub fn usable_scale(stored: f32, divisor: bool) -> Option<f32> {
    let usable = |x: f32| x.is_normal() && x > 0.0;
    let scale = if divisor { 1.0 / stored } else { stored };
    (usable(stored) && usable(scale)).then_some(scale)
}
