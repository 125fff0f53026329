//! Kernels that ran on an H200 (driver 580.159.04), with its outputs: the same words are expected here.
//!
//! `cases.txt` has a line for each: name, threads, bytes of shared memory, and, for tensor copies, the map as
//! `cuTensorMapEncodeTiled` or `cuTensorMapEncodeIm2col` took it. A tensor copy without an input file reads the numbers
//! 1, 2, 3 .. in 16 bits each; what its output file does not have is as it was before, 0xCD.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, text};
use ptx_emulator::machine::Argument;
use ptx_emulator::ops::tensor_map::{Element, Fill, Interleave, Swizzle, TensorMap};

/// A map from the numbers of a line: mode, type, rank, dims, strides, box or corners with channels and pixels,
/// traversal strides, interleave, swizzle, fill.
fn map(words: &[&str], address: u64) -> TensorMap {
    let (mode, words) = words.split_first().unwrap();
    let mut numbers = words.iter().map(|w| w.parse::<i64>().unwrap());
    let mut next = || numbers.next().unwrap();
    let element = Element::from_driver(next() as u32).unwrap();
    let rank = next() as usize;
    let mut list = |n: usize| (0..n).map(|_| next()).collect::<Vec<i64>>();
    let (dims, strides) = (list(rank), list(rank - 1));
    let unsigned = |l: &[i64]| l.iter().map(|&v| v as u64).collect::<Vec<u64>>();
    let narrow = |l: &[i64]| l.iter().map(|&v| v as u32).collect::<Vec<u32>>();
    let ones = vec![1; rank];
    let mut map = TensorMap::new(element, address, &unsigned(&dims), &unsigned(&strides), &ones);
    if *mode == "im2col" {
        let corners = |l: Vec<i64>| l.iter().map(|&v| v as i32).collect::<Vec<i32>>();
        let (lower, upper) = (corners(list(rank - 2)), corners(list(rank - 2)));
        let sizes = list(2);
        map = map.im2col(&lower, &upper, sizes[0] as u32, sizes[1] as u32);
    } else {
        map.box_dims = narrow(&list(rank));
    }
    map.element_strides = narrow(&list(rank));
    let modes = list(3);
    map.interleave = [Interleave::None, Interleave::B16, Interleave::B32][modes[0] as usize];
    // The H200 takes one slice of the last but one dimension, whatever the box says.
    if map.interleave != Interleave::None {
        map.box_dims[rank - 2] = 1;
    }
    map.swizzle = Swizzle::from_driver(modes[1] as u32).unwrap();
    map.fill = if modes[2] == 1 { Fill::Nan } else { Fill::Zero };
    map
}

#[test]
fn same_words() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/h200-forms");
    let read = |name: &str, kind: &str| std::fs::read(data.join(format!("{name}.{kind}"))).unwrap();
    let cases = std::fs::read_to_string(data.join("cases.txt")).unwrap();
    let mut failed = Vec::new();
    for line in cases.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words[0];
        let source = String::from_utf8(read(name, "ptx")).unwrap();
        let mut k = Kernel::new(&source, words[1].parse().unwrap());
        k.shared = words[2].parse().unwrap();
        let is_copy = words.len() > 3;
        let mut want = read(name, "out");
        let mut input = std::fs::read(data.join(format!("{name}.in"))).unwrap_or_else(|_| {
            (0..65_536u32).flat_map(|i| (i as u16).wrapping_add(1).to_le_bytes()).collect()
        });
        if is_copy {
            want.resize(k.shared as usize - 64, 0xcd);
            // Interleaved boxes reach beyond the tensor's last dimension.
            input.resize(input.len() + 4096, 0);
        }
        let (input, out) = (k.upload(&input), k.upload(&vec![0xcd; want.len()]));
        let map =
            if words.len() > 3 { map(&words[3..], input).encode().unwrap().to_vec() } else { vec![0; 128] };
        // Copies leave what they do not write poisoned or as it was: only the words count.
        let findings = k.run(&[Argument::B64(input), Argument::B64(out), Argument::Bytes(map)]);
        let got = k.bytes(out, want.len());
        let wrong = got.chunks(4).zip(want.chunks(4)).filter(|(a, b)| a != b).count();
        if wrong > 0 || !is_copy && !findings.is_empty() {
            let first = got.chunks(4).zip(want.chunks(4)).position(|(a, b)| a != b).unwrap_or_default();
            failed.push(format!(
                "{name}: {wrong} of {} words differ, first {first}: {:x?} instead of {:x?}\n{}",
                want.len() / 4,
                &got[first * 4..][..4],
                &want[first * 4..][..4],
                text(&findings)
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
