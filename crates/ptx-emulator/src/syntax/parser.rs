//! Recursive descent over the tokens.

use super::ast::{Function, Guard, Instruction, Item, Linkage, Module, Operand, Space, Statement, Variable};
use super::lexer::{self, Kind, Token};

/// What is not PTX, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("line {line}: expected {expected}, found `{found}`")]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: u32,
    /// What would be right.
    pub expected: String,
    /// What is there.
    pub found: String,
}

type Result<T> = std::result::Result<T, SyntaxError>;

/// Parses a module.
///
/// # Errors
/// [`SyntaxError`] at the first token that does not fit.
pub fn parse(source: &str) -> Result<Module> {
    let tokens = lexer::tokens(source).map_err(|e| SyntaxError {
        line: e.line,
        expected: "a PTX token".to_owned(),
        found: e.text,
    })?;
    Parser { source, tokens, at: 0 }.module()
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Token>,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|t| &t.kind)
    }

    fn peek_dot(&self) -> Option<&str> {
        match self.peek() {
            Some(Kind::Dot(name)) => Some(name),
            _ => None,
        }
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.line)
    }

    fn error<T>(&self, expected: &str) -> Result<T> {
        let found = self.tokens.get(self.at).map_or("end of file", |t| &self.source[t.start..t.end]);
        Err(SyntaxError { line: self.line(), expected: expected.to_owned(), found: found.to_owned() })
    }

    fn is_punct(&self, c: char) -> bool {
        self.peek() == Some(&Kind::Punct(c))
    }

    fn eat(&mut self, c: char) -> bool {
        let hit = self.is_punct(c);
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.error(&format!("`{c}`")) }
    }

    fn eat_dot(&mut self, name: &str) -> bool {
        let hit = self.peek_dot() == Some(name);
        self.at += usize::from(hit);
        hit
    }

    fn name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Kind::Name(n)) => {
                let n = n.clone();
                self.at += 1;
                Ok(n)
            }
            _ => self.error("a name"),
        }
    }

    fn int(&mut self) -> Result<i128> {
        let negative = self.eat('-');
        match self.peek() {
            Some(&Kind::Int(v)) => {
                self.at += 1;
                Ok(if negative { -v } else { v })
            }
            _ => self.error("an integer"),
        }
    }

    fn u32(&mut self) -> Result<u32> {
        let v = self.int()?;
        u32::try_from(v).or_else(|_| self.error("a 32-bit unsigned integer"))
    }

    /// Text up to and including the `;`, the end of the line, or a closing brace block, as written.
    fn raw(&mut self, stop_at_semicolon: bool) -> String {
        let Some(first) = self.tokens.get(self.at) else { return String::new() };
        let (start, line) = (first.start, first.line);
        let has_body = first.kind == Kind::Dot("section".to_owned());
        let mut end = first.end;
        let mut depth = 0usize;
        while let Some(token) = self.tokens.get(self.at) {
            // A `.section` may open its brace on the next line; a brace behind `.loc` opens a block of code.
            let opens = has_body && token.kind == Kind::Punct('{');
            if depth == 0 && !stop_at_semicolon && token.line != line && !opens {
                break;
            }
            end = token.end;
            self.at += 1;
            match token.kind {
                Kind::Punct('{') => depth += 1,
                Kind::Punct('}') => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        break;
                    }
                }
                Kind::Punct(';') if depth == 0 && stop_at_semicolon => break,
                _ => {}
            }
        }
        self.source[start..end].to_owned()
    }

    fn module(mut self) -> Result<Module> {
        if !self.eat_dot("version") {
            return self.error("`.version`");
        }
        let version = match self.peek() {
            // `8.7` lexes as a decimal constant.
            Some(&Kind::F64(bits)) => {
                self.at += 1;
                let tenths = (f64::from_bits(bits) * 10.0).round() as u32;
                (tenths / 10, tenths % 10)
            }
            _ => return self.error("`major.minor`"),
        };
        if !self.eat_dot("target") {
            return self.error("`.target`");
        }
        let mut target = vec![self.name()?];
        while self.eat(',') {
            target.push(self.name()?);
        }
        let mut module = Module { version, target, address_size: 64, items: Vec::new() };
        if self.eat_dot("address_size") {
            module.address_size = self.u32()?;
        }
        while self.peek().is_some() {
            let item = self.item()?;
            module.items.push(item);
        }
        Ok(module)
    }

    fn linkage(&mut self) -> Linkage {
        for (name, linkage) in [
            ("visible", Linkage::Visible),
            ("extern", Linkage::Extern),
            ("weak", Linkage::Weak),
            ("common", Linkage::Common),
        ] {
            if self.eat_dot(name) {
                return linkage;
            }
        }
        Linkage::Local
    }

    fn item(&mut self) -> Result<Item> {
        match self.peek_dot() {
            Some("file" | "section") => return Ok(Item::Raw(self.raw(false))),
            Some("alias" | "pragma") => return Ok(Item::Raw(self.raw(true))),
            _ => {}
        }
        let linkage = self.linkage();
        match self.peek_dot() {
            Some("entry" | "func") => self.function(linkage).map(Item::Function),
            Some(name) if space(name).is_some() => {
                let mut variable = self.variable(linkage)?;
                self.initialiser(&mut variable)?;
                self.expect(';')?;
                Ok(Item::Variable(variable))
            }
            _ => self.error("a module-level directive"),
        }
    }

    fn function(&mut self, linkage: Linkage) -> Result<Function> {
        let line = self.line();
        let is_entry = self.eat_dot("entry");
        self.at += usize::from(!is_entry);
        let returns = if !is_entry && self.is_punct('(') { self.params()? } else { Vec::new() };
        let name = self.name()?;
        let params = if self.is_punct('(') { self.params()? } else { Vec::new() };
        let mut directives = Vec::new();
        while let Some(name) = self.peek_dot().map(str::to_owned) {
            self.at += 1;
            let mut values = Vec::new();
            while !self.is_punct('{') && !self.is_punct(';') && self.peek_dot().is_none() {
                if self.eat(',') {
                    continue;
                }
                let Some(token) = self.tokens.get(self.at) else { return self.error("a function body") };
                values.push(self.source[token.start..token.end].to_owned());
                self.at += 1;
            }
            directives.push((name, values));
        }
        let body = if self.eat(';') { None } else { Some(self.block()?) };
        Ok(Function { line, linkage, is_entry, name, returns, params, directives, body })
    }

    fn params(&mut self) -> Result<Vec<Variable>> {
        self.expect('(')?;
        let mut params = Vec::new();
        if self.eat(')') {
            return Ok(params);
        }
        loop {
            params.push(self.variable(Linkage::Local)?);
            if self.eat(')') {
                return Ok(params);
            }
            self.expect(',')?;
        }
    }

    fn variable(&mut self, linkage: Linkage) -> Result<Variable> {
        let line = self.line();
        let Some(space) = self.peek_dot().and_then(space) else { return self.error("a state space") };
        self.at += 1;
        let (mut align, mut vector, mut ty, mut pointer) = (None, None, None, None);
        while let Some(dot) = self.peek_dot().map(str::to_owned) {
            self.at += 1;
            match dot.as_str() {
                "align" => align = Some(self.u32()?),
                "v2" => vector = Some(2),
                "v4" => vector = Some(4),
                "v8" => vector = Some(8),
                "ptr" => {
                    let mut text = ".ptr".to_owned();
                    while let Some(dot) = self.peek_dot().map(str::to_owned) {
                        self.at += 1;
                        text.push_str(&format!(" .{dot}"));
                        if dot == "align" {
                            text.push_str(&format!(" {}", self.u32()?));
                        }
                    }
                    pointer = Some(text);
                }
                _ if ty.is_none() => ty = Some(dot),
                _ => {
                    self.at -= 1;
                    return self.error("a variable name");
                }
            }
        }
        let Some(ty) = ty else { return self.error("a type") };
        let name = self.name()?;
        let mut variable = Variable {
            line,
            linkage,
            space,
            align,
            ty,
            vector,
            pointer,
            name,
            count: None,
            dims: Vec::new(),
            init: Vec::new(),
        };
        self.declarator(&mut variable)?;
        Ok(variable)
    }

    /// `<n>` and `[n]...` behind a name.
    fn declarator(&mut self, variable: &mut Variable) -> Result<()> {
        if self.eat('<') {
            variable.count = Some(self.u32()?);
            self.expect('>')?;
        }
        while self.eat('[') {
            if self.eat(']') {
                variable.dims.push(0);
                continue;
            }
            let n = self.int()?;
            variable.dims.push(u64::try_from(n).or_else(|_| self.error("an array size"))?);
            self.expect(']')?;
        }
        Ok(())
    }

    fn initialiser(&mut self, variable: &mut Variable) -> Result<()> {
        if !self.eat('=') {
            return Ok(());
        }
        let mut depth = 0;
        loop {
            if self.eat('{') {
                depth += 1;
            } else if self.eat('}') {
                depth -= 1;
            } else if !self.eat(',') {
                let value = self.operand()?;
                variable.init.push(value);
            }
            if depth == 0 {
                return Ok(());
            }
            if self.is_punct(';') {
                return self.error("`}`");
            }
        }
    }

    fn block(&mut self) -> Result<Vec<Statement>> {
        self.expect('{')?;
        let mut statements = Vec::new();
        while !self.eat('}') {
            self.statement(&mut statements)?;
        }
        Ok(statements)
    }

    fn statement(&mut self, out: &mut Vec<Statement>) -> Result<()> {
        match self.peek() {
            None => self.error("`}`"),
            Some(Kind::Punct('{')) => {
                let block = self.block()?;
                out.push(Statement::Block(block));
                Ok(())
            }
            Some(Kind::Punct(';')) => {
                self.at += 1;
                Ok(())
            }
            Some(Kind::Dot(dot)) => match dot.as_str() {
                "loc" => {
                    out.push(Statement::Raw(self.raw(false)));
                    Ok(())
                }
                "pragma" | "callprototype" | "calltargets" => {
                    out.push(Statement::Raw(self.raw(true)));
                    Ok(())
                }
                _ => self.local_variables(out),
            },
            Some(Kind::Name(_))
                if self.tokens.get(self.at + 1).is_some_and(|t| t.kind == Kind::Punct(':')) =>
            {
                let label = self.name()?;
                self.at += 1;
                out.push(if self.eat_dot("branchtargets") {
                    Statement::BranchTargets(label, self.names()?)
                } else {
                    Statement::Label(label)
                });
                Ok(())
            }
            Some(Kind::Name(_) | Kind::Punct('@')) => {
                let instruction = self.instruction()?;
                out.push(Statement::Instruction(instruction));
                Ok(())
            }
            _ => self.error("a statement"),
        }
    }

    /// `a, b, c;`.
    fn names(&mut self) -> Result<Vec<String>> {
        let mut names = vec![self.name()?];
        while self.eat(',') {
            names.push(self.name()?);
        }
        self.expect(';')?;
        Ok(names)
    }

    /// `.reg .b32 a, b, %r<4>;`: one statement per declarator.
    fn local_variables(&mut self, out: &mut Vec<Statement>) -> Result<()> {
        let linkage = self.linkage();
        let mut variable = self.variable(linkage)?;
        loop {
            self.initialiser(&mut variable)?;
            let next = if self.eat(',') {
                let mut next = variable.clone();
                next.name = self.name()?;
                (next.count, next.dims, next.init) = (None, Vec::new(), Vec::new());
                self.declarator(&mut next)?;
                Some(next)
            } else {
                None
            };
            out.push(Statement::Variable(variable));
            match next {
                Some(v) => variable = v,
                None => return self.expect(';'),
            }
        }
    }

    fn instruction(&mut self) -> Result<Instruction> {
        let line = self.line();
        let start = self.tokens.get(self.at).map_or(0, |t| t.start);
        let guard = if self.eat('@') {
            let negated = self.eat('!');
            Some(Guard { negated, name: self.name()? })
        } else {
            None
        };
        let mut opcode = vec![self.name()?];
        while let Some(dot) = self.peek_dot() {
            opcode.push(dot.to_owned());
            self.at += 1;
        }
        let mut operands = Vec::new();
        if !self.eat(';') {
            loop {
                operands.push(self.operand()?);
                if self.eat(';') {
                    break;
                }
                self.expect(',')?;
            }
        }
        let end = self.tokens[self.at - 1].end;
        Ok(Instruction { line, span: start..end, guard, opcode, operands })
    }

    fn operand(&mut self) -> Result<Operand> {
        let first = self.primary()?;
        if self.eat('|') {
            let second = self.primary()?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn list(&mut self, close: char) -> Result<Vec<Operand>> {
        let mut items = Vec::new();
        if self.eat(close) {
            return Ok(items);
        }
        loop {
            items.push(self.operand()?);
            if self.eat(close) {
                return Ok(items);
            }
            self.expect(',')?;
        }
    }

    fn primary(&mut self) -> Result<Operand> {
        match self.peek().cloned() {
            Some(Kind::Name(name)) => {
                self.at += 1;
                if name == "_" {
                    return Ok(Operand::Sink);
                }
                // `%tid.x`, `%r1.y`: a component.
                if let Some(component @ ("x" | "y" | "z" | "w" | "r" | "g" | "b" | "a")) = self.peek_dot() {
                    let full = format!("{name}.{component}");
                    self.at += 1;
                    return Ok(Operand::Name(full));
                }
                Ok(Operand::Name(name))
            }
            Some(Kind::Punct('!')) => {
                self.at += 1;
                self.name().map(Operand::Not)
            }
            Some(Kind::Punct('-')) => {
                self.at += 1;
                match self.peek().cloned() {
                    Some(Kind::Int(v)) => {
                        self.at += 1;
                        Ok(Operand::Int(-v))
                    }
                    Some(Kind::F32(b)) => {
                        self.at += 1;
                        Ok(Operand::F32(b ^ 0x8000_0000))
                    }
                    Some(Kind::F64(b)) => {
                        self.at += 1;
                        Ok(Operand::F64(b ^ (1 << 63)))
                    }
                    _ => self.error("a number"),
                }
            }
            Some(Kind::Int(v)) => {
                self.at += 1;
                Ok(Operand::Int(v))
            }
            Some(Kind::F32(b)) => {
                self.at += 1;
                Ok(Operand::F32(b))
            }
            Some(Kind::F64(b)) => {
                self.at += 1;
                Ok(Operand::F64(b))
            }
            Some(Kind::Punct('{')) => {
                self.at += 1;
                self.list('}').map(Operand::Vector)
            }
            Some(Kind::Punct('(')) => {
                self.at += 1;
                self.list(')').map(Operand::List)
            }
            Some(Kind::Punct('[')) => {
                self.at += 1;
                self.address()
            }
            _ => self.error("an operand"),
        }
    }

    fn address(&mut self) -> Result<Operand> {
        let base = Box::new(self.primary()?);
        let mut offset = 0i64;
        loop {
            let sign = if self.eat('+') {
                1
            } else if self.is_punct('-') {
                self.at += 1;
                -1
            } else {
                break;
            };
            let v = self.int()?;
            offset += sign * i64::try_from(v).or_else(|_| self.error("a 64-bit offset"))?;
        }
        let mut extra = Vec::new();
        while self.eat(',') {
            extra.push(self.operand()?);
        }
        self.expect(']')?;
        Ok(Operand::Address { base, offset, extra })
    }
}

fn space(name: &str) -> Option<Space> {
    Some(match name {
        "reg" => Space::Reg,
        "param" => Space::Param,
        "shared" => Space::Shared,
        "global" => Space::Global,
        "const" => Space::Const,
        "local" => Space::Local,
        _ => return None,
    })
}
