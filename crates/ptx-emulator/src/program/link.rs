//! Turns a syntax tree into a [`Module`].

use std::collections::HashMap;

use super::call::{self, Call, Copied, Functions, Targets};
use super::layout::{align_up, extent};
use super::{Global, Inst, Module, Param, Program, Reg, RegisterInfo};
use crate::decode::{DecodeError, Decoder, Names, Src};
use crate::machine::SHARED_RESERVED;
use crate::ops;
use crate::syntax::ast::{self, Instruction, Item, Operand, Space, Statement, Variable};
use crate::types::Ty;

/// Why a module cannot be run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The text is not PTX.
    #[error(transparent)]
    Syntax(#[from] crate::syntax::SyntaxError),
    /// Instructions that are not modelled or not valid, all of them.
    #[error("{} instruction(s) not supported; first: {}", .0.len(), .0[0])]
    Decode(Vec<DecodeError>),
    /// A declaration that is not modelled or not valid.
    #[error("line {line}: `{name}`: {why}")]
    Declaration {
        /// Source line.
        line: u32,
        /// Declared name.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// Loads a module from PTX text.
///
/// # Errors
/// [`LoadError`]; every unsupported instruction is reported, not only the first.
pub fn load(source: &str) -> Result<Module, LoadError> {
    let tree = crate::syntax::parse(source)?;
    let mut globals = Vec::new();
    let mut symbols = HashMap::new();
    let mut shared = SharedLayout { end: SHARED_RESERVED, dynamic_align: 16 };
    for item in &tree.items {
        if let Item::Variable(v) = item {
            declare_module_variable(v, &mut globals, &mut symbols, &mut shared)?;
        }
    }
    let mut errors = Vec::new();
    let mut entries = Vec::new();
    let mut tables = HashMap::new();
    let with_body = || {
        tree.items.iter().filter_map(|item| match item {
            Item::Function(f) if f.body.is_some() => Some(f),
            _ => None,
        })
    };
    let functions: Functions<'_> = (with_body().filter(|f| !f.is_entry).zip(0..))
        .map(|(f, i)| (f.name.as_str(), (f, FUNCTION_ADDRESSES + i * 16)))
        .collect();
    for item in &tree.items {
        if let Item::Variable(v) = item {
            call_table(v, &functions, &symbols, &mut globals, &mut tables)?;
        }
    }
    for f in with_body().filter(|f| f.is_entry) {
        entries.push(Linker::new(&symbols, &functions, &tables, shared).entry(f, &mut errors)?);
    }
    if !errors.is_empty() {
        return Err(LoadError::Decode(errors));
    }
    Ok(Module { target: tree.target, globals, entries })
}

/// Where the addresses of functions begin: no memory is there.
const FUNCTION_ADDRESSES: u64 = 0x00f0_0000;

/// Fills in a variable whose initialiser names functions (a call table).
fn call_table(
    v: &Variable,
    functions: &Functions<'_>,
    symbols: &HashMap<String, Src>,
    globals: &mut [Global],
    tables: &mut HashMap<String, Vec<String>>,
) -> Result<(), LoadError> {
    let Some(Src::Global(number, _)) = symbols.get(&v.name) else { return Ok(()) };
    let unit = extent(v).map_or(0, |(ty, ..)| ty.bytes() as usize);
    let mut names = Vec::new();
    for (i, value) in v.init.iter().enumerate() {
        let Operand::Name(name) = value else { continue };
        let Some(&(_, address)) = functions.get(name.as_str()) else {
            return Err(bad(v, "initialiser is not a constant or a function with a body"));
        };
        globals[*number as usize].bytes[i * unit..][..unit].copy_from_slice(&address.to_le_bytes()[..unit]);
        names.push(name.clone());
    }
    if !names.is_empty() {
        tables.insert(v.name.clone(), names);
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct SharedLayout {
    end: u32,
    dynamic_align: u32,
}

impl SharedLayout {
    /// Places a shared variable.
    fn place(&mut self, v: &Variable) -> Result<Src, LoadError> {
        let (_, size, align) = extent(v).ok_or_else(|| bad(v, "unknown type or size"))?;
        if v.dims == [0] {
            self.dynamic_align = self.dynamic_align.max(align);
            return Ok(Src::DynamicShared(0));
        }
        let offset = align_up(self.end, align);
        let end = u64::from(offset) + size;
        if end > 0x4_0000 {
            return Err(bad(v, "shared memory exceeds 256 KiB"));
        }
        self.end = end as u32;
        Ok(Src::Shared(offset))
    }
}

fn bad(v: &Variable, why: &str) -> LoadError {
    LoadError::Declaration { line: v.line, name: v.name.clone(), why: why.to_owned() }
}

fn declare_module_variable(
    v: &Variable,
    globals: &mut Vec<Global>,
    symbols: &mut HashMap<String, Src>,
    shared: &mut SharedLayout,
) -> Result<(), LoadError> {
    let src = match v.space {
        Space::Shared => shared.place(v)?,
        Space::Global | Space::Const => {
            let (ty, size, align) = extent(v).ok_or_else(|| bad(v, "unknown type or size"))?;
            let unit = ty.bytes() as usize;
            let mut bytes = Vec::new();
            for value in &v.init {
                let word = match *value {
                    Operand::Int(i) => i as u64,
                    Operand::F32(b) => u64::from(b),
                    Operand::F64(b) if ty == Ty::F32 => u64::from((f64::from_bits(b) as f32).to_bits()),
                    Operand::F64(b) => b,
                    // A function, whose address is filled in later.
                    Operand::Name(_) if unit >= 4 => 0,
                    _ => return Err(bad(v, "initialiser is not a constant")),
                };
                bytes.extend_from_slice(&word.to_le_bytes()[..unit.min(8)]);
            }
            if size > 1 << 30 {
                return Err(bad(v, "larger than 1 GiB"));
            }
            bytes.resize(bytes.len().max(size as usize), 0);
            globals.push(Global { name: v.name.clone(), constant: v.space == Space::Const, align, bytes });
            Src::Global(globals.len() as u32 - 1, 0)
        }
        _ => return Err(bad(v, "state space is not allowed at module scope")),
    };
    symbols.insert(v.name.clone(), src);
    Ok(())
}

/// Names declared in one `{ }`.
#[derive(Default)]
struct Scope<'a> {
    parent: Option<usize>,
    registers: HashMap<String, (Reg, Ty)>,
    symbols: HashMap<String, Src>,
    labels: HashMap<String, u32>,
    /// Lists of functions.
    targets: HashMap<String, Targets>,
    branch_targets: HashMap<String, &'a [String]>,
    /// In the body of a callee: the code index behind it.
    return_to: Option<u32>,
    /// The code index behind the whole call.
    end: u32,
    /// Of one of several callees: the code index of the next one's test.
    next: u32,
}

struct Linker<'a> {
    module_symbols: &'a HashMap<String, Src>,
    functions: &'a Functions<'a>,
    /// Call tables: names of functions by variable.
    tables: &'a HashMap<String, Vec<String>>,
    /// Functions whose calls are being expanded.
    active: Vec<&'a str>,
    shared: SharedLayout,
    scopes: Vec<Scope<'a>>,
    registers: Vec<RegisterInfo>,
    local_bytes: u32,
    code_len: u32,
    uses_wgmma: bool,
}

/// Name resolution from one scope outwards.
struct View<'a, 'b> {
    linker: &'a Linker<'b>,
    scope: usize,
}

impl<'b> View<'_, 'b> {
    fn find<T>(&self, get: impl Fn(&Scope<'b>) -> Option<T>) -> Option<T> {
        let mut at = Some(self.scope);
        while let Some(i) = at {
            let scope = &self.linker.scopes[i];
            if let Some(found) = get(scope) {
                return Some(found);
            }
            at = scope.parent;
        }
        None
    }
}

impl View<'_, '_> {
    /// The registers that an operand names.
    fn registers_of(&self, operand: &Operand, found: &mut Vec<Reg>) {
        match operand {
            Operand::Name(name) | Operand::Not(name) => found.extend(self.register(name).map(|(reg, _)| reg)),
            Operand::Vector(items) | Operand::List(items) => {
                items.iter().for_each(|o| self.registers_of(o, found));
            }
            Operand::Address { base, extra, .. } => {
                self.registers_of(base, found);
                extra.iter().for_each(|o| self.registers_of(o, found));
            }
            Operand::Pair(a, b) => {
                self.registers_of(a, found);
                self.registers_of(b, found);
            }
            Operand::Int(_) | Operand::F32(_) | Operand::F64(_) | Operand::Sink => {}
        }
    }
}

impl<'b> Names for View<'_, 'b> {
    fn register(&self, name: &str) -> Option<(Reg, Ty)> {
        self.find(|s| s.registers.get(name).copied())
    }

    fn symbol(&self, name: &str) -> Option<Src> {
        self.find(|s| s.symbols.get(name).copied())
            .or_else(|| self.linker.module_symbols.get(name).copied())
            .or_else(|| self.linker.functions.get(name).map(|&(_, address)| Src::Imm(address)))
    }

    fn label(&self, name: &str) -> Option<u32> {
        self.find(|s| s.labels.get(name).copied())
    }

    fn branch_targets(&self, name: &str) -> Option<&[String]> {
        self.find(|s| s.branch_targets.get(name).copied())
    }
}

/// A callee with its parameters' places.
type Site<'a> = (Call<'a>, HashMap<String, Src>);

fn push(inst: Result<Inst, DecodeError>, code: &mut Vec<Inst>, errors: &mut Vec<DecodeError>) {
    match inst {
        Ok(inst) => code.push(inst),
        Err(e) => errors.push(e),
    }
}

impl<'a> Linker<'a> {
    fn new(
        module_symbols: &'a HashMap<String, Src>,
        functions: &'a Functions<'a>,
        tables: &'a HashMap<String, Vec<String>>,
        shared: SharedLayout,
    ) -> Self {
        Self {
            module_symbols,
            functions,
            tables,
            active: Vec::new(),
            shared,
            scopes: Vec::new(),
            registers: Vec::new(),
            local_bytes: 0,
            code_len: 0,
            uses_wgmma: false,
        }
    }

    fn entry(mut self, f: &'a ast::Function, errors: &mut Vec<DecodeError>) -> Result<Program, LoadError> {
        let mut root = Scope::default();
        let mut params = Vec::new();
        let mut end = 0u32;
        for v in &f.params {
            let (ty, size, align) = extent(v).ok_or_else(|| bad(v, "unknown type or size"))?;
            let offset = align_up(end, align);
            if u64::from(offset) + size > 32_764 {
                return Err(bad(v, "parameters exceed 32764 bytes"));
            }
            end = offset + size as u32;
            root.symbols.insert(v.name.clone(), Src::Param(offset));
            params.push(Param { name: v.name.clone(), offset, bytes: size as u32, align, ty });
        }
        self.scopes.push(root);
        let body = f.body.as_deref().unwrap_or_default();
        self.declare(body, 0)?;
        let mut code = Vec::new();
        let mut next_scope = 1;
        self.decode(body, 0, &mut next_scope, &mut code, errors);
        let inter_cta_sync = code.iter().any(|i: &Inst| ops::may_sync_ctas(&i.text));
        Ok(Program {
            name: f.name.clone(),
            params,
            param_bytes: end,
            static_shared_end: self.shared.end,
            dynamic_shared_align: self.shared.dynamic_align,
            local_bytes: self.local_bytes,
            registers: self.registers,
            code,
            directives: f.directives.clone(),
            inter_cta_sync,
            uses_wgmma: self.uses_wgmma,
        })
    }

    /// First pass: registers, variables and labels of every scope, and the number of instructions.
    fn declare(&mut self, statements: &'a [Statement], scope: usize) -> Result<(), LoadError> {
        let mut label = None;
        for statement in statements {
            let before = label.take();
            match statement {
                Statement::Label(name) => {
                    self.scopes[scope].labels.insert(name.clone(), self.code_len);
                    label = Some(name);
                }
                Statement::BranchTargets(name, labels) => {
                    self.scopes[scope].branch_targets.insert(name.clone(), labels);
                }
                Statement::Instruction(i) if call::is_call(i) => self.declare_call(i, scope)?,
                Statement::Instruction(i) => {
                    self.code_len += 1;
                    self.uses_wgmma |= i.opcode[0] == "wgmma";
                }
                Statement::Raw(text) => {
                    if let (Some(name), Some(targets)) = (before, Targets::parse(text)) {
                        self.scopes[scope].targets.insert(name.clone(), targets);
                    }
                }
                Statement::Block(inner) => {
                    self.scopes.push(Scope { parent: Some(scope), ..Scope::default() });
                    let id = self.scopes.len() - 1;
                    self.declare(inner, id)?;
                }
                Statement::Variable(v) => self.declare_variable(v, scope)?,
            }
        }
        Ok(())
    }

    /// The first pass over a call: for every callee its body, in a scope of its own. What is wrong with a call is
    /// reported by the second pass.
    fn declare_call(&mut self, i: &'a Instruction, scope: usize) -> Result<(), LoadError> {
        if call::assert_fail(i, self.functions).is_some() {
            self.code_len += 1;
            return Ok(());
        }
        let Ok(calls) = self.calls(i, scope) else { return Ok(()) };
        // A jump around everything, if the guard does not hold.
        self.code_len += u32::from(i.guard.is_some());
        let mut ids = Vec::new();
        let is_pointer = calls.iter().any(|(call, _)| call.pointer.is_some());
        for (call, symbols) in calls {
            self.scopes.push(Scope { symbols, ..Scope::default() });
            let id = self.scopes.len() - 1;
            ids.push(id);
            for copied in call.into.iter().chain(&call.out_of) {
                self.declare_variable(copied.formal, id)?;
            }
            // The test of the pointer, and the parameters.
            self.code_len += u32::from(is_pointer) + call.into.len() as u32;
            self.active.push(&call.function.name);
            self.declare(call.function.body.as_deref().unwrap_or_default(), id)?;
            self.active.pop();
            self.scopes[id].return_to = Some(self.code_len);
            // Return parameters, and the jump to the end.
            self.code_len += call.out_of.len() as u32 + u32::from(is_pointer);
            self.scopes[id].next = self.code_len;
        }
        // Where a pointer that fits nothing ends up.
        self.code_len += u32::from(is_pointer);
        for id in ids {
            self.scopes[id].end = self.code_len;
        }
        Ok(())
    }

    /// The callees of a call and their parameters.
    fn calls(&self, i: &Instruction, scope: usize) -> Result<Vec<Site<'a>>, DecodeError> {
        let error = |why: &str| Err(DecodeError { line: i.line, text: i.to_string(), why: why.to_owned() });
        if self.code_len > 1 << 20 {
            return error("the program is too large with its calls expanded");
        }
        let view = View { linker: self, scope };
        let named = |name: &str| {
            view.find(|s| s.targets.get(name).cloned())
                .or_else(|| self.tables.get(name).map(|names| Targets::Functions(names.clone())))
        };
        let mut calls = call::take_apart(i, self.functions, named)?;
        let recursive = |call: &Call<'_>| self.active.contains(&call.function.name.as_str());
        if calls.iter().any(|call| call.pointer.is_none() && recursive(call)) {
            return error("recursion is not modelled");
        }
        // A pointer to a function that is active is reported when it is called.
        calls.retain(|call| !recursive(call));
        if calls.is_empty() {
            return error("no function fits this call");
        }
        let bind = |call: Call<'a>| {
            let symbols = call::bind(i, &call, |name| view.symbol(name))?;
            Ok((call, symbols))
        };
        calls.into_iter().map(bind).collect()
    }

    fn declare_variable(&mut self, v: &Variable, scope: usize) -> Result<(), LoadError> {
        let (ty, size, align) = extent(v).ok_or_else(|| bad(v, "unknown type or size"))?;
        match v.space {
            Space::Reg => {
                if v.vector.is_some() || !v.dims.is_empty() {
                    return Err(bad(v, "vector registers are not modelled"));
                }
                let names: Vec<String> = match v.count {
                    Some(n) if n > 1 << 20 => return Err(bad(v, "too many registers")),
                    Some(n) => (0..n).map(|i| format!("{}{i}", v.name)).collect(),
                    None => vec![v.name.clone()],
                };
                for name in names {
                    let reg = self.registers.len() as Reg;
                    let halves = if ty == Ty::B128 { 2 } else { 1 };
                    for _ in 0..halves {
                        self.registers.push(RegisterInfo { name: name.clone(), ty });
                    }
                    self.scopes[scope].registers.insert(name, (reg, ty));
                }
            }
            Space::Shared => {
                let src = self.shared.place(v)?;
                self.scopes[scope].symbols.insert(v.name.clone(), src);
            }
            // Parameters of calls live in local memory.
            Space::Local | Space::Param => {
                let offset = align_up(self.local_bytes, align);
                if u64::from(offset) + size > 1 << 20 {
                    return Err(bad(v, "local memory exceeds 1 MiB"));
                }
                self.local_bytes = offset + size as u32;
                self.scopes[scope].symbols.insert(v.name.clone(), Src::Local(offset));
            }
            _ => return Err(bad(v, "state space is not modelled inside a function")),
        }
        Ok(())
    }

    /// Second pass: decodes, now that every label is known. Visits scopes in the order of the first pass.
    fn decode(
        &mut self,
        statements: &[Statement],
        scope: usize,
        next_scope: &mut usize,
        code: &mut Vec<Inst>,
        errors: &mut Vec<DecodeError>,
    ) {
        for statement in statements {
            match statement {
                Statement::Block(inner) => {
                    let id = *next_scope;
                    *next_scope += 1;
                    self.decode(inner, id, next_scope, code, errors);
                }
                Statement::Instruction(i) if call::assert_fail(i, self.functions).is_some() => {
                    push(self.assert_fail(i, scope), code, errors);
                }
                Statement::Instruction(i) if call::is_call(i) => match self.calls(i, scope) {
                    Ok(calls) => {
                        let first = *next_scope;
                        if i.guard.is_some() {
                            push(self.jump_around(i, scope, first), code, errors);
                        }
                        let is_pointer = calls.iter().any(|(call, _)| call.pointer.is_some());
                        for (call, _) in calls {
                            self.decode_call(i, scope, &call, next_scope, code, errors);
                        }
                        if is_pointer {
                            code.push(Inst {
                                line: i.line,
                                guard: None,
                                text: i.to_string(),
                                registers: Box::default(),
                                op: ops::bad_call(),
                            });
                        }
                    }
                    Err(e) => errors.push(e),
                },
                Statement::Instruction(i) => match self.instruction(i, scope) {
                    Ok(inst) => code.push(inst),
                    Err(e) => errors.push(e),
                },
                _ => {}
            }
        }
    }

    /// The second pass over one callee of a call.
    fn decode_call(
        &mut self,
        i: &Instruction,
        scope: usize,
        call: &Call<'a>,
        next_scope: &mut usize,
        code: &mut Vec<Inst>,
        errors: &mut Vec<DecodeError>,
    ) {
        let id = *next_scope;
        *next_scope += 1;
        let plain =
            |op| Inst { line: i.line, guard: None, text: i.to_string(), registers: Box::default(), op };
        if let Some((pointer, address)) = &call.pointer {
            let view = View { linker: self, scope };
            let pointer = Decoder::new(i, &view).src_of(&Operand::Name(pointer.clone()), Ty::B64);
            push(pointer.map(|p| plain(ops::call_if(p, *address, self.scopes[id].next))), code, errors);
        }
        for copied in &call.into {
            push(self.copy(i, (scope, &copied.actual), (id, copied), true).map(plain), code, errors);
        }
        self.active.push(&call.function.name);
        let body = call.function.body.as_deref().unwrap_or_default();
        self.decode(body, id, next_scope, code, errors);
        self.active.pop();
        for copied in &call.out_of {
            push(self.copy(i, (scope, &copied.actual), (id, copied), false).map(plain), code, errors);
        }
        if call.pointer.is_some() {
            code.push(plain(ops::jump(self.scopes[id].end)));
        }
    }

    /// A call of `__assertfail`: nothing comes behind it.
    fn assert_fail(&self, i: &Instruction, scope: usize) -> Result<Inst, DecodeError> {
        let view = View { linker: self, scope };
        let place = |operand: &Operand| match operand {
            Operand::Name(name) => view.symbol(name).filter(|at| matches!(at, Src::Local(_))),
            _ => None,
        };
        let arguments = call::assert_fail(i, self.functions).unwrap_or_default();
        let places: Option<Vec<Src>> = arguments.iter().map(place).collect();
        let Some([message, file, line, function, _]) = places.as_deref() else {
            return Decoder::new(i, &view).error("an argument is not a .param variable of the caller");
        };
        let op = ops::assert_fail([*message, *file, *line, *function]);
        Ok(Inst {
            line: i.line,
            guard: self.guard(i, scope)?,
            text: i.to_string(),
            registers: Box::default(),
            op,
        })
    }

    /// Copies a parameter in a register, into the callee (scope `.0` of the second pair) or out of it.
    fn copy(
        &self,
        i: &Instruction,
        (scope, actual): (usize, &Operand),
        (id, copied): (usize, &Copied<'_>),
        into: bool,
    ) -> Result<crate::decode::Op, DecodeError> {
        let (outer, inner) = (View { linker: self, scope }, View { linker: self, scope: id });
        let decoder = Decoder::new(i, &outer);
        let Some((formal, ty)) = inner.register(&copied.formal.name).filter(|(_, ty)| *ty != Ty::B128) else {
            return decoder.error(format!("parameter `{}` is not modelled", copied.formal.name));
        };
        Ok(if into {
            ops::copy_register(formal, decoder.value_of(actual, ty)?)
        } else {
            ops::copy_register(decoder.dst_of(actual, ty)?, Src::Reg(formal))
        })
    }

    /// The jump around a guarded call (first callee's scope `id`), for lanes whose guard does not hold.
    fn jump_around(&self, i: &Instruction, scope: usize, id: usize) -> Result<Inst, DecodeError> {
        let guard = self.guard(i, scope)?.map(|(reg, negated)| (reg, !negated));
        let op = ops::jump(self.scopes[id].end);
        Ok(Inst { line: i.line, guard, text: i.to_string(), registers: Box::default(), op })
    }

    fn guard(&self, i: &Instruction, scope: usize) -> Result<Option<(Reg, bool)>, DecodeError> {
        let view = View { linker: self, scope };
        match &i.guard {
            Some(g) => match view.register(&g.name) {
                Some((reg, Ty::Pred)) => Ok(Some((reg, g.negated))),
                _ => Decoder::new(i, &view).error(format!("guard `{}` is not a predicate register", g.name)),
            },
            None => Ok(None),
        }
    }

    fn instruction(&self, i: &Instruction, scope: usize) -> Result<Inst, DecodeError> {
        let view = View { linker: self, scope };
        let mut decoder = Decoder::new(i, &view);
        let guard = self.guard(i, scope)?;
        let returns = view.find(|s| s.return_to);
        let op = match ops::decode_fn(&i.opcode) {
            _ if i.opcode[0] == "ret" && returns.is_some() => {
                decoder.take("uni");
                decoder.finish(0)?;
                ops::jump(returns.unwrap_or_default())
            }
            Some(decode) => decode(&mut decoder)?,
            None => return decoder.error("instruction is not modelled"),
        };
        let mut registers = Vec::new();
        if self.uses_wgmma && i.opcode[0] != "wgmma" {
            i.operands.iter().for_each(|o| view.registers_of(o, &mut registers));
        }
        Ok(Inst { line: i.line, guard, text: i.to_string(), registers: registers.into(), op })
    }
}
