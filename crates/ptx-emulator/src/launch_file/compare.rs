//! Outputs against expectations.

use std::path::PathBuf;

use half::{bf16, f16};
use serde::Deserialize;

/// What an output should be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// File with the expected values.
    pub file: PathBuf,
    /// Element type of that file.
    pub dtype: String,
    /// Element type that the kernel stores, if another one.
    pub stored_as: Option<String>,
    /// Largest absolute difference.
    pub max_abs: Option<f64>,
    /// Largest relative difference in the 2-norm.
    pub rel_l2: Option<f64>,
}

/// A comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Buffer name.
    pub buffer: String,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Relative difference in the 2-norm.
    pub rel_l2: f64,
    /// Elements that differ in being NaN or infinite.
    pub non_finite: usize,
    /// Whether the output is as expected.
    pub passed: bool,
}

fn decode(dtype: &str, bytes: &[u8]) -> Result<Vec<f64>, String> {
    fn words<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Result<Vec<f64>, String> {
        let (words, rest) = bytes.as_chunks::<N>();
        if !rest.is_empty() {
            return Err(format!("{} bytes are not whole elements of {N}", bytes.len()));
        }
        Ok(words.iter().map(|&w| f(w)).collect())
    }
    match dtype {
        "float64" | "f64" => words(bytes, f64::from_le_bytes),
        "float32" | "f32" => words(bytes, |w| f64::from(f32::from_le_bytes(w))),
        "float16" | "f16" => words(bytes, |w| f16::from_le_bytes(w).to_f64()),
        "bfloat16" | "bf16" => words(bytes, |w| bf16::from_le_bytes(w).to_f64()),
        "int8" | "i8" => words(bytes, |w: [u8; 1]| f64::from(w[0] as i8)),
        "uint8" | "u8" => words(bytes, |w: [u8; 1]| f64::from(w[0])),
        "int16" | "i16" => words(bytes, |w| f64::from(i16::from_le_bytes(w))),
        "uint16" | "u16" => words(bytes, |w| f64::from(u16::from_le_bytes(w))),
        "int32" | "i32" => words(bytes, |w| f64::from(i32::from_le_bytes(w))),
        "uint32" | "u32" => words(bytes, |w| f64::from(u32::from_le_bytes(w))),
        "int64" | "i64" => words(bytes, |w| i64::from_le_bytes(w) as f64),
        "uint64" | "u64" => words(bytes, |w| u64::from_le_bytes(w) as f64),
        other => Err(format!("dtype {other} is not known")),
    }
}

impl Expectation {
    /// Compares. Without a tolerance the values must be equal.
    ///
    /// # Errors
    /// Unknown types or different lengths.
    pub fn compare(&self, buffer: &str, got: &[u8], want: &[u8]) -> Result<Comparison, String> {
        let got = decode(self.stored_as.as_deref().unwrap_or(&self.dtype), got)?;
        let want = decode(&self.dtype, want)?;
        if got.len() < want.len() {
            return Err(format!("{} elements instead of {}", got.len(), want.len()));
        }
        let (mut max_abs, mut d2, mut w2, mut non_finite) = (0.0f64, 0.0f64, 0.0f64, 0);
        for (&g, &w) in got.iter().zip(&want) {
            if !g.is_finite() || !w.is_finite() {
                non_finite += usize::from(!(g == w || g.is_nan() && w.is_nan()));
                continue;
            }
            max_abs = max_abs.max((g - w).abs());
            d2 += (g - w) * (g - w);
            w2 += w * w;
        }
        let rel_l2 = if d2 == 0.0 { 0.0 } else { (d2 / w2).sqrt() };
        let within = match (self.max_abs, self.rel_l2) {
            (None, None) => max_abs == 0.0,
            (a, r) => a.is_none_or(|a| max_abs <= a) && r.is_none_or(|r| rel_l2 <= r),
        };
        Ok(Comparison {
            buffer: buffer.to_owned(),
            max_abs,
            rel_l2,
            non_finite,
            passed: within && non_finite == 0,
        })
    }
}
