use kernels::expert_list::Entry;
use kernels::operand::{self, BlockOrder};
use kernels::tcgen05_gemm::layout::{self, Form as _};
use kernels::tcgen05_gemm::tiles;

use super::tables::{SHAPES, report};
use super::*;

/// The numbers here are the kernels' own.
#[test]
fn constants_are_the_kernels() {
    assert_eq!(
        [UNIT_BYTES, BLOCK_ROWS, STEP_K, ROW_BYTES],
        [operand::UNIT_BYTES, operand::BLOCK_ROWS, operand::STEP_K, operand::ROW_STEP_BYTES]
            .map(|n| n as u32)
    );
    assert_eq!(ROW_SCALED_BYTES, UNIT_BYTES / BLOCK_ROWS);
    assert_eq!([WIDTH, START_ALIGN, CHUNK], [layout::WIDTH, layout::START_ALIGN, layout::CHUNK]);
    assert_eq!([SINGLE.blocks, PAIR.blocks], [layout::Single::BLOCKS, layout::Pair::BLOCKS]);
    assert_eq!([columns(&SINGLE, 1), columns(&PAIR, 1)], [layout::Single::GRANULE, layout::Pair::GRANULE]);
    for shape in &SHAPES {
        let blocks = [
            BlockOrder::GateUp.row_blocks(shape.intermediate as usize),
            BlockOrder::Plain.row_blocks(shape.hidden as usize),
        ];
        let steps = [shape.hidden, shape.intermediate].map(|k| operand::steps(k as usize));
        for product in 0..2 {
            assert_eq!(shape.product(product), (blocks[product] as u32, steps[product] as u32));
        }
    }
}

#[test]
fn ranges_are_the_kernels() {
    for rows in 0..2000u32 {
        let count = rows.div_ceil(WIDTH);
        let entry = Entry { expert: 0, first_row: 0, rows, end: count };
        let want: Vec<_> =
            (0..count).map(|i| tiles::Tile::of(entry, count, i)).map(|t| (t.first, t.rows)).collect();
        assert_eq!(ranges(rows).collect::<Vec<_>>(), want);
    }
}

/// The bytes that the emulator counts in `bytes_and_instructions_are_the_fewest`, of one block and one step.
#[test]
fn bytes_of_a_step() {
    let single = [(1, 4992), (32, 6144), (33, 6400), (100, 8448), (129, 9600), (192, 11_776)];
    let pair = [(1, 5120), (32, 5632), (33, 5888), (100, 6912), (129, 7680), (192, 8704)];
    for (form, list) in [(&SINGLE, single), (&PAIR, pair)] {
        for (rows, bytes) in list {
            assert_eq!(step_bytes(form, 0, rows), bytes);
        }
    }
    // From the middle of a row block on, the scales lie in two.
    assert_eq!(step_bytes(&SINGLE, 64, 100), 4608 + 3328 + 1024);
    assert_eq!([1, 112, 120, 192].map(|rows| mma_cycles(&SINGLE, rows)), [56.0, 56.0, 60.0, 96.0]);
}

#[test]
fn rows_are_binomial() {
    for (trials, p) in [(1, 6.0 / 256.0), (8, 0.125), (65_536, 6.0 / 384.0), (8192, 0.75)] {
        let list = binomial(trials, p);
        let moment = |k: i32| list.iter().map(|&(n, q)| f64::from(n).powi(k) * q).sum::<f64>();
        let mean = f64::from(trials) * p;
        assert!((moment(0) - 1.0).abs() < 1e-9 && (moment(1) - mean).abs() < 1e-9 * mean.max(1.0));
        assert!((moment(2) - mean * mean - mean * (1.0 - p)).abs() < 1e-6 * mean * mean.max(1.0));
    }
    let [flash, pro] = &SHAPES;
    assert!((flash.touched(1) - 6.0).abs() < 1e-9 && (pro.touched(1) - 6.0).abs() < 1e-9);
    let expected = 48.0 * (1.0 - 0.875f64.powi(8));
    assert!((pro.touched(8) - expected).abs() < 1e-9);
}

#[test]
fn launches_in_full() {
    let pro = &SHAPES[1];
    // Eight tokens, all of an expert's rows in one tile of 8 columns: weights of 48 * (1 - 0.875^8) experts.
    let work = pro.work(0, &SINGLE, 8);
    let touched = pro.touched(8);
    assert!((work.tiles - touched * 48.0).abs() < 1e-6);
    assert!((work.mma - work.tiles * 112.0 * 56.0).abs() < 1e-3);
    assert!((work.brought - work.tiles * 112.0 * f64::from(4608 + 256 + 128)).abs() < 1.0);
    assert!((work.epilogue - work.tiles * 1275.0).abs() < 1e-3);
    let weights = touched * 2.0 * 3072.0 * 7168.0 * 0.5625;
    let rows = 48.0 * (7168.0 + 3072.0) * 0.5625;
    assert!((work.memory - weights - rows).abs() < 1.0);
    let [memory, mma, ..] = work.limits(&SINGLE, 64.0);
    assert!((memory - work.memory / 8e12).abs() < 1e-12);
    assert!((mma - (work.tiles / 148.0).ceil() * 112.0 * 56.0 / 1.85e9).abs() < 1e-12);
    // Rows padded to 128 for each expert: 431 blocks of 7168 f32 in chunks of 1280 columns at 8192 tokens, 48 at eight.
    assert_eq!((pro.chunks(8192), pro.chunks(8)), (6, 1));
    assert!(pro.mega(8192, 64.0).is_none());
    // Eight tokens wait for memory; six launches.
    let both: f64 = (0..2).map(|i| pro.work(i, &SINGLE, 8).memory / 8e12).sum();
    let short = 8.0 * 4.0 * 7168.0 + 48.0 * 7168.0 * 0.5625 + 48.0 * 4.0 * 7168.0 + 8.0 * 2.0 * 7168.0;
    assert!((pro.split(&SINGLE, 8, 64.0) - both - short / 8e12 - 6.0 * LAUNCH).abs() < 1e-10);
}

/// `cargo xtask model` prints what the document holds.
#[test]
fn the_document_holds_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/blackwell.md");
    let text = std::fs::read_to_string(path).expect("docs/blackwell.md");
    for line in report().lines() {
        assert!(text.lines().any(|l| l == line), "docs/blackwell.md lacks {line}");
    }
}
