//! The emulator's tensor-core arithmetic against golden vectors: B200 words and an H200-confirmed model.

use megamoe_tests::golden::Golden;
use ptx_emulator::numerics::aligned_sum::{self, HOPPER_FP8, WIDE};
use ptx_emulator::numerics::element::{Element, Format};
use ptx_emulator::numerics::nvfp4_mma::{Row, ScaleType, dot};

fn pack(codes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| codes[2 * i] | codes[2 * i + 1] << 4)
}

fn four(scales: &[u8]) -> [u8; 4] {
    [scales[0], scales[1], scales[2], scales[3]]
}

#[test]
fn b200_words() {
    let g = Golden::load();
    let [a, b, sa, sb] = ["a", "b", "sa", "sb"].map(|n| g.get(&format!("b200_nvfp4_mma/frozen.{n}")).u8());
    let [c, d] = ["c", "d"].map(|n| g.get(&format!("b200_nvfp4_mma/frozen.{n}")).u32());
    for i in 0..d.len() {
        let row = |codes: &[u8], s: &[u8]| {
            Row::new(&pack(&codes[i * 64..][..64]), four(&s[i * 4..]), ScaleType::Ue4m3)
        };
        assert_eq!(dot(&row(a, sa), &row(b, sb), c[i]), d[i], "hardware word {i}");
    }
}

#[test]
fn b200_model() {
    let g = Golden::load();
    let mut compared = 0;
    for case in ["realistic", "realistic_c0", "wide_scales", "c_dominant", "c_tiny", "any_bits"] {
        let [a, b, sa, sb] =
            ["a", "b", "sa", "sb"].map(|n| g.get(&format!("b200_nvfp4_mma/{case}.{n}")).u8());
        let [c, d] = ["c", "d_b200model"].map(|n| g.get(&format!("b200_nvfp4_mma/{case}.{n}")).u32());
        for i in 0..d.len() {
            let row = |codes: &[u8], s: &[u8]| {
                let packed: [u8; 32] = std::array::from_fn(|k| codes[i * 32 + k]);
                Row::new(&packed, four(&s[i * 4..]), ScaleType::Ue4m3)
            };
            let got = dot(&row(a, sa), &row(b, sb), c[i]);
            assert_eq!(got, d[i], "{case} {i}: {got:#010x} for {:#010x}", d[i]);
            compared += 1;
        }
    }
    assert_eq!(compared, 3600);
}

#[test]
fn hopper_wgmma() {
    let g = Golden::load();
    let mut compared = 0;
    for (ty, k, format, unit) in [("bf16", 16, Format::Bf16, WIDE), ("e4m3", 32, Format::E4m3, HOPPER_FP8)] {
        for case in ["normal", "c0", "wide"] {
            let [a, b] = ["a", "b"].map(|n| g.get(&format!("hopper_wgmma_model/{ty}.{case}.{n}")).u16());
            let [c, d] = ["c", "d"].map(|n| g.get(&format!("hopper_wgmma_model/{ty}.{case}.{n}")).u32());
            for i in 0..d.len() {
                let row = |x: &[u16]| -> Vec<Element> {
                    x[i * k..][..k].iter().map(|&v| format.decode(u32::from(v))).collect()
                };
                let got = aligned_sum::step(&row(&a), &row(&b), c[i], 2 * format.fraction(), unit);
                assert_eq!(got, d[i], "{ty} {case} {i}: {got:#010x} for {:#010x}", d[i]);
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 2400);
}
