//! The 128x4 scale-factor layout against torchao's `to_blocked` and torch's own, on all 24 shapes, both ways.

use megamoe_tests::golden::Golden;
use nvfp4::layout;

#[test]
fn all_shapes_both_ways() {
    let golden = Golden::load();
    let cases = golden.cases("swizzle/in_", "");
    assert_eq!(cases.len(), 24);
    for case in cases {
        let input = golden.get(&format!("swizzle/in_{case}"));
        let [rows, groups] = input.dims();
        let input = input.u8();
        assert!(!input.contains(&0), "{case}: 0 marks padding");
        let want = golden.get(&format!("swizzle/out_{case}")).shaped(&[layout::sf_len(rows, groups)]).u8();

        let mut got = vec![0xee; want.len()];
        layout::swizzle(input, rows, groups, &mut got);
        assert_eq!(got, want, "{case}");

        let mut back = vec![0xee; input.len()];
        layout::unswizzle(want, rows, groups, &mut back);
        assert_eq!(back, input, "{case}");

        // Byte by byte: a non-zero byte is where its coordinate says, a zero byte is padding.
        for (offset, &byte) in want.iter().enumerate() {
            let (row, group) = layout::sf_coord(offset, groups);
            if row < rows && group < groups {
                assert_eq!(byte, input[row * groups + group], "{case}: offset {offset}");
            } else {
                assert_eq!(byte, 0, "{case}: padding at {offset}");
            }
        }
    }
}
