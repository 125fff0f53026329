//! The committed PTX of our two quantisation kernels loads, runs without findings, and gives the bits that crate
//! `nvfp4` defines, for both targets and under every kind of schedule.

mod common;

use common::{Kernel, text};
use nvfp4::{BLOCK, layout, quantize, swiglu};
use ptx_emulator::machine::{Argument, Schedule};

/// PTX of a target, with `name` as its entry `k`.
fn source(target: &str, name: &str) -> String {
    let path = format!("{}/../../kernels/ptx/{target}.ptx", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(&format!("entry {name}(")), "{target} has no {name}");
    text.replace(&format!("entry {name}("), "entry k(")
}

/// Values of many magnitudes, zeros, subnormals and both signs; a NaN row and an infinite row.
fn values(rows: usize, k: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out: Vec<f32> = (0..rows * k)
        .map(|_| {
            let bits = next();
            let unit = (bits >> 40) as f32 / (1 << 23) as f32 - 1.0;
            match bits & 31 {
                0 => 0.0,
                1 => -0.0,
                2 => unit * 1e-39,
                3 => unit * 100.0,
                _ => unit * 2f32.powi((bits >> 8 & 7) as i32 - 4),
            }
        })
        .collect();
    if rows > 4 {
        out[2 * k..3 * k].fill(0.0);
        out[3 * k + 17] = f32::NAN;
        out[4 * k + 5] = f32::INFINITY;
    }
    out
}

struct Buffers {
    packed: u64,
    scales: u64,
    row_scale: u64,
}

fn outputs(kernel: &mut Kernel, rows: usize, k: usize) -> Buffers {
    Buffers {
        packed: kernel.allocate(rows * k / 2),
        scales: kernel.allocate(layout::sf_len(rows, k / BLOCK)),
        row_scale: kernel.allocate(rows * 4),
    }
}

/// Compares with the reference; every byte must have been written.
fn check(kernel: &Kernel, buffers: &Buffers, x: &[f32], rows: usize, k: usize, constant: Option<f32>) {
    let groups = k / BLOCK;
    let mut scales = vec![0u8; layout::sf_len(rows, groups)];
    let mut packed = vec![0u8; rows * k / 2];
    let mut row_scales = Vec::new();
    for (r, row) in x.chunks_exact(k).enumerate() {
        let amax = quantize::amax_bits_of(row);
        let s2 = match constant {
            Some(s2) => quantize::row_scale(s2, amax),
            None => quantize::tensor_scale_from_amax_bits(amax),
        };
        let mut linear = vec![0; groups];
        quantize::quantize_row(row, s2, &mut packed[r * k / 2..(r + 1) * k / 2], &mut linear);
        for (g, &scale) in linear.iter().enumerate() {
            scales[layout::sf_offset(r, g, groups)] = scale;
        }
        row_scales.push(s2);
    }
    assert_eq!(kernel.bytes(buffers.packed, packed.len()), packed, "codes");
    assert_eq!(kernel.bytes(buffers.scales, scales.len()), scales, "scales");
    for (r, (got, want)) in kernel.u32s(buffers.row_scale, rows).iter().zip(&row_scales).enumerate() {
        let got = f32::from_bits(*got);
        assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "row {r}: {got} {want}");
    }
    for address in [buffers.packed, buffers.scales, buffers.row_scale] {
        assert!(kernel.memory.init_map(address).unwrap().iter().all(|&b| b), "something was not written");
    }
}

fn schedules() -> [Schedule; 4] {
    [Schedule::RoundRobin, Schedule::LowestWarpFirst, Schedule::HighestWarpFirst, Schedule::Seeded(1)]
}

#[test]
fn quantize_nvfp4_rows() {
    for target in ["sm_90a", "sm_100a"] {
        let source = source(target, "quantize_nvfp4_rows");
        for (schedule, (rows, k, constant)) in schedules().into_iter().zip([
            (7, 64, None),
            (130, 80, None),
            (5, 2064, None),
            (6, 256, Some(0.003)),
        ]) {
            let x: Vec<u16> = values(rows, k).into_iter().map(nvfp4::bf16::from_f32).collect();
            let exact: Vec<f32> = x.iter().map(|&b| nvfp4::bf16::to_f32(b)).collect();
            let threads = (k / BLOCK).div_ceil(32).min(16) * 32;
            let mut kernel = Kernel::new(&source, threads as u32).schedule(schedule);
            (kernel.grid, kernel.shared) = ([128, 1, 1], 128);
            let input = kernel.upload(&x.iter().flat_map(|b| b.to_le_bytes()).collect::<Vec<u8>>());
            let out = outputs(&mut kernel, rows, k);
            let count = kernel.upload_u32(&[rows as u32]);
            let constant_scale = constant.map_or(0, |s: f32| kernel.upload_u32(&[s.to_bits()]));
            let pointers = [input, out.packed, out.scales, out.row_scale, count, constant_scale];
            let numbers = [rows as u32, k as u32, k as u32];
            let arguments: Vec<Argument> =
                pointers.map(Argument::B64).into_iter().chain(numbers.map(Argument::B32)).collect();
            let findings = kernel.run(&arguments);
            assert!(findings.is_empty(), "{target} {schedule:?}:\n{}", text(&findings));
            check(&kernel, &out, &exact, rows, k, constant);
        }
    }
}

#[test]
fn swiglu_quantize_nvfp4() {
    for target in ["sm_90a", "sm_100a"] {
        let source = source(target, "swiglu_quantize_nvfp4");
        for (schedule, (rows, k, limit)) in schedules().into_iter().zip([
            (7, 64, 10.0),
            (130, 80, f32::INFINITY),
            (5, 2064, 7.0),
            (6, 256, 1.0),
        ]) {
            let (gate, up) = (values(rows, k), values(rows, k).into_iter().rev().collect::<Vec<f32>>());
            let alphas: Vec<f32> = (0..rows).map(|r| 0.5 + r as f32 / 7.0).collect();
            let x: Vec<f32> = (0..rows * k)
                .map(|i| swiglu::swiglu(gate[i] * alphas[i / k], up[i] * alphas[rows - 1 - i / k], limit))
                .collect();
            let threads = (k / BLOCK).div_ceil(32).min(16) * 32;
            let mut kernel = Kernel::new(&source, threads as u32).schedule(schedule);
            (kernel.grid, kernel.shared) = ([128, 1, 1], 128);
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            let reversed: Vec<f32> = alphas.iter().rev().copied().collect();
            let inputs = [&gate, &up, &alphas, &reversed].map(|v| kernel.upload_u32(&bits(v)));
            let out = outputs(&mut kernel, rows, k);
            let count = kernel.upload_u32(&[rows as u32]);
            let arguments: Vec<Argument> = inputs
                .into_iter()
                .chain([out.packed, out.scales, out.row_scale, count, 0])
                .map(Argument::B64)
                .chain([rows as u32, k as u32, k as u32, limit.to_bits()].map(Argument::B32))
                .collect();
            let findings = kernel.run(&arguments);
            assert!(findings.is_empty(), "{target} {schedule:?}:\n{}", text(&findings));
            check(&kernel, &out, &x, rows, k, None);
        }
    }
}
