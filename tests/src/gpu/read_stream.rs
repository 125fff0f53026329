//! Cases of `read_stream`: the exclusive or of all words, and which thread has read what.

use kernels::launch::{Dims, Launch};
use kernels::read_stream::{LAUNCH, STEP_BYTES, THREADS};

use super::outputs::POISON;
use super::repack::bytes;
use super::{Case, Check, Device, Size, Sizes, Value};

/// The kernel's row of the launch table.
pub static KERNEL: &Launch = &LAUNCH;

fn check(device: &dyn Device, steps: u32, grid: u32) -> Check {
    let data = bytes((steps * STEP_BYTES) as usize, u64::from(steps) + 5);
    let mut want = vec![0u32; (grid * THREADS) as usize];
    for (at, word) in data.chunks_exact(4).enumerate() {
        // A step is read 16 bytes a thread, as often as it takes.
        let (step, thread) = (at / (STEP_BYTES as usize / 4), at / 4 % THREADS as usize);
        let block = step % grid as usize;
        want[block * THREADS as usize + thread] ^= u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
    }
    let mut fold = vec![POISON; want.len() * 4];
    let dims = Dims { grid: [grid, 1, 1], block: LAUNCH.bounds.block, shared_bytes: LAUNCH.shared_bytes };
    device.launch(KERNEL, dims, &mut [Value::In(&data), Value::Out(&mut fold), Value::U32(steps)])?;
    let got = fold.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    match got.zip(&want).position(|(got, want)| got != *want) {
        None => Ok(()),
        Some(at) => Err(format!("the fold of thread {} of block {}", at % 512, at / 512)),
    }
}

/// Every case.
pub fn cases(sizes: &Sizes) -> Vec<Case> {
    let shapes: &[(u32, u32)] = match sizes.size {
        Size::Card => &[(0, 1), (1, 1), (5, 2), (3, 7), (1000, 396)],
        Size::Emulator => &[(0, 1), (1, 1), (5, 2), (3, 7)],
        Size::Few => &[(0, 1), (5, 2), (1, 3)],
    };
    let mut case = Case::new(KERNEL, "fold");
    for &(steps, grid) in shapes {
        case.part((steps, grid), (steps * STEP_BYTES / 4) as usize, move |d| check(d, steps, grid));
    }
    vec![case]
}
