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
