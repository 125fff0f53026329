//! Codes, scales and row scales: what both kernels write, its reference, and a comparison that names the place.

use nvfp4::quantize::{amax_bits_of, quantize_row, row_scale, tensor_scale_from_amax_bits};
use nvfp4::{BLOCK, layout};

use super::Check;

/// What outputs hold before a launch. As the exponent byte of an f32 row scale it makes a wildly wrong number.
pub const POISON: u8 = 0xa5;

/// Where the global scale of a row comes from.
#[derive(Clone, Copy, Debug)]
pub enum Scale {
    /// The row's own maximum / 2688: the kernel gets a null pointer.
    Row,
    /// One constant.
    Constant(f32),
}

impl Scale {
    /// For names of cases.
    pub fn name(self) -> String {
        match self {
            Scale::Row => "row".to_owned(),
            Scale::Constant(c) => format!("constant={c:e}"),
        }
    }

    /// The constant's bytes for the device; none for a null pointer.
    pub fn bytes(self) -> Option<[u8; 4]> {
        match self {
            Scale::Row => None,
            Scale::Constant(c) => Some(c.to_le_bytes()),
        }
    }
}

/// The output buffers of `max_rows` rows of `k` elements.
#[derive(Clone, PartialEq, Eq)]
pub struct Outputs {
    k: usize,
    /// E2M1 codes, `[max_rows, k/2]`.
    pub packed: Vec<u8>,
    /// E4M3 scales in the 32_4_4 layout.
    pub scales: Vec<u8>,
    /// f32 `[max_rows]` as bytes.
    pub row_scale: Vec<u8>,
}

impl Outputs {
    /// Poisoned.
    pub fn poisoned(max_rows: usize, k: usize) -> Self {
        Self {
            k,
            packed: vec![POISON; max_rows * k / 2],
            scales: vec![POISON; layout::sf_len(max_rows, k / BLOCK)],
            row_scale: vec![POISON; max_rows * 4],
        }
    }

    /// What must be there after `rows` of `max_rows` rows were quantised; `values(row, out)` gives a row. Rows are
    /// spread over the machine's threads.
    pub fn reference(
        (max_rows, rows, k): (usize, usize, usize),
        scale: Scale,
        values: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let groups = k / BLOCK;
        let rows = rows.min(max_rows);
        let mut out = Self::poisoned(max_rows, k);
        let done = parallel(rows, |row| {
            let (mut x, mut packed, mut scales) = (vec![0.0; k], vec![0; k / 2], vec![0; groups]);
            values(row, &mut x);
            let amax = amax_bits_of(&x);
            let s2 = match scale {
                Scale::Row => tensor_scale_from_amax_bits(amax),
                Scale::Constant(given) => row_scale(given, amax),
            };
            quantize_row(&x, s2, &mut packed, &mut scales);
            (packed, scales, s2)
        });
        // Whole tiles of the rows that exist are written, their padding as 0; tiles beyond are not touched.
        out.scales[..layout::sf_len(rows, groups)].fill(0);
        for (row, (packed, scales, s2)) in done.into_iter().enumerate() {
            out.packed[row * k / 2..][..k / 2].copy_from_slice(&packed);
            out.row_scale[row * 4..][..4].copy_from_slice(&s2.to_le_bytes());
            for (group, scale) in scales.into_iter().enumerate() {
                out.scales[layout::sf_offset(row, group, groups)] = scale;
            }
        }
        out
    }

    /// Compares every byte; the error names the first difference of each buffer.
    pub fn expect(&self, want: &Outputs) -> Check {
        let groups = self.k / BLOCK;
        let mut wrong = Vec::new();
        let mut compare = |what: &str, got: &[u8], want: &[u8], place: &dyn Fn(usize) -> String| {
            if got.len() != want.len() {
                wrong.push(format!("{what}: {} bytes, expected {}", got.len(), want.len()));
            } else if let Some(at) = got.iter().zip(want).position(|(g, w)| g != w) {
                let count = got.iter().zip(want).filter(|(g, w)| g != w).count();
                wrong.push(format!(
                    "{what}: {count} of {} bytes differ, the first at {}: got {:#04x}, expected {:#04x}{}",
                    got.len(),
                    place(at),
                    got[at],
                    want[at],
                    if want[at] == POISON { " (must stay untouched)" } else { "" },
                ));
            }
        };
        compare("packed", &self.packed, &want.packed, &|at| {
            format!("row {}, k {}", at / (self.k / 2), at % (self.k / 2) * 2)
        });
        compare("scales", &self.scales, &want.scales, &|at| {
            let (row, group) = layout::sf_coord(at, groups);
            format!("row {row}, group {group}")
        });
        compare("row_scale", &self.row_scale, &want.row_scale, &|at| format!("row {}", at / 4));
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }
}

/// An error that names the first byte that differs, by the name of its buffer.
pub fn same_bytes(parts: &[(&str, &[u8], &[u8])]) -> Result<(), String> {
    for (what, got, want) in parts {
        if got.len() != want.len() {
            return Err(format!("{what}: {} bytes, expected {}", got.len(), want.len()));
        }
        if let Some(at) = got.iter().zip(*want).position(|(g, w)| g != w) {
            let (got, want) = (got[at], want[at]);
            return Err(format!("byte {at} of {what}: got {got:#04x}, expected {want:#04x}"));
        }
    }
    Ok(())
}

/// `f(0), f(1), ..` on all cores.
pub fn parallel<T: Send>(count: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count.div_ceil(16)).max(1);
    let share = count.div_ceil(threads).max(1);
    let mut out = Vec::with_capacity(count);
    std::thread::scope(|scope| {
        let f = &f;
        let parts: Vec<_> = (0..count)
            .step_by(share)
            .map(|start| scope.spawn(move || (start..count.min(start + share)).map(f).collect::<Vec<T>>()))
            .collect();
        for part in parts {
            out.extend(part.join().expect("a reference row panicked"));
        }
    });
    out
}

/// As [`parallel`], filling rows of `stride` elements of one allocation; `f(row, out)`.
pub fn parallel_rows<T: Send + Copy>(
    fill: T,
    rows: usize,
    stride: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) -> Vec<T> {
    let mut out = vec![fill; rows * stride];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = rows.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let f = &f;
        for (part, chunk) in out.chunks_mut((share * stride).max(1)).enumerate() {
            scope.spawn(move || {
                for (i, row) in chunk.chunks_mut(stride).enumerate() {
                    f(part * share + i, row);
                }
            });
        }
    });
    out
}
