//! The syntax tree of a PTX module (PTX ISA chapters 4, 5 and 11).

/// A whole module.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// `.version major.minor`.
    pub version: (u32, u32),
    /// `.target` names, in order.
    pub target: Vec<String>,
    /// `.address_size`, 64 if absent.
    pub address_size: u32,
    /// Variables, functions and raw directives, in order.
    pub items: Vec<Item>,
}

/// A module-level item.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A variable.
    Variable(Variable),
    /// An entry or a function.
    Function(Function),
    /// A directive without meaning for execution (`.file`, `.section {...}`, `.alias`), kept as text.
    Raw(String),
}

/// Linkage of a symbol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Linkage {
    /// None given.
    #[default]
    Local,
    /// `.visible`.
    Visible,
    /// `.extern`.
    Extern,
    /// `.weak`.
    Weak,
    /// `.common`.
    Common,
}

/// State space of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.reg`.
    Reg,
    /// `.param`.
    Param,
    /// `.shared`.
    Shared,
    /// `.global`.
    Global,
    /// `.const`.
    Const,
    /// `.local`.
    Local,
}

/// A declaration: `.reg .b32 %r<4>;`, `.shared .align 16 .b8 buf[1024];`, a parameter, ...
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Source line.
    pub line: u32,
    /// Linkage.
    pub linkage: Linkage,
    /// State space.
    pub space: Space,
    /// `.align`, if given.
    pub align: Option<u32>,
    /// Fundamental type without the dot: `b32`, `f64`, `pred`.
    pub ty: String,
    /// `.v2`, `.v4`: elements per unit.
    pub vector: Option<u32>,
    /// `.ptr .space .align n` of a parameter, as text.
    pub pointer: Option<String>,
    /// Name; for `%r<4>` the prefix `%r`.
    pub name: String,
    /// `<n>`: a family `%r0 .. %r(n-1)`.
    pub count: Option<u32>,
    /// Array dimensions; `Some(0)` is `[]`.
    pub dims: Vec<u64>,
    /// Initialiser, flattened.
    pub init: Vec<Operand>,
}

/// `.entry` or `.func`.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Source line.
    pub line: u32,
    /// Linkage.
    pub linkage: Linkage,
    /// Whether it is an `.entry`.
    pub is_entry: bool,
    /// Name.
    pub name: String,
    /// Return parameters of a `.func`.
    pub returns: Vec<Variable>,
    /// Parameters.
    pub params: Vec<Variable>,
    /// `.maxntid`, `.reqntid`, `.minnctapersm`, `.explicitcluster`, ...: name without the dot, values.
    pub directives: Vec<(String, Vec<String>)>,
    /// `None` for a prototype.
    pub body: Option<Vec<Statement>>,
}

/// A statement of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `name:`.
    Label(String),
    /// `name: .branchtargets labels;`: where a `brx.idx` may jump.
    BranchTargets(String, Vec<String>),
    /// An instruction.
    Instruction(Instruction),
    /// A declaration.
    Variable(Variable),
    /// `{ ... }`.
    Block(Vec<Statement>),
    /// `.loc`, `.pragma`, ...: kept as text.
    Raw(String),
}

/// An instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Source line.
    pub line: u32,
    /// Bytes of the source, from the guard to the `;`.
    pub span: std::ops::Range<usize>,
    /// `@p` / `@!p`.
    pub guard: Option<Guard>,
    /// The dotted opcode, split: `["mbarrier", "try_wait", "parity", "shared::cta", "b64"]`.
    pub opcode: Vec<String>,
    /// Operands in order.
    pub operands: Vec<Operand>,
}

/// Guard predicate.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    /// `@!p`.
    pub negated: bool,
    /// Register name.
    pub name: String,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register, variable, label, function or special register (with its `.x` component).
    Name(String),
    /// `!p`.
    Not(String),
    /// An integer constant, as 64 bits; `-1` is all ones.
    Int(i128),
    /// `0f` and eight hex digits: bits of an f32.
    F32(u32),
    /// `0d` and sixteen hex digits, or a decimal floating-point constant: bits of an f64.
    F64(u64),
    /// `{a, b, c, d}`.
    Vector(Vec<Operand>),
    /// `[base + offset]`, or `[base, coordinates...]` for tensor maps.
    Address {
        /// Register, symbol or constant.
        base: Box<Operand>,
        /// Immediate byte offset.
        offset: i64,
        /// Further operands inside the brackets.
        extra: Vec<Operand>,
    },
    /// `a|b`: two destinations.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)`: argument list of a call.
    List(Vec<Operand>),
    /// `_`.
    Sink,
}

impl Instruction {
    /// The dotted opcode as written.
    pub fn mnemonic(&self) -> String {
        self.opcode.join(".")
    }
}
