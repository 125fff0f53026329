//! Cases of `repack_nvfp4`, against the host's `fragment::pack`.

use kernels::fragment::{self, RowMajor, RowOrder, k_units, matrix_bytes};
use kernels::launch::Launch;
use kernels::repack_nvfp4::{LAUNCH, dims};

use super::data::hash;
use super::outputs::POISON;
use super::{Case, Check, Device, Size, Sizes, Value};

/// The kernel's row of the launch table.
pub static KERNEL: &Launch = &LAUNCH;

/// `n` bytes that look random.
pub fn bytes(n: usize, salt: u64) -> Vec<u8> {
    (0..n.div_ceil(8) as u64).flat_map(|i| hash(i ^ salt << 40).to_le_bytes()).take(n).collect()
}

fn check(device: &dyn Device, features: usize, k: usize, with_up: bool, grid: Option<u32>) -> Check {
    let (packed, scales) = (bytes(features * k / 2, 1), bytes(features * k / 16, 2));
    let (up_packed, up_scales) = (bytes(features * k / 2, 3), bytes(features * k / 16, 4));
    let order = if with_up { RowOrder::GateUp } else { RowOrder::Plain };
    let mut want = vec![0; matrix_bytes(order.row_tiles(features), k_units(k))];
    let up = with_up.then_some(RowMajor { packed: &up_packed, scales: &up_scales });
    fragment::pack(RowMajor { packed: &packed, scales: &scales }, up, features, k, &mut want);
    let mut got = vec![POISON; want.len()];
    let mut dims = dims(order, features as u32, k as u32, device.multiprocessors());
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
    device.launch(KERNEL, dims, values)?;
    match got.iter().zip(&want).position(|(g, w)| g != w) {
        None => Ok(()),
        Some(at) => Err(format!("byte {at} of {}: {:#04x}, expected {:#04x}", want.len(), got[at], want[at])),
    }
}

/// Every case.
pub fn cases(sizes: &Sizes) -> Vec<Case> {
    let shapes: &[(usize, usize)] = match sizes.size {
        Size::Card => &[(1, 16), (7, 80), (16, 64), (23, 2880), (3072, 7168), (7168, 3072), (2304, 5120)],
        Size::Emulator => &[(1, 16), (7, 80), (16, 64), (23, 208), (40, 320)],
        Size::Few => &[(23, 208)],
    };
    let mut case = Case::new(KERNEL, "shape");
    for &(features, k) in shapes {
        for with_up in [false, true] {
            let elements = 2 * features * k;
            case.part((features, k, with_up), elements, move |device| {
                check(device, features, k, with_up, None)?;
                check(device, features, k, with_up, Some(1))
            });
        }
    }
    vec![case]
}
