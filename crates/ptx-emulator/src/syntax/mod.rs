//! PTX text: lexer, syntax tree, parser and printer.
//!
//! The tree is purely syntactic: every dotted opcode parses; whether an instruction and its modifiers are
//! modelled is decided by [`crate::decode`], which names line and text of what it does not know.

pub mod ast;
mod lexer;
mod parser;
mod print;

pub use parser::{SyntaxError, parse};
