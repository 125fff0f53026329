//! Cases of `gather_lines` against the host's own arrangement, which the cases of the GEMMs by wgmma take too.

use kernels::fragment::UNIT_K;
use kernels::gather_lines as gather;
use kernels::launch::Launch;

use super::data::hash;
use super::outputs::POISON;
use super::{Case, Check, Device, Size, Sizes, Value};

/// The kernel.
pub static KERNEL: &Launch = &gather::LAUNCH;

/// The lines of all experts' rows: row `r` is row `row_token[r]` of `b`, f16 `[_, 64 * k_units]`; the 128 bytes of a unit of all
/// rows of an expert together, 16 bytes `c` of row `i` at `c ^ i % 8`. What is in no expert stays `rest`.
pub fn arrange(
    b: &[u16],
    row_token: &[u32],
    offsets: &[u32],
    counts: &[u32],
    k_units: usize,
    rest: u16,
) -> Vec<u16> {
    let columns = UNIT_K * k_units;
    let mut lines = vec![rest; row_token.len() * columns];
    for (&offset, &rows) in offsets.iter().zip(counts) {
        let (offset, rows) = (offset as usize, rows as usize);
        let of_expert = &mut lines[offset * columns..][..rows * columns];
        for (n, line) in of_expert.chunks_exact_mut(UNIT_K).enumerate() {
            let (unit, row) = (n / rows, n % rows);
            let from = &b[row_token[offset + row] as usize * columns + unit * UNIT_K..][..UNIT_K];
            for (c, chunk) in from.chunks_exact(8).enumerate() {
                line[8 * (c ^ (row % 8))..][..8].copy_from_slice(chunk);
            }
        }
    }
    lines
}

fn check(device: &dyn Device, counts: &[u32], k_units: usize, gathered: bool, grid: Option<u32>) -> Check {
    let mut offsets = vec![];
    let mut rows = 3;
    for &count in counts {
        offsets.push(rows);
        // Rows of no expert between them.
        rows += count + count % 2;
    }
    let row_token: Vec<u32> =
        (0..rows).map(|r| if gathered { (hash(u64::from(r)) % 11) as u32 } else { r }).collect();
    let b_rows = if gathered { 11 } else { rows as usize };
    let b: Vec<u16> = (0..b_rows * UNIT_K * k_units).map(|i| hash(i as u64) as u16).collect();
    let rest = u16::from_le_bytes([POISON; 2]);
    let want = arrange(&b, &row_token, &offsets, counts, k_units, rest);
    let mut got = vec![rest; want.len()];
    let mut dims = gather::dims(device.multiprocessors());
    dims.grid[0] = grid.unwrap_or(dims.grid[0]);
    let values = &mut [
        Value::In(bytemuck::cast_slice(&b)),
        if gathered { Value::In(bytemuck::cast_slice(&row_token)) } else { Value::Null },
        Value::In(bytemuck::cast_slice(&offsets)),
        Value::In(bytemuck::cast_slice(counts)),
        Value::Out(bytemuck::cast_slice_mut(&mut got)),
        Value::U32(counts.len() as u32),
        Value::U32(k_units as u32),
    ];
    device.launch(KERNEL, dims, values)?;
    match got.iter().zip(&want).position(|(g, w)| g != w) {
        None => Ok(()),
        Some(at) => Err(format!("element {at}: {:#06x}, expected {:#06x}", got[at], want[at])),
    }
}

/// Every case.
pub fn cases(sizes: &Sizes) -> Vec<Case> {
    let shapes: &[(&[u32], usize)] = match sizes.size {
        Size::Card => &[(&[1], 1), (&[0, 9, 0, 130, 8], 33), (&[7; 256], 64), (&[1000, 3, 4000], 112)],
        Size::Emulator => &[(&[1], 1), (&[0, 9, 0, 3, 8], 17), (&[17, 2], 4), (&[1; 40], 3)],
        Size::Few => &[(&[0, 9, 0, 3, 8], 17)],
    };
    let mut case = Case::new(KERNEL, "shape");
    for &(counts, k_units) in shapes {
        for gathered in [false, true] {
            let elements = counts.iter().sum::<u32>() as usize * UNIT_K * k_units;
            case.part((counts.len(), k_units, gathered), elements, move |device| {
                check(device, counts, k_units, gathered, None)?;
                check(device, counts, k_units, gathered, Some(1))
            });
        }
    }
    vec![case]
}
