//! `handlers.S`: what is called at the entry of each redirected function, and the addresses of it that stand beside the record;
//! `docs/architecture.md` explains it.

use std::fmt::Write as _;

use dynamos_abi::counters::{BEGUN, BITS, CALL, ORIGINAL, SIZE, SPREAD};
use dynamos_abi::policy::{COUNT, PAST_ENDBR, SLOT, SLOTS};

use crate::counting::ObjectOf;

/// The registers of a call's arguments, in their order (System V ABI for x86-64, 3.2.3).
const ARGUMENTS: [&str; 6] = ["rdi", "rsi", "rdx", "rcx", "r8", "r9"];

/// The hint tells objtool that the frame of edition 0, which has run nothing but its `call __fentry__`, is skipped: the
/// caller's return address is the second word on the stack.
const ENTER: &str =
    "\tUNWIND_HINT sp_reg=ORC_REG_SP sp_offset=16 type=UNWIND_HINT_TYPE_CALL\n\tendbr64\n";

/// A return, to edition 0 or to the caller.
const RETURN: &str = "\tUNWIND_HINT_FUNC\n\tRET\n";

/// How the redirected functions choose an edition, by the numbers of their clones.
#[derive(Clone, Debug, Default)]
pub struct Handlers {
    /// The functions.
    pub functions: Vec<Redirected>,
    /// Whether each has a bridge edition too.
    pub phases: bool,
}

/// A function that is redirected.
#[derive(Clone, Debug, Default)]
pub struct Redirected {
    /// Whether it has an adaptation handler of the update's own.
    pub adapts: bool,
    /// How the object of a call is found: of all functions, or of none.
    pub object: Option<ObjectOf>,
}

/// Address indices of one function's handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The handler that goes straight to the clone.
    pub steady: u32,
    /// The one that asks the flag.
    pub transition: u32,
    /// The place for policies.
    pub policy: u32,
    /// The counting handler, and the way on in edition 0 from there.
    pub counting: Option<[u32; 2]>,
}

impl Handlers {
    /// Whether calls on objects can be counted.
    pub fn count(&self) -> bool {
        self.functions.iter().any(|function| function.object.is_some())
    }

    /// How many addresses there are.
    pub fn addresses(&self) -> u32 {
        let functions = self.functions.len() as u32;
        if self.count() { 5 * functions + 1 } else { 3 * functions }
    }

    /// Indices of the addresses of function `number`, the first of all being `base`.
    pub fn addresses_of(&self, base: u32, number: u32) -> Addresses {
        let first = base + 3 * number;
        let counting = base + 3 * self.functions.len() as u32 + 2 * number;
        Addresses {
            steady: first,
            transition: first + 1,
            policy: first + 2,
            counting: self.count().then_some([counting, counting + 1]),
        }
    }

    /// Index of the address of the use counters.
    pub fn counters(&self, base: u32) -> Option<u32> {
        self.count().then(|| base + self.addresses() - 1)
    }

    /// The text.
    ///
    /// In the slots for policies there are NOPs until dynamos.ko writes code there that does not move the stack pointer.
    pub fn source(&self) -> String {
        let mut text = String::from(
            "/* SPDX-License-Identifier: GPL-2.0 */\n/* Made by dynamos-diff: redirection handlers. */\n\
             #include <linux/linkage.h>\n#include <asm/asm.h>\n#include <asm/nospec-branch.h>\n\
             #include <asm/unwind_hints.h>\n\n\t.section .text.dynamos.handlers, \"ax\"\n",
        );
        for (index, function) in self.functions.iter().enumerate() {
            self.function(&mut text, index, function);
        }
        text.push_str("\n\t.section .dynamos.addrs, \"a\"\n\t.balign 8\n");
        for index in 0..self.functions.len() {
            let _ = writeln!(
                text,
                "\t.quad dynamos_steady_{index}, dynamos_transition_{index}, dynamos_policy_{index}"
            );
        }
        if self.count() {
            for index in 0..self.functions.len() {
                let _ =
                    writeln!(text, "\t.quad dynamos_counting_{index}, dynamos_original_{index}");
            }
            text.push_str("\t.quad dynamos_counters\n");
            let _ =
                write!(text, "\n\t.section .bss\n\t.balign 8\ndynamos_counters:\n\t.zero {SIZE}\n");
        }
        text.push_str("\t.section .note.GNU-stack, \"\", @progbits\n");
        text
    }

    fn function(&self, text: &mut String, index: usize, function: &Redirected) {
        let clone = clone_symbol(index);
        let (ask, stay) = if function.adapts { asking(index) } else { Default::default() };
        // With phases the flag is read once, so what it was must be kept.
        let choose = if self.phases {
            let bridge = bridge_symbol(index);
            format!(
                "\tcmpb $1, dynamos_active(%rip)\n\tjb 1f\n\tlea 8(%rsp), %rsp\n\tje {bridge}\n\tjmp {clone}\n"
            )
        } else {
            format!("\tcmpb $0, dynamos_active(%rip)\n\tje 1f\n\tadd $8, %rsp\n\tjmp {clone}\n")
        };
        let _ = write!(
            text,
            "\nSYM_CODE_START(dynamos_steady_{index})\n{ENTER}{ask}\tadd $8, %rsp\n\tjmp {clone}\n{stay}\
             SYM_CODE_END(dynamos_steady_{index})\n\
             \nSYM_CODE_START(dynamos_transition_{index})\n{ENTER}{choose}1:{RETURN}\
             SYM_CODE_END(dynamos_transition_{index})\n"
        );
        if let Some(object) = &function.object {
            counting(text, index, object);
        }
        let _ = write!(
            text,
            "\nSYM_CODE_START(dynamos_policy_{index})\n{ENTER}{RETURN}\t.balign {SLOTS}, 0xcc\n"
        );
        // objtool must see an end.
        const UD2: u64 = 2;
        for _ in 0..COUNT {
            let _ = write!(text, "{ENTER}\t.fill {}, 1, 0x90\n\tud2\n", SLOT - PAST_ENDBR - UD2);
        }
        let _ = writeln!(text, "SYM_CODE_END(dynamos_policy_{index})");
    }
}

/// Global name of the clone of the redirected function with this index.
pub fn clone_symbol(index: usize) -> String {
    format!("dynamos_clone_{index}")
}

/// Global name of the bridge edition of the redirected function with this index.
pub fn bridge_symbol(index: usize) -> String {
    format!("dynamos_bridge_{index}")
}

/// Global name of the adaptation handler of the redirected function with this index.
pub fn adaptation_symbol(index: usize) -> String {
    format!("dynamos_adaptation_{index}")
}

/// Global name of what gives the object of a call of the redirected function with this index.
pub fn accessor_symbol(index: usize) -> String {
    format!("dynamos_accessor_{index}")
}

fn lines(text: &mut String, all: impl IntoIterator<Item = String>) {
    for line in all {
        let _ = writeln!(text, "\t{line}");
    }
}

fn saved() -> impl Iterator<Item = String> {
    ARGUMENTS.iter().map(|register| format!("push %{register}"))
}

fn restored() -> impl Iterator<Item = String> {
    ARGUMENTS.iter().rev().map(|register| format!("pop %{register}"))
}

/// What a steady handler does before it takes the edition, if an adaptation handler is to be asked, and where it
/// goes if the answer is edition 0.
///
/// An adaptation handler gets the arguments of the call, whose registers it may change; `rax`, `r10` and `r11` hold
/// nothing there (System V ABI for x86-64, 3.2.1).
fn asking(index: usize) -> (String, String) {
    let mut ask = String::new();
    lines(&mut ask, saved());
    lines(&mut ask, [format!("call {}", adaptation_symbol(index))]);
    lines(&mut ask, restored());
    lines(&mut ask, ["test %eax, %eax".into(), "je 1f".into()]);
    (ask, format!("1:{RETURN}"))
}

/// The counting handler, which `kmod/core/src/counters/code.rs` knows byte for byte and explains, and the way on in edition 0
/// from there, where dynamos.ko writes a jump.
///
/// An edition is called with the counter's address between its frame and the caller's: in the place of the return address
/// into edition 0, which ENTER has skipped.
fn counting(text: &mut String, index: usize, object: &ObjectOf) {
    let (clone, nop) = (clone_symbol(index), ORIGINAL);
    let object = match object {
        ObjectOf::Accessor(_) => format!("call {}", accessor_symbol(index)),
        ObjectOf::Argument(number, _) => {
            format!("mov %{}, %rax", ARGUMENTS.get(*number).unwrap_or(&"rdi"))
        }
    };
    let _ = write!(
        text,
        "\nSYM_FUNC_START(dynamos_original_{index})\n\t.nops {nop}\n\tRET\nSYM_FUNC_END(dynamos_original_{index})\n\
         \nSYM_CODE_START(dynamos_counting_{index})\n{ENTER}\
         \tcmpb $1, dynamos_active(%rip)\n\tjb 3f\n\tja 1f\n\tadd $8, %rsp\n\tjmp {clone}\n\
         1:\n"
    );
    lines(text, saved());
    let (shift, back) = (64 - BITS, 8 * ARGUMENTS.len());
    lines(
        text,
        [
            object,
            format!("movabs ${SPREAD:#x}, %rcx"),
            "imul %rcx, %rax".into(),
            format!("shr ${shift}, %rax"),
            "lea dynamos_counters+8(%rip), %rcx".into(),
            "lea (%rcx,%rax,8), %rax".into(),
            format!("mov %rax, {back}(%rsp)"),
            format!("movabs ${:#x}, %rcx", CALL + BEGUN),
            "lock xadd %rcx, (%rax)".into(),
            "test $1, %cl".into(),
        ],
    );
    lines(text, restored());
    let _ = write!(
        text,
        "\tjne 1f\n\tcall dynamos_original_{index}\n\tjmp 2f\n1:\tcall {clone}\n2:\tpop %rcx\n\
         \tmov $-{CALL}, %rsi\n\tlock xadd %rsi, (%rcx)\n\tsub ${CALL}, %rsi\n\tcmp $1, %esi\n\tja 3f\n\
         \tmov dynamos_counters(%rip), %rdi\n\txor %rsi, %rdi\n\ttest $1, %dil\n\tje 3f\n\
         \tmov %rax, %r8\n\tmov %rsi, %rax\n\txor $1, %rsi\n\tlock cmpxchg %rsi, (%rcx)\n\tmov %r8, %rax\n\
         3:{RETURN}SYM_CODE_END(dynamos_counting_{index})\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_where_the_text_has_them() {
        let plain = Redirected::default();
        let counted =
            Redirected { object: Some(ObjectOf::Argument(1, "f".into())), ..Redirected::default() };
        let handlers = Handlers { functions: vec![plain.clone(), plain], phases: false };
        assert_eq!((handlers.addresses(), handlers.counters(10)), (6, None));
        assert_eq!(handlers.addresses_of(10, 1).policy, 15);
        assert!(!handlers.source().contains("dynamos_counters"));
        let handlers = Handlers { functions: vec![counted.clone(), counted], phases: false };
        let addresses = handlers.addresses_of(10, 1);
        assert_eq!((addresses.steady, addresses.counting), (13, Some([18, 19])));
        assert_eq!((handlers.addresses(), handlers.counters(10)), (11, Some(20)));
        let text = handlers.source();
        let (_, table) = text.split_once(".section .dynamos.addrs").unwrap();
        let names: Vec<&str> = table
            .lines()
            .filter_map(|line| line.trim().strip_prefix(".quad "))
            .flat_map(|names| names.split(", "))
            .collect();
        assert_eq!(names[5], "dynamos_policy_1");
        assert_eq!(names[8..], ["dynamos_counting_1", "dynamos_original_1", "dynamos_counters"]);
    }
}
