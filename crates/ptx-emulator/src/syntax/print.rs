//! The tree as PTX text again: what [`super::parse`] reads back to the same tree.

use std::fmt::{Display, Formatter, Result, Write};

use super::ast::{Function, Instruction, Item, Linkage, Module, Operand, Space, Statement, Variable};

impl Display for Module {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, ".version {}.{}", self.version.0, self.version.1)?;
        writeln!(f, ".target {}", self.target.join(", "))?;
        writeln!(f, ".address_size {}", self.address_size)?;
        for item in &self.items {
            match item {
                Item::Variable(v) => writeln!(f, "{v};")?,
                Item::Function(function) => writeln!(f, "{function}")?,
                Item::Raw(text) => writeln!(f, "{text}")?,
            }
        }
        Ok(())
    }
}

impl Display for Linkage {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Linkage::Local => "",
            Linkage::Visible => ".visible ",
            Linkage::Extern => ".extern ",
            Linkage::Weak => ".weak ",
            Linkage::Common => ".common ",
        })
    }
}

impl Display for Space {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Space::Reg => ".reg",
            Space::Param => ".param",
            Space::Shared => ".shared",
            Space::Global => ".global",
            Space::Const => ".const",
            Space::Local => ".local",
        })
    }
}

impl Display for Variable {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}{}", self.linkage, self.space)?;
        if let Some(align) = self.align {
            write!(f, " .align {align}")?;
        }
        if let Some(n) = self.vector {
            write!(f, " .v{n}")?;
        }
        write!(f, " .{}", self.ty)?;
        if let Some(pointer) = &self.pointer {
            write!(f, " {pointer}")?;
        }
        write!(f, " {}", self.name)?;
        if let Some(n) = self.count {
            write!(f, "<{n}>")?;
        }
        for &dim in &self.dims {
            if dim == 0 { write!(f, "[]")? } else { write!(f, "[{dim}]")? }
        }
        match self.init.as_slice() {
            [] => Ok(()),
            [one] if self.dims.is_empty() && self.vector.is_none() => write!(f, " = {one}"),
            many => write!(f, " = {{{}}}", Joined(many)),
        }
    }
}

impl Display for Function {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let list = |f: &mut Formatter<'_>, params: &[Variable]| {
            f.write_char('(')?;
            for (i, p) in params.iter().enumerate() {
                write!(f, "{}{p}", if i == 0 { "" } else { ", " })?;
            }
            f.write_char(')')
        };
        write!(f, "{}{} ", self.linkage, if self.is_entry { ".entry" } else { ".func" })?;
        if !self.returns.is_empty() {
            list(f, &self.returns)?;
            f.write_char(' ')?;
        }
        f.write_str(&self.name)?;
        list(f, &self.params)?;
        for (name, values) in &self.directives {
            write!(f, "\n.{name} {}", values.join(", "))?;
        }
        match &self.body {
            None => f.write_char(';'),
            Some(body) => {
                writeln!(f)?;
                block(f, body, 0)
            }
        }
    }
}

fn block(f: &mut Formatter<'_>, statements: &[Statement], depth: usize) -> Result {
    let pad = "\t".repeat(depth);
    writeln!(f, "{pad}{{")?;
    for statement in statements {
        match statement {
            Statement::Label(name) => writeln!(f, "{name}:")?,
            Statement::BranchTargets(name, labels) => {
                writeln!(f, "{name}: .branchtargets {};", labels.join(", "))?;
            }
            Statement::Instruction(i) => writeln!(f, "{pad}\t{i}")?,
            Statement::Variable(v) => writeln!(f, "{pad}\t{v};")?,
            Statement::Block(inner) => block(f, inner, depth + 1)?,
            Statement::Raw(text) => writeln!(f, "{pad}\t{text}")?,
        }
    }
    writeln!(f, "{pad}}}")
}

impl Display for Instruction {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if let Some(guard) = &self.guard {
            write!(f, "@{}{} ", if guard.negated { "!" } else { "" }, guard.name)?;
        }
        f.write_str(&self.mnemonic())?;
        if !self.operands.is_empty() {
            write!(f, " {}", Joined(&self.operands))?;
        }
        f.write_char(';')
    }
}

struct Joined<'a>(&'a [Operand]);

impl Display for Joined<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (i, operand) in self.0.iter().enumerate() {
            write!(f, "{}{operand}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Operand::Name(name) => f.write_str(name),
            Operand::Not(name) => write!(f, "!{name}"),
            Operand::Int(v) => write!(f, "{v}"),
            Operand::F32(bits) => write!(f, "0f{bits:08X}"),
            Operand::F64(bits) => write!(f, "0d{bits:016X}"),
            Operand::Vector(items) => write!(f, "{{{}}}", Joined(items)),
            Operand::Address { base, offset, extra } => {
                write!(f, "[{base}")?;
                if *offset != 0 {
                    write!(f, "{offset:+}")?;
                }
                for operand in extra {
                    write!(f, ", {operand}")?;
                }
                f.write_char(']')
            }
            Operand::Pair(a, b) => write!(f, "{a}|{b}"),
            Operand::List(items) => write!(f, "({})", Joined(items)),
            Operand::Sink => f.write_char('_'),
        }
    }
}
