//! Runs generated code on the host, instruction by instruction as iced-x86 decodes it. What it does not know it
//! refuses, and so it does a wild read, a write or a register that is not free.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::{Layout, Place};

/// Base of the CPU's area.
pub const GS: u64 = 0x5000_0000;
pub const TASK: u64 = 0xffff_8880_0100_0000;

#[derive(Clone, Debug)]
pub struct Machine {
    registers: BTreeMap<Register, u64>,
    /// Values by address; a read must hit one exactly.
    memory: BTreeMap<u64, u64>,
    preempt_count: u64,
    flags: Option<Flags>,
    /// Calls of the scheduler.
    pub rescheds: u32,
    /// Instructions run.
    pub steps: u32,
}

#[derive(Clone, Copy, Debug)]
struct Flags {
    zero: bool,
    below: Option<bool>,
    less: Option<bool>,
}

pub const LAYOUT: Layout = Layout {
    current: 0x1ef40,
    cpu: 0x1ef48,
    preempt_count: 0x1ef50,
    pid: 0x9a0,
    tgid: 0x9a8,
    comm: 0xbd0,
    group_leader: 0x9f0,
    start_time: 0xb40,
    cred: 0xbc0,
    uid: 8,
    cgroups: 0xc98,
    dfl_cgrp: 0x48,
    kn: 0x100,
    kn_id: 0x68,
    jiffies: 0xffff_ffff_8280_5900,
    initial_jiffies: 0xfffe_db08,
};

pub const PLACE: Place = Place {
    at: 0xffff_ffff_c020_0000,
    take: 0xffff_ffff_c020_4000,
    leave: 0xffff_ffff_c020_4010,
    resched: 0xffff_ffff_8100_0000,
};

impl Machine {
    /// A CPU on which `call` is made.
    pub fn new(call: &crate::policy::tests::model::Call) -> Self {
        let (leader, cred, set, group, node) =
            (TASK + 0x10000, TASK + 0x20000, TASK + 0x30000, TASK + 0x40000, TASK + 0x50000);
        let comm = u128::from_le_bytes(call.comm_bytes());
        let at = |base: u64, offset: u32| base + u64::from(offset);
        let memory = BTreeMap::from([
            (at(GS, LAYOUT.current), TASK),
            (at(GS, LAYOUT.cpu), u64::from(call.cpu) | 0xdead << 32),
            (at(TASK, LAYOUT.pid), u64::from(call.pid) | 0xdead << 32),
            (at(TASK, LAYOUT.tgid), u64::from(call.tgid) | 0xdead << 32),
            (at(TASK, LAYOUT.comm), comm as u64),
            (at(TASK, LAYOUT.comm) + 8, (comm >> 64) as u64),
            (at(TASK, LAYOUT.group_leader), leader),
            (at(leader, LAYOUT.start_time), call.started),
            (at(TASK, LAYOUT.cred), cred),
            (at(cred, LAYOUT.uid), u64::from(call.uid) | 0xdead << 32),
            (at(TASK, LAYOUT.cgroups), set),
            (at(set, LAYOUT.dfl_cgrp), group),
            (at(group, LAYOUT.kn), node),
            (at(node, LAYOUT.kn_id), call.cgroup),
            (LAYOUT.jiffies, call.ticks.wrapping_add(LAYOUT.initial_jiffies)),
        ]);
        let arguments = [
            Register::RDI,
            Register::RSI,
            Register::RDX,
            Register::RCX,
            Register::R8,
            Register::R9,
        ];
        let registers = arguments.into_iter().zip(call.arguments).collect();
        // The kernel's count has the bit for "nobody wants this CPU" set.
        let preempt_count = 0x8000_0000;
        Self { registers, memory, preempt_count, flags: None, rescheds: 0, steps: 0 }
    }

    /// Somebody else wants the CPU.
    pub fn wanted(mut self) -> Self {
        self.preempt_count = 0;
        self
    }

    /// Has a value at an address.
    pub fn put(&mut self, address: u64, value: u64) {
        self.memory.insert(address, value);
    }

    /// Whether the call takes the edition.
    pub fn run(&mut self, code: &[u8]) -> bool {
        let before = self.clone();
        let mut at = PLACE.at;
        while at != PLACE.take && at != PLACE.leave {
            let offset = (at - PLACE.at) as usize;
            let mut decoder =
                Decoder::with_ip(64, &code[offset..], at, DecoderOptions::NO_INVALID_CHECK);
            let instruction = decoder.decode();
            assert_eq!(at == PLACE.at, instruction.mnemonic() == Mnemonic::Endbr64);
            at = self.step(&instruction);
            self.steps += 1;
            assert!(self.steps < 2000);
        }
        assert_eq!(self.preempt_count, before.preempt_count);
        for (register, value) in &before.registers {
            assert_eq!(self.registers[register], *value, "{register:?} was changed");
        }
        at == PLACE.take
    }

    fn step(&mut self, i: &Instruction) -> u64 {
        use Mnemonic::*;
        let bits = 8 * self.size(i) as u32;
        let low = |value: u64| value & (u64::MAX >> (64 - bits));
        match i.mnemonic() {
            Endbr64 => {}
            Jmp => return i.near_branch_target(),
            Je | Jne | Jb | Jae | Jl | Jge => return self.branch(i),
            Call => {
                assert_eq!(i.near_branch_target(), PLACE.resched);
                self.rescheds += 1;
            }
            Inc | Dec => {
                assert_eq!(self.address(i), GS + u64::from(LAYOUT.preempt_count));
                let by = if i.mnemonic() == Inc { 1 } else { u64::MAX };
                self.preempt_count = low(self.preempt_count.wrapping_add(by));
                let zero = self.preempt_count == 0;
                self.flags = Some(Flags { zero, below: None, less: None });
            }
            Cmp => {
                let (a, b) = (low(self.value(i, 0)), low(self.value(i, 1)));
                let signed = |value: u64| (value << (64 - bits)) as i64 >> (64 - bits);
                let (below, less) = (Some(a < b), Some(signed(a) < signed(b)));
                self.flags = Some(Flags { zero: a == b, below, less });
            }
            Mov | Movzx => {
                let value = self.value(i, 1);
                self.write(i, value);
            }
            Movsx | Movsxd => {
                let from = 64 - 8 * i.op1_register().size() as u32;
                let value = (self.value(i, 1) << from) as i64 >> from;
                self.write(i, value as u64);
            }
            Bswap => {
                assert_eq!(bits, 64);
                let value = self.value(i, 0).swap_bytes();
                self.write(i, value);
            }
            Xor | Add | Sub | And | Imul | Shl | Shr => {
                let (a, b) = (self.value(i, 0), self.value(i, 1));
                self.flags = None;
                let value = match i.mnemonic() {
                    Xor => a ^ b,
                    Add => a.wrapping_add(b),
                    Sub => a.wrapping_sub(b),
                    And => a & b,
                    Imul => a.wrapping_mul(b),
                    Shl => a << b,
                    _ => a >> b,
                };
                assert_eq!(bits, 64);
                self.write(i, value);
            }
            other => panic!("unknown instruction {other:?}"),
        }
        i.next_ip()
    }

    fn branch(&self, i: &Instruction) -> u64 {
        use Mnemonic::*;
        let flags = self.flags.expect("flags are undefined here");
        let taken = match i.mnemonic() {
            Je => flags.zero,
            Jne => !flags.zero,
            Jb => flags.below.unwrap(),
            Jae => !flags.below.unwrap(),
            Jl => flags.less.unwrap(),
            _ => !flags.less.unwrap(),
        };
        if taken { i.near_branch_target() } else { i.next_ip() }
    }

    /// Bytes of the first operand.
    fn size(&self, i: &Instruction) -> usize {
        match i.op_kind(0) {
            OpKind::Register => i.op0_register().size(),
            OpKind::Memory => i.memory_size().size(),
            _ => 8,
        }
    }

    fn address(&self, i: &Instruction) -> u64 {
        let segment = if i.segment_prefix() == Register::GS { GS } else { 0 };
        let index = match i.memory_index() {
            Register::None => 0,
            index => self.registers[&index].wrapping_mul(u64::from(i.memory_index_scale())),
        };
        let base = match i.memory_base() {
            // The decoder has resolved an address relative to the instruction.
            Register::None | Register::RIP => 0,
            base => self.registers[&base],
        };
        segment.wrapping_add(base).wrapping_add(index).wrapping_add(i.memory_displacement64())
    }

    fn value(&self, i: &Instruction, operand: u32) -> u64 {
        match i.op_kind(operand) {
            OpKind::Register => {
                let register = i.op_register(operand);
                let value = self.registers[&register.full_register()];
                value & (u64::MAX >> (64 - 8 * register.size()))
            }
            OpKind::Memory => {
                let address = self.address(i);
                let value = self.memory.get(&address).expect("a wild read");
                value & (u64::MAX >> (64 - 8 * i.memory_size().size()))
            }
            _ => i.immediate(operand),
        }
    }

    fn write(&mut self, i: &Instruction, value: u64) {
        assert_eq!(i.op_kind(0), OpKind::Register);
        let register = i.op0_register();
        assert!(matches!(register.size(), 4 | 8));
        let full = register.full_register();
        assert!(matches!(full, Register::RAX | Register::R10 | Register::R11), "{full:?}");
        self.registers.insert(full, value & (u64::MAX >> (64 - 8 * register.size())));
    }
}
