//! Cases of the kernels of a layer that are not GEMMs: routing, preparation of rows, combination.
//!
//! Every output byte is compared with a reference that is written here, apart from the kernels, over `nvfp4` where that
//! is the definition. NaN equals any NaN; poison must stay where nothing is to be written.

use kernels::launch::{Dims, Geometry, Launch};

use super::outputs::POISON;
use super::{Case, Check, Device, Value};

pub mod blocks;
pub mod combine;
pub mod dense;
pub mod logits;
pub mod prepare;
pub mod select;
pub mod slots;

/// How large the cases are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// For the emulator, in its other schedules.
    Few,
    /// For the emulator.
    Small,
    /// For a card.
    Card,
}

impl Scale {
    /// One of three.
    fn pick<T>(self, few: T, small: T, card: T) -> T {
        match self {
            Scale::Few => few,
            Scale::Small => small,
            Scale::Card => card,
        }
    }
}

/// Every case.
pub fn cases(scale: Scale) -> Vec<Case> {
    let mut cases = logits::cases(scale);
    cases.extend(select::cases(scale));
    cases.extend(slots::cases(scale));
    cases.extend(prepare::cases(scale));
    cases.extend(blocks::cases(scale));
    cases.extend(combine::cases(scale));
    cases.extend(dense::cases(scale));
    cases
}

/// Little-endian bytes.
pub fn bytes<T: bytemuck::Pod>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// Poison for `n` values.
pub fn poisoned<T>(n: usize) -> Vec<u8> {
    vec![POISON; n * size_of::<T>()]
}

/// The value that poison reads as.
pub fn poison_u32() -> u32 {
    u32::from_le_bytes([POISON; 4])
}

/// Dimensions of a launch with `grid` blocks; `columns` matters where the block follows from the row's length.
pub fn dims(launch: &Launch, grid: u32, columns: usize) -> Dims {
    match launch.geometry {
        Geometry::Fixed | Geometry::Warps(_) | Geometry::Resident => {
            Dims { grid: [grid, 1, 1], block: launch.bounds.block, shared_bytes: launch.shared_bytes }
        }
        Geometry::Rows => {
            // Both numbers of slots occur.
            let max_rows = if grid.is_multiple_of(2) { 1 } else { 1 << 20 };
            Dims { grid: [grid, 1, 1], ..launch.rows(max_rows, columns as u32, 4) }
        }
    }
}

/// Launches once with `grid` blocks.
pub fn run(
    device: &dyn Device,
    launch: &'static Launch,
    grid: u32,
    columns: usize,
    values: &mut [Value<'_>],
) -> Check {
    device.launch(launch, dims(launch, grid, columns), values)
}

/// The pointer, or null.
pub fn optional(bytes: Option<&Vec<u8>>) -> Value<'_> {
    bytes.map_or(Value::Null, |b| Value::In(b))
}

fn mismatch<T: std::fmt::Display + PartialEq>(
    what: &str,
    got: &[T],
    want: &[T],
    poison: &T,
    same: impl Fn(&T, &T) -> bool,
) -> Check {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values, expected {}", got.len(), want.len()));
    }
    let wrong = |i: &usize| !same(&got[*i], &want[*i]);
    let Some(at) = (0..got.len()).find(wrong) else { return Ok(()) };
    let count = (0..got.len()).filter(wrong).count();
    let untouched = if want[at] == *poison { " (must stay untouched)" } else { "" };
    Err(format!(
        "{what}: {count} of {} values differ, the first at {at}: got {}, expected {}{untouched}",
        got.len(),
        got[at],
        want[at]
    ))
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Compares u32.
pub fn expect_u32(what: &str, got: &[u8], want: &[u32]) -> Check {
    let got: Vec<u32> = words(got).collect();
    mismatch(what, &got, want, &poison_u32(), |a, b| a == b)
}

/// Compares bytes.
pub fn expect_u8(what: &str, got: &[u8], want: &[u8]) -> Check {
    mismatch(what, got, want, &POISON, |a, b| a == b)
}

/// Compares u16, bit by bit.
pub fn expect_u16(what: &str, got: &[u8], want: &[u16]) -> Check {
    let got: Vec<u16> = got.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    mismatch(what, &got, want, &u16::from_le_bytes([POISON; 2]), |a, b| a == b)
}

/// Compares f32 bit by bit, but for NaN.
pub fn expect_f32(what: &str, got: &[u8], want: &[f32]) -> Check {
    let got: Vec<f32> = words(got).map(f32::from_bits).collect();
    let poison = f32::from_bits(poison_u32());
    mismatch(what, &got, want, &poison, |a, b| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}

/// Grids that a kernel must cope with.
pub const GRIDS: [u32; 4] = [1, 2, 7, 300];
