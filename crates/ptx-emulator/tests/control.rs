//! Blocks behind debug directives, `brx.idx` (PTX ISA 9.7.12), and stores of one value by all threads.

mod common;

use common::Kernel;

/// A kernel in which every thread stores `%r3`.
fn source(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 out)\n{{\n\
         .reg .b32 %r<8>; .reg .b64 %d<4>; .reg .pred %p<4>;\n\
         ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x; mul.wide.u32 %d1, %r0, 4; add.u64 %d0, %d0, %d1;\n\
         {body}\nst.global.u32 [%d0], %r3; ret;\n}}\n.file 1 \"k.py\"\n.section .debug_abbrev\n{{\n.b8 1\n}}\n"
    )
}

fn run(body: &str) -> Vec<u32> {
    let mut kernel = Kernel::new(&source(body), 64);
    let out = kernel.upload(&[0; 256]);
    kernel.run_clean(&[out]);
    kernel.u32s(out, 64)
}

/// A `.loc` ends with its line: the braces that follow hold code.
#[test]
fn a_block_behind_loc_is_code() {
    let block = "\n{ .reg .b32 t; add.u32 t, %r0, 5; mov.b32 %r3, t; }";
    let want: Vec<u32> = (0..64).map(|i| i + 5).collect();
    for loc in
        [".loc 1 7 0", ".loc 1 7 0, function_name $L__info_string0, inlined_at 1 12 3", ".pragma \"x\";"]
    {
        assert_eq!(run(&format!("mov.u32 %r3, 0;\n{loc}{block}")), want, "{loc}");
    }
    // Labels and directives inside of such a block.
    let body = "mov.u32 %r3, 0;\n.loc 1 2 3\n{\n.reg .pred done;\n.loc 1 3 3\nagain:\n.loc 1 4 3\n\
                add.u32 %r3, %r3, 1; setp.ge.u32 done, %r3, 9;\n@!done bra.uni again;\n}";
    assert_eq!(run(body), [9; 64]);
}

const TABLE: &str = "table: .branchtargets first, second, third;\nmov.u32 %r3, 7;\n";

#[test]
fn branch_tables() {
    // All of a warp to one target; every lane to another one; back into a loop.
    let arms = "first: mov.u32 %r3, 10; bra.uni done;\nsecond: mov.u32 %r3, 11; bra.uni done;\n\
                third: mov.u32 %r3, 12;\ndone: add.u32 %r3, %r3, %r0;";
    let warps = format!("{TABLE} shr.u32 %r1, %r0, 5; brx.idx.uni %r1, table;\n{arms}");
    assert_eq!(run(&warps), (0..64).map(|i| 10 + i / 32 + i).collect::<Vec<u32>>());
    let lanes = format!("{TABLE} rem.u32 %r1, %r0, 3; brx.idx %r1, table;\n{arms}");
    assert_eq!(run(&lanes), (0..64).map(|i| 10 + i % 3 + i).collect::<Vec<u32>>());
    let guarded = format!(
        "{TABLE} rem.u32 %r1, %r0, 3; setp.lt.u32 %p1, %r0, 40; @%p1 brx.idx %r1, table;\nbra.uni done;\n{arms}"
    );
    let want = |i: u32| if i < 40 { 10 + i % 3 + i } else { 7 + i };
    assert_eq!(run(&guarded), (0..64).map(want).collect::<Vec<u32>>());
    let walk = format!(
        "{TABLE} mov.u32 %r1, 0;\nnext: brx.idx %r1, table;\nfirst: mov.u32 %r1, 2; bra.uni next;\n\
         second: add.u32 %r3, %r3, 100; bra.uni done;\nthird: add.u32 %r3, %r3, 1000; mov.u32 %r1, 1; bra.uni next;\n\
         done:"
    );
    assert_eq!(run(&walk), [1107; 64]);
}

#[test]
fn an_index_outside_of_the_table_is_a_finding() {
    let body = format!("{TABLE} brx.idx %r0, table;\nfirst:\nsecond:\nthird: mov.u32 %r3, 1;");
    let mut kernel = Kernel::new(&source(&body), 64);
    let out = kernel.upload(&[0; 256]);
    let findings = kernel.run(&[ptx_emulator::machine::Argument::B64(out)]);
    assert!(findings.iter().any(|f| f.message.contains("of a branch with 3 targets")), "{findings:?}");
    for (body, why) in [
        ("brx.idx %r0, nowhere;", "not the name of a .branchtargets"),
        ("t: .branchtargets missing;\nbrx.idx %r0, t;", "label `missing` is not in scope"),
    ] {
        let error =
            ptx_emulator::program::load(&source(body)).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(why), "{body}: {error}");
    }
}

/// All threads of a CTA store one value to one place: no race, whichever is last. Two values are one.
#[test]
fn stores_of_one_value() {
    let body = |value: &str| {
        format!(
            "mov.u32 %r3, 0; mov.u32 %r4, {value}; st.global.u32 [%d0], 0; ld.param.u64 %d2, [out];\n\
             st.global.u32 [%d2+256], %r4;"
        )
    };
    for (value, races) in [("7", false), ("%r0", true)] {
        let mut kernel = Kernel::new(&source(&body(value)), 64);
        let out = kernel.upload(&[0; 260]);
        let findings = kernel.run(&[ptx_emulator::machine::Argument::B64(out)]);
        assert_eq!(
            findings.iter().any(|f| f.class == ptx_emulator::check::Class::Race),
            races,
            "{findings:?}"
        );
    }
}
