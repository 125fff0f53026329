//! The attributes of `cuda_std`: [`macro@kernel`] and [`macro@gpu_only`].
//!
//! Written on `proc_macro` alone: the device build compiles this crate too, and it must work offline on a
//! machine that has nothing but a compiler.

mod item;

use item::Function;
use proc_macro::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};

/// Makes an `unsafe fn` a kernel: an `.entry` of the PTX module, under the function's own name.
///
/// ```ignore
/// #[kernel(bounds = LaunchBounds::block(256).min_ctas(4))]
/// pub unsafe fn axpy(x: *const f32, y: *mut f32, a: f32, n: u32) { .. }
/// ```
///
/// * On `nvptx64` the function becomes `extern "ptx-kernel"` and `no_mangle`, and its launch bounds (a constant
///   expression of type `cuda_std::launch::LaunchBounds`) are written into the PTX as a `// @launch` line, from
///   which `cuda_builder` makes `.maxntid`, `.minnctapersm`, `.maxnreg` and
///   `.reqnctapercluster`.
/// * On the host it stays an ordinary `unsafe fn`, so that it is type-checked, linted and documented there.
///
/// Rejected at compile time: a function that is not `unsafe` (a kernel dereferences raw pointers that nothing
/// checks), a return type, generics, `async`, `const`, `extern`, a pattern as parameter, a parameter that is
/// not `Copy`, and a by-value parameter aligned to more than 16 bytes (rustc's nvptx64 ABI code asserts on it).
#[proc_macro_attribute]
pub fn kernel(args: TokenStream, input: TokenStream) -> TokenStream {
    expand_kernel(args, input).unwrap_or_else(|e| e.into_compile_error())
}

/// Keeps the body on `nvptx64` and replaces it on the host by a panic that names the function.
///
/// The signature stays, so device code type-checks everywhere; arguments count as used.
#[proc_macro_attribute]
pub fn gpu_only(_args: TokenStream, input: TokenStream) -> TokenStream {
    expand_gpu_only(input).unwrap_or_else(|e| e.into_compile_error())
}

/// A message and the place it is about.
struct Error {
    span: Span,
    message: String,
}

impl Error {
    fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into() }
    }

    /// `::core::compile_error!("message");` at the span of the error.
    fn into_compile_error(self) -> TokenStream {
        let mut text = TokenTree::Literal(Literal::string(&self.message));
        text.set_span(self.span);
        let mut tokens: Vec<TokenTree> = source("::core::compile_error!").into_iter().collect();
        tokens.push(Group::new(Delimiter::Brace, text.into()).into());
        tokens
            .into_iter()
            .map(|mut t| {
                t.set_span(self.span);
                t
            })
            .collect()
    }
}

/// Rust source written by this crate (never input) as tokens.
fn source(text: &str) -> TokenStream {
    text.parse().unwrap_or_else(|_| TokenStream::from(TokenTree::Punct(Punct::new(';', Spacing::Alone))))
}

fn expand_kernel(args: TokenStream, input: TokenStream) -> Result<TokenStream, Error> {
    let f = Function::parse(input)?;
    f.check_kernel()?;
    let bounds = parse_bounds(args)?;

    let mut out = TokenStream::new();
    // Device: the entry.
    out.extend(source("#[cfg(target_arch = \"nvptx64\")]"));
    out.extend(f.attributes.clone());
    out.extend(source("#[unsafe(no_mangle)]"));
    out.extend(f.visibility.clone());
    out.extend(source("unsafe extern \"ptx-kernel\" fn"));
    out.extend(f.after_fn());
    // Host: the same function, never called.
    out.extend(source("#[cfg(not(target_arch = \"nvptx64\"))] #[allow(clippy::too_many_arguments)]"));
    out.extend(f.attributes.clone());
    out.extend(f.visibility.clone());
    out.extend(source("unsafe fn"));
    out.extend(f.after_fn());

    for param in &f.params {
        out.extend(source("const _: () = ::cuda_std::launch::assert_kernel_param::<"));
        out.extend(param.ty.clone());
        out.extend(source(">();"));
    }
    if let Some(bounds) = bounds {
        out.extend(launch_line(&f.name, bounds));
    }
    Ok(out)
}

/// `#[kernel]` has no bounds; `#[kernel(bounds = EXPR)]` has.
fn parse_bounds(args: TokenStream) -> Result<Option<TokenStream>, Error> {
    let mut tokens = args.into_iter();
    let (Some(name), eq) = (tokens.next(), tokens.next()) else { return Ok(None) };
    let expr: TokenStream = tokens.collect();
    let is_bounds = matches!(&name, TokenTree::Ident(i) if i.to_string() == "bounds");
    let is_eq = matches!(&eq, Some(TokenTree::Punct(p)) if p.as_char() == '=');
    if is_bounds && is_eq && !expr.is_empty() {
        Ok(Some(expr))
    } else {
        Err(Error::new(name.span(), "expected `bounds = <constant LaunchBounds>`"))
    }
}

/// The `// @launch` comment, as module-level assembly with constant operands.
///
/// `global_asm!` is an item and its operands are items' constants, so the bounds get a named one.
fn launch_line(name: &Ident, bounds: TokenStream) -> TokenStream {
    let c = format!("LAUNCH_BOUNDS_OF_{}", name.to_string().to_uppercase());
    let mut out = source(&format!("const {c}: ::cuda_std::launch::LaunchBounds ="));
    out.extend(bounds);
    out.extend(source(";"));
    out.extend(source(&format!(
        "#[cfg(target_arch = \"nvptx64\")] ::core::arch::global_asm!(\
         \"// @launch {name} maxntid={{}},{{}},{{}} minnctapersm={{}} maxnreg={{}} cluster={{}},{{}},{{}}\", \
         const {c}.block[0], const {c}.block[1], const {c}.block[2], const {c}.min_ctas_per_sm, \
         const {c}.max_registers, \
         const {c}.cluster[0], const {c}.cluster[1], const {c}.cluster[2]);\
         #[cfg(not(target_arch = \"nvptx64\"))] const _: ::cuda_std::launch::LaunchBounds = {c};"
    )));
    out
}

fn expand_gpu_only(input: TokenStream) -> Result<TokenStream, Error> {
    let f = Function::parse(input)?;
    let mut host = TokenStream::new();
    for p in &f.params {
        // The parameter's own token: text parsed again would lose its hygiene inside a macro.
        host.extend(source("let _ = &"));
        host.extend([TokenTree::Ident(p.name.clone()), Punct::new(';', Spacing::Alone).into()]);
    }
    host.extend(source(&format!("::core::panic!(\"cuda_std: `{}` runs on the GPU only\")", f.name)));

    let mut out = TokenStream::new();
    out.extend(source("#[cfg(target_arch = \"nvptx64\")]"));
    out.extend(f.whole(f.body.clone()));
    out.extend(source("#[cfg(not(target_arch = \"nvptx64\"))]"));
    out.extend(f.whole(Group::new(Delimiter::Brace, host)));
    Ok(out)
}
