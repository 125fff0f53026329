//! Cases of the weights' repacking: `repack_nvfp4` against the host's `fragment::pack`, `repack_nvfp4_blocks` against the
//! formulas of its layout.

use kernels::fragment::{self, RowMajor, RowOrder, k_units, matrix_bytes};
use kernels::launch::Launch;
use kernels::operand::{self, BlockOrder};
use kernels::{repack_nvfp4, repack_nvfp4_blocks};

use super::data::hash;
use super::outputs::POISON;
use super::{Case, Check, Device, Size, Sizes, Value};

/// Into fragment order.
pub static FRAGMENTS: &Launch = &repack_nvfp4::LAUNCH;
/// Into blocks.
pub static BLOCKS: &Launch = &repack_nvfp4_blocks::LAUNCH;

/// `n` bytes that look random.
pub fn bytes(n: usize, salt: u64) -> Vec<u8> {
    (0..n.div_ceil(8) as u64).flat_map(|i| hash(i ^ salt << 40).to_le_bytes()).take(n).collect()
}

/// Where a row of a block comes from: whether it is up's, and its feature.
fn block_row(with_up: bool, block: usize, row: usize) -> (bool, usize) {
    if !with_up {
        return (false, 128 * block + row);
    }
    // Of 32 rows: 8 of gate, 8 of up for the even features of 16, then for the odd ones.
    let (sixteen, eight, i) = (row / 32, row / 8 % 4, row % 8);
    (eight % 2 == 1, 64 * block + 16 * sixteen + 2 * i + usize::from(eight >= 2))
}

/// Units of 128 rows x 64 columns: codes, eight rows x 16 bytes together, and 32_4_4 scales.
fn blocks(gate: RowMajor<'_>, up: Option<RowMajor<'_>>, features: usize, k: usize) -> Vec<u8> {
    let (row_blocks, steps) = (features.div_ceil(if up.is_some() { 64 } else { 128 }), k.div_ceil(64));
    let mut out = vec![0; row_blocks * steps * 4608];
    for (block, row) in (0..row_blocks).flat_map(|block| (0..128).map(move |row| (block, row))) {
        let (is_up, feature) = block_row(up.is_some(), block, row);
        if feature >= features {
            continue;
        }
        let from = if is_up { up.unwrap_or(gate) } else { gate };
        for byte in 0..k / 2 {
            let (step, at) = (byte / 32, byte % 32);
            let to = row / 8 * 256 + at / 16 * 128 + row % 8 * 16 + at % 16;
            out[(block * steps + step) * 4608 + to] = from.packed[feature * k / 2 + byte];
        }
        for g in 0..k / 16 {
            let to = 4096 + row % 32 * 16 + row / 32 * 4 + g % 4;
            out[(block * steps + g / 4) * 4608 + to] = from.scales[feature * k / 16 + g];
        }
    }
    out
}

fn check(
    device: &dyn Device,
    kernel: &'static Launch,
    features: usize,
    k: usize,
    with_up: bool,
    grid: Option<u32>,
) -> Check {
    let (packed, scales) = (bytes(features * k / 2, 1), bytes(features * k / 16, 2));
    let (up_packed, up_scales) = (bytes(features * k / 2, 3), bytes(features * k / 16, 4));
    let gate = RowMajor { packed: &packed, scales: &scales };
    let up = with_up.then_some(RowMajor { packed: &up_packed, scales: &up_scales });
    let sms = device.multiprocessors();
    let (want, mut dims) = if kernel.name == FRAGMENTS.name {
        let order = if with_up { RowOrder::GateUp } else { RowOrder::Plain };
        let mut want = vec![0; matrix_bytes(order.row_tiles(features), k_units(k))];
        fragment::pack(gate, up, features, k, &mut want);
        (want, repack_nvfp4::dims(order, features as u32, k as u32, sms))
    } else {
        let order = if with_up { BlockOrder::GateUp } else { BlockOrder::Plain };
        let want = blocks(gate, up, features, k);
        assert_eq!(want.len(), operand::matrix_bytes(order.row_blocks(features), operand::steps(k)));
        (want, repack_nvfp4_blocks::dims(order, features as u32, k as u32, sms))
    };
    let mut got = vec![POISON; want.len()];
    dims.grid[0] = grid.unwrap_or(dims.grid[0]);
    let optional = |bytes| if with_up { Value::In(bytes) } else { Value::Null };
    let values = &mut [
        Value::In(&packed),
        Value::In(&scales),
        optional(&up_packed),
        optional(&up_scales),
        Value::Out(&mut got),
        Value::U32(features as u32),
        Value::U32(k as u32),
    ];
    device.launch(kernel, dims, values)?;
    match got.iter().zip(&want).position(|(g, w)| g != w) {
        None => Ok(()),
        Some(at) => Err(format!("byte {at} of {}: {:#04x}, expected {:#04x}", want.len(), got[at], want[at])),
    }
}

/// Every case.
pub fn cases(sizes: &Sizes) -> Vec<Case> {
    let shapes: &[(usize, usize)] = match sizes.size {
        Size::Card => &[(1, 16), (7, 80), (16, 64), (23, 2880), (3072, 7168), (7168, 3072), (2304, 5120)],
        Size::Emulator => &[(1, 16), (7, 80), (16, 64), (23, 208), (150, 320)],
        Size::Few => &[(23, 208)],
    };
    let mut cases = Vec::new();
    for kernel in [FRAGMENTS, BLOCKS] {
        let mut case = Case::new(kernel, "shape");
        for &(features, k) in shapes {
            for with_up in [false, true] {
                let elements = 2 * features * k;
                case.part((features, k, with_up), elements, move |device| {
                    check(device, kernel, features, k, with_up, None)?;
                    check(device, kernel, features, k, with_up, Some(1))
                });
            }
        }
        cases.push(case);
    }
    cases
}
