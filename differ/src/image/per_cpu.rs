//! Which numbers in code are offsets of per-CPU variables. Their section is linked to 0 (until Linux 6.14), so that nothing
//! else tells `&variable` from a number: one is where it is added to where a CPU has its variables.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::names::Names;

/// No variable is below that: there are the fixed ones, which are in the operands of `%gs:`.
pub(super) const LEAST: u64 = 4096;

/// What of an instruction a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    Displacement,
    Immediate,
}

/// Numbers that are offsets, by the address of their instruction.
pub(super) type Offsets = BTreeSet<(u64, Field)>;

/// What is known of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Anything,
    /// The immediate of the instruction there.
    Number(u64),
    /// Where a CPU has its variables.
    Base,
}

type Registers = [Holds; 16];

const UNKNOWN: Registers = [Holds::Anything; 16];

/// Finds all in some code.
pub(super) fn offsets(names: &Names<'_, '_>, code: impl Iterator<Item = Instruction>) -> Offsets {
    let code: Vec<Instruction> = code.collect();
    if !code.iter().any(|i| is_base(names, i)) {
        return Offsets::new();
    }
    let mut flow = Flow {
        names,
        code: &code,
        at: BTreeMap::new(),
        info: InstructionInfoFactory::new(),
        found: Offsets::new(),
    };
    flow.settle();
    // What no branch here leads to (a jump table does) begins with nothing known.
    for start in flow.pass().1 {
        flow.at.insert(start, UNKNOWN);
    }
    flow.settle();
    // Only what holds on all ways counts.
    flow.found.clear();
    flow.pass();
    flow.found
}

/// Whether an instruction reads where a CPU has its variables.
fn is_base(names: &Names<'_, '_>, i: &Instruction) -> bool {
    let is_memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    is_memory
        && match i.memory_segment() {
            Register::GS => names.this_cpu.contains(&i.memory_displacement64()),
            _ => names.each_cpu.contains(&i.memory_displacement64()),
        }
}

/// Where register contents go.
struct Flow<'f, 'i, 'd> {
    names: &'f Names<'i, 'd>,
    code: &'f [Instruction],
    /// What is known at the targets of branches.
    at: BTreeMap<u64, Registers>,
    info: InstructionInfoFactory,
    found: Offsets,
}

impl Flow<'_, '_, '_> {
    /// Goes over the code until nothing new comes of it. What is known only ever gets less, so this has an end.
    fn settle(&mut self) {
        while self.pass().0 {}
    }

    /// Goes over the code once. First: whether the targets of branches know less now; second: what was not reached.
    fn pass(&mut self) -> (bool, Vec<u64>) {
        let (mut less, mut unreached) = (false, Vec::new());
        let mut now = Some(UNKNOWN);
        let mut reached = true;
        for i in self.code {
            now = meet(now, self.at.get(&i.ip()).copied());
            let Some(registers) = &mut now else {
                if reached {
                    unreached.push(i.ip());
                }
                reached = false;
                continue;
            };
            reached = true;
            self.step(i, registers);
            if let Some(target) = branch(i) {
                let known = self.at.get(&target).copied();
                let met = meet(known, Some(*registers));
                less |= met != known;
                self.at.extend(met.map(|met| (target, met)));
            }
            if leaves(i) {
                now = None;
            }
        }
        (less, unreached)
    }

    /// What an instruction does.
    fn step(&mut self, i: &Instruction, registers: &mut Registers) {
        let held = |register: Register| {
            index(register).and_then(|at| registers.get(at)).copied().unwrap_or(Holds::Anything)
        };
        let (to, from) = (i.op0_register(), i.op1_register());
        let memory = i.memory_base() != Register::None || i.memory_index() != Register::None;
        let mut added = Vec::new();
        if memory {
            added.extend([held(i.memory_base()), held(i.memory_index())]);
            added.push(Holds::Number(i.ip()));
        }
        let mut offset = |held: &[Holds], field: &dyn Fn(u64) -> Field| {
            let numbers = held.iter().filter_map(|held| match held {
                Holds::Number(at) => Some((*at, field(*at))),
                _ => None,
            });
            if held.contains(&Holds::Base) {
                self.found.extend(numbers);
            }
        };
        let own = |at: u64| if at == i.ip() { Field::Displacement } else { Field::Immediate };
        offset(&added, &own);
        let loads_base = is_base(self.names, i);
        let immediate = i.op_count() == 2 && i.try_immediate(1).is_ok();
        let two = i.op1_kind() == OpKind::Register;
        let result = match i.mnemonic() {
            Mnemonic::Mov if immediate => Holds::Number(i.ip()),
            Mnemonic::Mov if loads_base => Holds::Base,
            Mnemonic::Mov if two => held(from),
            Mnemonic::Add => {
                let other = match (immediate, two, loads_base) {
                    (true, _, _) => Holds::Number(i.ip()),
                    (_, true, _) => held(from),
                    (_, _, true) => Holds::Base,
                    _ => Holds::Anything,
                };
                offset(&[held(to), other], &|_| Field::Immediate);
                Holds::Anything
            }
            _ => Holds::Anything,
        };
        self.forget(i, registers);
        // Only whole registers.
        let whole = i.op0_kind() == OpKind::Register && matches!(to.size(), 4 | 8);
        let register = index(to).filter(|_| whole && i.mnemonic() == Mnemonic::Mov);
        if let Some(register) = register.and_then(|at| registers.get_mut(at)) {
            *register = result;
        }
    }

    /// Forgets what an instruction overwrites.
    fn forget(&mut self, i: &Instruction, registers: &mut Registers) {
        let written = self.info.info(i).used_registers().iter().filter(|used| {
            !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
        });
        for at in written.filter_map(|used| index(used.register())) {
            registers.iter_mut().skip(at).take(1).for_each(|r| *r = Holds::Anything);
        }
        if matches!(i.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
            // rbx, rsp, rbp and r12 to r15 are kept (System V ABI).
            let kept = |at: usize| matches!(at, 3..=5 | 12..);
            let lost = registers.iter_mut().enumerate().filter(|(at, _)| !kept(*at));
            lost.for_each(|(_, r)| *r = Holds::Anything);
        }
    }
}

/// What is known where two ways meet. No way leads there yet if there is none.
fn meet(one: Option<Registers>, other: Option<Registers>) -> Option<Registers> {
    let (Some(mut one), Some(other)) = (one, other) else { return one.or(other) };
    for (p, q) in one.iter_mut().zip(other) {
        if *p != q {
            *p = Holds::Anything;
        }
    }
    Some(one)
}

fn branch(i: &Instruction) -> Option<u64> {
    let jumps = matches!(
        i.flow_control(),
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
    );
    (jumps && i.op0_kind() == OpKind::NearBranch64).then(|| i.near_branch_target())
}

/// Whether what follows an instruction does not run behind it.
fn leaves(i: &Instruction) -> bool {
    let flow = matches!(
        i.flow_control(),
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return
    );
    flow || i.code() == Code::INVALID
}

fn index(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}
