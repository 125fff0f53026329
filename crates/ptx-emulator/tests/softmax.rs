//! A softmax compiled by Triton gives its expected output under every schedule (see `tests/data/ptx-conformance`).

mod common;

use common::{Kernel, schedules, text};
use ptx_emulator::machine::Argument;

#[test]
fn triton_softmax() {
    let source = include_str!("../../../tests/data/ptx-conformance/softmax_sm90/kernel.ptx")
        .replace("entry softmax(", "entry k(");
    let (x, expected) = (
        include_bytes!("../../../tests/data/ptx-conformance/softmax_sm90/x.bin"),
        include_bytes!("../../../tests/data/ptx-conformance/softmax_sm90/y.expected.bin"),
    );
    for schedule in schedules() {
        let mut kernel = Kernel::new(&source, 128).schedule(schedule);
        (kernel.grid, kernel.shared) = ([5, 1, 1], 16);
        let (input, output) = (kernel.upload(x), kernel.allocate(expected.len()));
        let arguments = [input, output].map(Argument::B64).into_iter();
        let arguments: Vec<_> =
            arguments.chain([Argument::B32(1000), Argument::B64(0), Argument::B64(0)]).collect();
        let findings = kernel.run(&arguments);
        assert!(findings.is_empty(), "{schedule:?}:\n{}", text(&findings));
        let got = kernel.bytes(output, expected.len());
        for (i, (g, e)) in got.chunks_exact(4).zip(expected.chunks_exact(4)).enumerate() {
            let [g, e] = [g, e].map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            assert!((g - e).abs() <= 1e-6, "{schedule:?}: element {i}: {g} != {e}");
        }
    }
}
