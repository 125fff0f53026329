//! What the cases of the grouped GEMMs on tcgen05 can see, and what the kernels bring and issue.
#![allow(clippy::unwrap_used)]

use kernels::launch::{Arch, Dims, Launch, TABLE};
use kernels::operand::{BLOCK_ROWS, STEP_CODE_BYTES, STEP_SCALE_BYTES, UNIT_BYTES};
use megamoe_tests::gpu::emulator::Emulator;
use megamoe_tests::gpu::mutation::{EXHAUSTIVE, cases_of};
use megamoe_tests::gpu::tcgen05_gemm::{Form, Kind, PAIR, Problem, SINGLE};
use megamoe_tests::gpu::{Device, Sizes, Value};
use ptx_emulator::counters::{Counter, Counters};
use ptx_emulator::machine::Schedule;

fn emulator() -> Emulator {
    Emulator::new(Arch::Sm100a, Schedule::RoundRobin).unwrap()
}

/// A device that hands the kernels something else than it was given.
struct Faulty {
    device: Emulator,
    fault: Fault,
}

/// A fault of whoever prepares operands or launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// None: the cases must pass.
    None,
    /// Tiles of scales with rows and K swapped: group by group, in each all rows. Those of the tokens, of the weights.
    SwappedScales,
    SwappedWeightScales,
    /// Rows of the tokens' scales without the padding of each expert to whole tiles: the second expert's start where the
    /// first one's end.
    UnpaddedScales,
    /// Codes row by row, 32 bytes each, instead of 8 rows x 16 bytes.
    RowMajorCodes,
    /// Odd elements in the low nibbles.
    SwappedNibbles,
    /// Gate's global scale for up as well.
    SharedAlpha,
    /// No clamp.
    NoClamp,
    /// Gate rows where up rows are.
    SwappedGateUp,
}

impl Fault {
    /// The bytes that an input becomes, if it is another.
    fn bytes(self, name: &str, bytes: &[u8], inputs: &dyn Fn(&str) -> Vec<u8>) -> Option<Vec<u8>> {
        let tiles =
            |bytes: &[u8], stride: usize, offset: usize, size: usize, f: &dyn Fn(&[u8], usize) -> u8| {
                let mut out = bytes.to_vec();
                for (from, to) in bytes.chunks(stride).zip(out.chunks_mut(stride)) {
                    let from = &from[offset..][..size];
                    to[offset..][..size].iter_mut().enumerate().for_each(|(i, byte)| *byte = f(from, i));
                }
                out
            };
        // Row r and group g at 128 g + r, which holds what belongs to the place in the right order.
        let swapped = |tile: &[u8], i: usize| {
            let (group, row) = (i / BLOCK_ROWS, i % BLOCK_ROWS);
            tile[kernels::operand::scale_offset(row, group)]
        };
        let row_major = |tile: &[u8], i: usize| tile[kernels::operand::code_offset(i / 32, i % 32 * 2)];
        match (self, name) {
            (Fault::SwappedScales, "b_scales") => {
                Some(tiles(bytes, STEP_SCALE_BYTES, 0, STEP_SCALE_BYTES, &swapped))
            }
            (Fault::SwappedWeightScales, "weights") => {
                Some(tiles(bytes, UNIT_BYTES, STEP_CODE_BYTES, STEP_SCALE_BYTES, &swapped))
            }
            (Fault::UnpaddedScales, "b_scales") => {
                let words = |name: &str| -> Vec<u32> {
                    inputs(name).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
                };
                let (offsets, counts) = (words("offsets"), words("counts"));
                let steps = bytes.len() / STEP_SCALE_BYTES * BLOCK_ROWS / offsets[counts.len()] as usize;
                let mut out = vec![0; bytes.len()];
                let mut unpadded = 0;
                for (&count, &offset) in counts.iter().zip(&offsets) {
                    for row in offset as usize..(offset + count) as usize {
                        for at in (0..steps).flat_map(|step| (0..4).map(move |group| (step, group))) {
                            let byte = |row: usize| {
                                (row / BLOCK_ROWS * steps + at.0) * STEP_SCALE_BYTES
                                    + kernels::operand::scale_offset(row % BLOCK_ROWS, at.1)
                            };
                            out[byte(unpadded)] = bytes[byte(row)];
                        }
                        unpadded += 1;
                    }
                }
                Some(out)
            }
            (Fault::RowMajorCodes, "b_codes") => {
                Some(tiles(bytes, STEP_CODE_BYTES, 0, STEP_CODE_BYTES, &row_major))
            }
            (Fault::SwappedNibbles, "b_codes") => Some(bytes.iter().map(|b| b.rotate_left(4)).collect()),
            (Fault::SharedAlpha, "alpha_up") => Some(inputs("alpha")),
            (Fault::SwappedGateUp, "alpha") => Some(inputs("alpha_up")),
            (Fault::SwappedGateUp, "alpha_up") => Some(inputs("alpha")),
            _ => None,
        }
    }
}

impl Device for Faulty {
    fn describe(&self) -> String {
        format!("{:?}, {}", self.fault, self.device.describe())
    }

    fn multiprocessors(&self) -> u32 {
        self.device.multiprocessors()
    }

    fn max_elements(&self) -> usize {
        self.device.max_elements()
    }

    fn has(&self, launch: &Launch) -> bool {
        self.device.has(launch)
    }

    fn launch(&self, launch: &'static Launch, dims: Dims, values: &mut [Value<'_>]) -> Result<(), String> {
        let input = |name: &str| {
            launch.args.iter().zip(values.iter()).find_map(|(arg, value)| match value {
                Value::In(bytes) if arg.name == name => Some(bytes.to_vec()),
                _ => None,
            })
        };
        let inputs = |name: &str| input(name).unwrap();
        let others: Vec<Option<Vec<u8>>> = launch
            .args
            .iter()
            .zip(values.iter())
            .map(|(arg, value)| match value {
                Value::In(bytes) => self.fault.bytes(arg.name, bytes, &inputs),
                _ => None,
            })
            .collect();
        let mut values: Vec<Value<'_>> = values
            .iter_mut()
            .zip(&others)
            .zip(launch.args)
            .map(|((value, other), arg)| match (value, other) {
                (_, Some(other)) => Value::In(other),
                (Value::In(bytes), None) => Value::In(bytes),
                (Value::Out(bytes), None) => Value::Out(bytes),
                (Value::Null, None) => Value::Null,
                (Value::U32(v), None) => Value::U32(*v),
                (Value::F32(_), None) if self.fault == Fault::NoClamp && arg.name == "limit" => {
                    Value::F32(f32::INFINITY)
                }
                (Value::F32(v), None) => Value::F32(*v),
            })
            .collect();
        self.device.launch(launch, dims, &mut values)
    }
}

#[test]
fn wrong_layouts_and_arguments_are_caught() {
    let mut device = Faulty { device: emulator(), fault: Fault::None };
    for form in [&SINGLE, &PAIR] {
        for kind in Kind::ALL {
            let problem = Problem { limit: 1.0, ..Problem::new(kind, &[5, 40], 70, 128) };
            let swiglu = [Fault::SharedAlpha, Fault::NoClamp, Fault::SwappedGateUp];
            let any = [
                Fault::SwappedScales,
                Fault::SwappedWeightScales,
                Fault::UnpaddedScales,
                Fault::RowMajorCodes,
                Fault::SwappedNibbles,
            ];
            device.fault = Fault::None;
            problem.check(&device, form, &[0]).unwrap();
            for &fault in any.iter().chain(if kind.has_up() { &swiglu[..] } else { &[] }) {
                device.fault = fault;
                match problem.check(&device, form, &[0]) {
                    Err(message) => println!("{kind:?}, {fault:?}: {}", message.lines().next().unwrap()),
                    Ok(()) => panic!("{fault:?} goes unnoticed by {kind:?}"),
                }
            }
        }
    }
}

/// The kernels' cases, also the mega kernel's, in every schedule that mutants can be judged in.
#[test]
fn every_schedule_is_clean() {
    for name in EXHAUSTIVE {
        let device = Emulator::new(Arch::Sm100a, Schedule::parse(name).unwrap()).unwrap();
        for kernel in TABLE.iter().filter(|kernel| kernel.name.starts_with("tcgen05")) {
            for case in cases_of(kernel, &Sizes::FEW) {
                let ran = case.run(&device).unwrap_or_else(|e| panic!("{}, {name}: {e}", kernel.name));
                assert!(ran.passed != 0 && ran.too_large == 0, "{}", kernel.name);
            }
        }
    }
}

/// Counters of one launch.
fn counted(form: &Form, problem: &Problem) -> Counters {
    let device = emulator();
    problem.check(&device, form, &[0]).unwrap();
    device.seen().counters
}

/// Bulk copies bring what the tile needs and nothing else; one MMA per step and tile, N rounded to its granule.
#[test]
fn bytes_and_instructions_are_the_fewest() {
    for form in [&SINGLE, &PAIR] {
        let (blocks, granule) = (u64::from(form.blocks), 8 * form.blocks);
        for tokens in [1, 8, 9, 31, 32, 33, 64, 100, 129, 192] {
            let k = 336;
            let steps = u64::div_ceil(k as u64, 64);
            let problem = Problem::new(Kind::PlainF32, &[tokens], 128 * form.blocks as usize, k);
            let counters = counted(form, &problem);
            let columns = tokens.next_multiple_of(granule);
            // Rows of 16 bytes of scale tiles: 32, but for a row block of fewer tokens.
            let scale_rows: u32 =
                [columns.min(128), columns.saturating_sub(128)].iter().map(|n| n.min(&32)).sum();
            let needed = steps
                * (blocks * UNIT_BYTES as u64
                    + u64::from(columns) * 32
                    + blocks * u64::from(scale_rows) * 16);
            let brought = counters.get(Counter::BulkLoadBytes);
            assert_eq!(brought, needed, "{tokens} tokens, {blocks} blocks");
            let shapes: Vec<_> = counters.mma.iter().map(|((_, shape), &n)| (*shape, n)).collect();
            assert_eq!(shapes, [([128 * form.blocks, columns, 64], steps)]);
        }
    }
}
