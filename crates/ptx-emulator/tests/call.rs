//! `.func` bodies: calls, parameters, returns, nested and guarded.

mod common;

use common::Kernel;

const FUNCTIONS: &str = "
.func (.param .b32 r) twice(.param .b32 x)
{ .reg .b32 %r<4>; ld.param.b32 %r1, [x]; shl.b32 %r2, %r1, 1; st.param.b32 [r], %r2; ret; }
.func (.param .b32 r) odd_even(.param .b32 x, .param .align 8 .b8 pair[16])
{ .reg .b32 %r<8>; .reg .pred %p<2>; .reg .b64 %d<2>;
  ld.param.b32 %r1, [x]; and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 0; @%p1 bra even;
  ld.param::func.v2.b32 {%r3, %r4}, [pair+8]; add.u32 %r5, %r3, %r4; st.param.b32 [r], %r5; ret;
even:
  { .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; call.uni (b), twice, (a); ld.param.b32 %r6, [b]; }
  st.param.b32 [r], %r6;
  ret;
}
.func quit() { exit; }
";

fn source(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n{FUNCTIONS}\n.visible .entry k(.param .u64 out)\n{{\n\
         .reg .b32 %r<8>; .reg .b64 %d<4>; .reg .pred %p<4>;\n\
         ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x; mul.wide.u32 %d1, %r0, 4; add.u64 %d0, %d0, %d1;\n\
         {body}\nst.global.u32 [%d0], %r3; ret;\n}}\n"
    )
}

fn run(body: &str) -> Vec<u32> {
    let mut kernel = Kernel::new(&source(body), 32);
    let out = kernel.upload(&[0; 128]);
    kernel.run_clean(&[out]);
    kernel.u32s(out, 32)
}

#[test]
fn calls() {
    let body = "{ .param .b32 x; .param .align 8 .b8 p[16]; .param .b32 r; st.param.b32 [x], %r0;\n\
                st.param.v2.b32 [p], {%r0, %r0}; add.u32 %r1, %r0, 100; st.param.v2.b32 [p+8], {%r1, %r0};\n\
                call.uni (r), odd_even, (x, p); ld.param.b32 %r3, [r]; }";
    let want: Vec<u32> = (0..32).map(|i| if i % 2 == 0 { 2 * i } else { 2 * i + 100 }).collect();
    assert_eq!(run(body), want);
}

#[test]
fn guarded_and_repeated_calls() {
    let body = "mov.u32 %r3, %r0; mov.u32 %r4, 0; setp.lt.u32 %p1, %r0, 7;\n\
                again: { .param .b32 x; .param .b32 r; st.param.b32 [x], %r3; st.param.b32 [r], %r3;\n\
                @%p1 call (r), twice, (x); ld.param.b32 %r3, [r]; }\n\
                add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 3; @%p2 bra again;";
    let want: Vec<u32> = (0..32).map(|i| if i < 7 { 8 * i } else { i }).collect();
    assert_eq!(run(body), want);
    let body = "mov.u32 %r3, 5; setp.ge.u32 %p1, %r0, 4; @%p1 call quit;";
    let want: Vec<u32> = (0..32).map(|i| if i < 4 { 5 } else { 0 }).collect();
    assert_eq!(run(body), want);
}

#[test]
fn what_is_not_modelled_is_an_error() {
    let recursive = "\n.func f() { call g; ret; }\n.func g() { call f; ret; }\n";
    for (body, functions, why) in [
        ("call f;", recursive, "recursion"),
        ("call missing;", "", "no body"),
        ("call twice;", "", "another number of parameters"),
        ("call (%r1), twice, (%r0);", "", "not a .param variable"),
        ("st.param.b32 [out], %r0;", "", "read-only"),
    ] {
        let text = source(body).replace(FUNCTIONS, &format!("{FUNCTIONS}{functions}"));
        let error = ptx_emulator::program::load(&text).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(why), "{body}: {error}");
    }
}

/// `f(x) = x + 1`, `2 x`, `x * x` in registers.
const IN_REGISTERS: &str = "
.func (.reg .b32 r) inc(.reg .b32 x) { add.u32 r, x, 1; ret; }
.func (.reg .b32 r) dbl(.reg .b32 x) { shl.b32 r, x, 1; }
.func (.reg .b32 r) square(.reg .b32 x) { .reg .pred %p; setp.eq.u32 %p, x, 3; @%p bra three; mul.lo.u32 r, x, x; ret;
three: mov.b32 r, 9; ret; }
.func (.reg .b32 r, .reg .b32 s) pair(.reg .b32 x, .reg .b32 y) { mov.b32 r, y; mov.b32 s, x; ret; }
.global .u64 table[4] = {inc, dbl, square, 0};
";

fn in_registers(body: &str) -> Vec<u32> {
    let source = source(body).replace(".visible .entry", &format!("{IN_REGISTERS}.visible .entry"));
    let mut kernel = Kernel::new(&source, 32);
    let out = kernel.upload(&[0; 128]);
    kernel.run_clean(&[out]);
    kernel.u32s(out, 32)
}

#[test]
fn registers_as_parameters() {
    let body = "call (%r4), inc, (%r0); call.uni (%r5), dbl, (7); call (%r6, %r7), pair, (%r4, %r5);\n\
                mad.lo.u32 %r3, %r6, 1000, %r7;";
    assert_eq!(in_registers(body), (0..32).map(|x| 14_000 + x + 1).collect::<Vec<u32>>());
}

/// Every lane calls what its number says, through a list, a prototype and a table.
#[test]
fn calls_through_pointers() {
    let pick = "rem.u32 %r1, %r0, 3; setp.eq.u32 %p1, %r1, 1; setp.eq.u32 %p2, %r1, 2;\n\
                mov.u64 %d2, inc; @%p1 mov.u64 %d2, dbl; @%p2 mov.u64 %d2, square;\n";
    let list = "T: .calltargets inc, dbl, square;\n call (%r3), %d2, (%r0), T;";
    let prototype = "T: .callprototype (.reg .b32 _) _ (.reg .b32 _);\n call (%r3), %d2, (%r0), T;";
    let table = "mov.u64 %d3, table; mul.wide.u32 %d2, %r1, 8; add.u64 %d2, %d2, %d3; ld.global.u64 %d2, [%d2];\n\
                 call (%r3), %d2, (%r0), table;";
    let wanted: Vec<u32> = (0..32).map(|x| [x + 1, 2 * x, x * x][x as usize % 3]).collect();
    for call in [list, prototype, table] {
        assert_eq!(in_registers(&format!("{pick}{call}")), wanted, "{call}");
        // Guarded: the others keep what they have.
        let guarded = call.replace("call (", "setp.lt.u32 %p3, %r0, 9; mov.b32 %r3, 77; @%p3 call (");
        let wanted: Vec<u32> = (0..32).map(|x| if x < 9 { wanted[x] } else { 77 }).collect();
        assert_eq!(in_registers(&format!("{pick}{guarded}")), wanted, "{call}");
    }
}

#[test]
fn pointers_to_nothing() {
    let body = "T: .calltargets inc, dbl;\n mov.u64 %d2, square; call (%r3), %d2, (%r0), T;";
    let source = source(body).replace(".visible .entry", &format!("{IN_REGISTERS}.visible .entry"));
    let mut kernel = Kernel::new(&source, 32);
    let out = kernel.upload(&[0; 128]);
    let found = kernel.run(&[ptx_emulator::machine::Argument::B64(out)]);
    common::only(&found, ptx_emulator::check::Class::Undefined);
    for (body, why) in [
        ("call (%r3), %d2, (%r0), nowhere;", "not a list of functions"),
        ("T: .calltargets inc, unknown;\n call (%r3), %d2, (%r0), T;", "no body"),
        ("call (%r3), inc, (%r0, %r0);", "another number of parameters"),
    ] {
        let source = self::source(body).replace(".visible .entry", &format!("{IN_REGISTERS}.visible .entry"));
        let error = ptx_emulator::program::load(&source).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(why), "{body}: {error}");
    }
}

/// What `assert` compiles to: a trap that says which.
#[test]
fn failed_assertions() {
    let strings = ".extern .func __assertfail (.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e) .noreturn;\n\
        .global .align 1 .b8 what[6] = {120, 32, 60, 32, 55, 0};\n.global .align 1 .b8 file[4] = {97, 46, 99, 0};\n\
        .const .align 1 .b8 name[2] = {107, 0};\n";
    let body = |limit: u32| {
        format!(
            "mov.u32 %r3, 1; setp.lt.u32 %p1, %r0, {limit}; @%p1 bra fine;\n\
             {{ .param .b64 q0; .param .b64 q1; .param .b32 q2; .param .b64 q3; .param .b64 q4;\n\
             mov.u64 %d2, what; cvta.global.u64 %d2, %d2; st.param.b64 [q0], %d2; mov.u64 %d2, file; cvta.global.u64 %d2, %d2;\n\
             st.param.b64 [q1], %d2; st.param.b32 [q2], 42; mov.u64 %d2, name; cvta.const.u64 %d2, %d2; st.param.b64 [q3], %d2;\n\
             st.param.b64 [q4], 1; call.uni __assertfail, (q0, q1, q2, q3, q4); }}\n trap;\n fine:"
        )
    };
    let with = |body: &str| source(body).replace(".visible .entry", &format!("{strings}.visible .entry"));
    let run = |limit: u32| {
        let mut kernel = Kernel::new(&with(&body(limit)), 32);
        let out = kernel.upload(&[0; 128]);
        (kernel.run(&[ptx_emulator::machine::Argument::B64(out)]), kernel.u32s(out, 32))
    };
    let (findings, words) = run(32);
    assert!(findings.is_empty() && words == [1; 32], "{findings:?}");
    let (findings, _) = run(7);
    let found = common::only(&findings, ptx_emulator::check::Class::Trap);
    assert_eq!(found.message, "assertion `x < 7` failed at a.c:42, in k");
    assert_eq!(found.place.thread, 7);
    // Arguments that are no variables are refused.
    let wrong = with(&body(7)).replace("(q0, q1, q2, q3, q4)", "(q0, q1, q2, q3, 1)");
    let error = ptx_emulator::program::load(&wrong).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("not a .param variable"), "{error}");
}
