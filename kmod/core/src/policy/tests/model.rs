//! A call, a host, and what an expression means, said in the plainest way.

use std::cell::RefCell;

use crate::policy::language::{Argument, Environment, Expr, Operand, Relation, Term};
use crate::policy::{Context, Field, IntegerType, share};

#[derive(Clone, Debug)]
pub struct Call {
    pub pid: u32,
    pub tgid: u32,
    pub uid: u32,
    pub cpu: u32,
    pub cgroup: u64,
    pub comm: Vec<u8>,
    pub ticks: u64,
    pub started: u64,
    pub arguments: [u64; 6],
    /// What was asked for.
    pub asked: RefCell<Vec<&'static str>>,
}

impl Call {
    fn asked<T>(&self, what: &'static str, value: T) -> T {
        self.asked.borrow_mut().push(what);
        value
    }

    pub fn comm_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..self.comm.len()].copy_from_slice(&self.comm);
        bytes
    }
}

impl Context for Call {
    fn pid(&self) -> u32 {
        self.asked("pid", self.pid)
    }
    fn tgid(&self) -> u32 {
        self.asked("tgid", self.tgid)
    }
    fn uid(&self) -> u32 {
        self.asked("uid", self.uid)
    }
    fn cpu(&self) -> u32 {
        self.asked("cpu", self.cpu)
    }
    fn cgroup(&self) -> u64 {
        self.asked("cgroup", self.cgroup)
    }
    fn comm(&self) -> [u8; 16] {
        self.asked("comm", self.comm_bytes())
    }
    fn ticks(&self) -> u64 {
        self.asked("ticks", self.ticks)
    }
    fn started(&self) -> u64 {
        self.asked("started", self.started)
    }
    fn argument(&self, index: usize) -> u64 {
        self.asked("argument", self.arguments[index])
    }
}

/// Two cgroups; the types of some arguments.
pub struct World;

impl Environment for World {
    fn cgroup(&self, path: &str) -> Result<u64, String> {
        match path {
            "/web" => Ok(4242),
            "/db" => Ok(17),
            _ => Err("no such directory".into()),
        }
    }
    fn argument(&self, index: usize) -> Argument {
        match index {
            2 => Argument::Integer(IntegerType::S32),
            3 => Argument::Other,
            _ => Argument::Unknown,
        }
    }
    fn seed(&self) -> u64 {
        99
    }
}

/// What `expr` means.
pub fn meaning(expr: &Expr, call: &Call, hz: u64) -> bool {
    match expr {
        Expr::Constant(value) => *value,
        Expr::Not(inner) => !meaning(inner, call, hz),
        Expr::All(parts) => parts.iter().all(|part| meaning(part, call, hz)),
        Expr::Any(parts) => parts.iter().any(|part| meaning(part, call, hz)),
        Expr::Term(term) => match term {
            Term::Compare { operand, relation, value } => {
                let found = number(operand, call, hz);
                match relation {
                    Relation::Equal => found == *value,
                    Relation::NotEqual => found != *value,
                    Relation::Less => found < *value,
                    Relation::LessOrEqual => found <= *value,
                    Relation::Greater => found > *value,
                    Relation::GreaterOrEqual => found >= *value,
                }
            }
            Term::In { operand, values } => values.contains(&number(operand, call, hz)),
            Term::Comm { equal, name } => (name_of(call) == name.as_bytes()) == *equal,
            Term::CommStarts(prefix) => name_of(call).starts_with(prefix.as_bytes()),
            Term::CommIn(names) => names.iter().any(|name| name_of(call) == name.as_bytes()),
            Term::Percent { of_million, seed } => {
                let share = share(call.tgid, call.started, *seed);
                u64::from(share) < u64::from(*of_million) * (1 << 32) / 1_000_000
            }
        },
    }
}

fn name_of(call: &Call) -> &[u8] {
    call.comm.split(|byte| *byte == 0).next().unwrap()
}

/// The left side as a mathematician's number.
fn number(operand: &Operand, call: &Call, hz: u64) -> i128 {
    let raw = match operand.field {
        Field::Pid => u64::from(call.pid),
        Field::Tgid => u64::from(call.tgid),
        Field::Uid => u64::from(call.uid),
        Field::Cpu => u64::from(call.cpu),
        Field::Cgroup => call.cgroup,
        Field::Time => call.ticks / hz,
        argument => call.arguments[argument.argument().unwrap()],
    };
    let bits = operand.as_type.bits();
    let low = i128::from(raw) & ((1 << bits) - 1);
    match operand.mask {
        Some(mask) => low & i128::from(mask),
        None if operand.as_type.signed() && low >> (bits - 1) != 0 => low - (1 << bits),
        None => low,
    }
}
