//! Where every function and symbol of a record is.
//!
//! A function is tried at every address that kallsyms has under its name in its object, and must match at
//! exactly one. What its fields refer to then gives the addresses of other symbols, which decides between
//! functions of one name and one code, and finds what has no name. All that is known of a symbol must agree.
//!
//! Work is bounded by a [`Budget`], whatever the record says.

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use dynamos_abi::{Function, Record, function_flags, symbol_flags};

use crate::budget::Budget;
use crate::candidates::Names;
use crate::matching::{Matched, Memory, Mismatch, What, match_function};
use crate::refusal::Refusal;
use crate::sort::sort;

/// The outcome: everything a record speaks of, found and proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Address of each symbol (an offset, if it is per-CPU); `None` if nothing needs it and nothing gave it.
    pub symbols: Vec<Option<u64>>,
    /// Address of each function.
    pub functions: Vec<u64>,
    /// Indices of functions whose ftrace site is in use.
    pub traced: Vec<u32>,
}

/// Decides the address of every function and of every symbol that is needed.
pub fn resolve<'a>(
    record: &Record<'a>,
    names: &dyn Names,
    memory: &mut dyn Memory,
    budget: &mut Budget,
) -> Result<Resolved, Refusal<'a>> {
    let mut resolver = Resolver::new(record, names, memory, budget)?;
    resolver.match_all()?;
    resolver.name_the_rest()?;
    resolver.finish()
}

/// How a function stands after a try.
enum Found {
    At(u64, Matched),
    NotYet,
}

/// Adds to the first two of something.
fn note<T: Copy>(first_two: &mut [Option<T>; 2], value: T) {
    if let Some(slot) = first_two.iter_mut().find(|slot| slot.is_none()) {
        *slot = Some(value);
    }
}

/// What a symbol is known to be, and which function said so first.
type Known = Option<(u64, u32)>;

struct Resolver<'a, 'k> {
    record: &'k Record<'a>,
    names: &'k dyn Names,
    memory: &'k mut dyn Memory,
    budget: &'k mut Budget,
    symbols: Vec<Known>,
    functions: Vec<Option<u64>>,
    traced: Vec<u32>,
    /// Bytes in memory of the function being tried.
    running: Vec<u8>,
    /// What the function being tried refers to.
    derived: Vec<(u32, u64)>,
}

impl<'a, 'k> Resolver<'a, 'k> {
    fn new(
        record: &'k Record<'a>,
        names: &'k dyn Names,
        memory: &'k mut dyn Memory,
        budget: &'k mut Budget,
    ) -> Result<Self, Refusal<'a>> {
        let count = record.functions().len() as usize;
        let longest = record.functions().iter().map(|function| function.bytes.len).max();
        let mut traced = Vec::new();
        traced.try_reserve_exact(count).map_err(|_| Refusal::OutOfMemory)?;
        Ok(Resolver {
            symbols: filled(None, record.symbols().len() as usize)?,
            functions: filled(None, count)?,
            running: filled(0, longest.unwrap_or(0) as usize)?,
            derived: Vec::new(),
            record,
            names,
            memory,
            budget,
            traced,
        })
    }

    /// Matches functions until all are found; what one refers to may decide where another is.
    fn match_all(&mut self) -> Result<(), Refusal<'a>> {
        loop {
            let mut progress = false;
            let mut open = false;
            for (index, function) in (0u32..).zip(self.record.functions().iter()) {
                if self.function(index).is_some() {
                    continue;
                }
                if !self.budget.spend(1) {
                    return Err(Refusal::TooMuchWork);
                }
                match self.find(&function)? {
                    Found::At(address, matched) => {
                        self.accept(index, &function, address, matched)?;
                        progress = true;
                    }
                    Found::NotYet => open = true,
                }
            }
            if !open {
                return Ok(());
            }
            if !progress {
                return Err(self.stuck());
            }
        }
    }

    /// Looks for a function.
    fn find(&mut self, function: &Function) -> Result<Found, Refusal<'a>> {
        if let Some(address) = self.symbol(function.symbol) {
            return self.find_among(function, &[address]);
        }
        if function.flags & function_flags::FRAGMENT != 0 {
            return Ok(Found::NotYet);
        }
        let names = self.names;
        let candidates = names.candidates(function.symbol);
        if candidates.is_empty() {
            // Without a name it can still be known by who refers to it.
            let anonymous = self.flags(function.symbol) & symbol_flags::ANONYMOUS != 0;
            if anonymous {
                return Ok(Found::NotYet);
            }
            let (function, object) = self.names_of(function.symbol);
            return Err(Refusal::NoFunction { function, object });
        }
        self.find_among(function, candidates)
    }

    /// Tries `candidates`: exactly one must match.
    fn find_among(
        &mut self,
        function: &Function,
        candidates: &[u64],
    ) -> Result<Found, Refusal<'a>> {
        let mut matching = [None; 2]; // with the number of them, as far as it matters
        let mut agreeing = [None; 2];
        let mut closest: Option<Mismatch> = None;
        for &address in candidates {
            match self.attempt(function, address)? {
                Ok(matched) => {
                    note(&mut matching, (address, matched));
                    if self.agrees() {
                        note(&mut agreeing, (address, matched));
                    }
                }
                Err(mismatch) => {
                    if closest.is_none_or(|other| other.offset < mismatch.offset) {
                        closest = Some(mismatch);
                    }
                }
            }
        }
        // One that matches but contradicts what is known is taken all the same if there is no other: the
        // contradiction is then the reason to refuse.
        match (agreeing, matching) {
            ([Some((address, matched)), None], _) | (_, [Some((address, matched)), None]) => {
                return Ok(Found::At(address, matched));
            }
            (_, [Some(_), Some(_)]) => return Ok(Found::NotYet),
            _ => {}
        }
        let (name, object) = self.names_of(function.symbol);
        let Some(mismatch) = closest else {
            return Err(Refusal::Unreadable { function: name, object });
        };
        if mismatch.what == What::Budget {
            return Err(Refusal::TooMuchWork);
        }
        Err(Refusal::Differs { function: name, object, candidates: candidates.len(), mismatch })
    }

    /// Matches `function` at one address; leaves what it refers to in `derived`.
    fn attempt(
        &mut self,
        function: &Function,
        address: u64,
    ) -> Result<Result<Matched, Mismatch>, Refusal<'a>> {
        let unreadable = Mismatch { offset: 0, expected: 0, found: 0, what: What::Unreadable };
        let len = function.bytes.len as usize;
        if !self.budget.spend(len) {
            return Err(Refusal::TooMuchWork);
        }
        let Some(running) = self.running.get_mut(..len) else {
            return Err(Refusal::Record("function length"));
        };
        if address == 0 || !self.memory.read(address, running) {
            return Ok(Err(unreadable));
        }
        let (derived, mut full) = (&mut self.derived, false);
        derived.clear();
        let outcome = match_function(
            self.record,
            function,
            address,
            running,
            self.memory,
            self.budget,
            &mut |symbol, value| match derived.try_reserve(1) {
                Ok(()) => derived.push((symbol, value)),
                Err(_) => full = true,
            },
        );
        if full { Err(Refusal::OutOfMemory) } else { Ok(outcome) }
    }

    /// Whether what the function tried last refers to is what is known of those symbols.
    fn agrees(&self) -> bool {
        self.derived.iter().all(|&(symbol, value)| match self.symbol(symbol) {
            Some(known) => known == value,
            None => self.may_be(symbol, value),
        })
    }

    /// Whether kallsyms lets `symbol` be at `value`: it has it there, or does not know the name.
    fn may_be(&self, symbol: u32, value: u64) -> bool {
        let candidates = self.names.candidates(symbol);
        let anonymous = self.flags(symbol) & symbol_flags::ANONYMOUS != 0;
        anonymous || candidates.is_empty() || candidates.binary_search(&value).is_ok()
    }

    /// Takes a function as found and learns what it refers to.
    fn accept(
        &mut self,
        index: u32,
        function: &Function,
        address: u64,
        matched: Matched,
    ) -> Result<(), Refusal<'a>> {
        // Another candidate may have been tried since: `derived` must be this one's.
        if self.attempt(function, address)? != Ok(matched) {
            let (function, object) = self.names_of(function.symbol);
            return Err(Refusal::Unreadable { function, object });
        }
        self.learn(function.symbol, address, index)?;
        let derived = core::mem::take(&mut self.derived);
        for &(symbol, value) in &derived {
            self.learn(symbol, value, index)?;
        }
        self.derived = derived;
        if matched.traced.is_some() {
            self.traced.push(index);
        }
        match self.functions.get_mut(index as usize) {
            Some(slot) => *slot = Some(address),
            None => return Err(Refusal::Record("function index")),
        }
        Ok(())
    }

    /// Takes the address of a symbol, as function `by` gives it.
    fn learn(&mut self, symbol: u32, value: u64, by: u32) -> Result<(), Refusal<'a>> {
        let (name, object) = self.names_of(symbol);
        let Some(&known) = self.symbols.get(symbol as usize) else {
            return Err(Refusal::Record("symbol index"));
        };
        if let Some((other, first)) = known {
            if other == value {
                return Ok(());
            }
            let (first, second) = (self.function_name(first), self.function_name(by));
            return Err(Refusal::Disagree { symbol: name, first, second });
        }
        if !self.may_be(symbol, value) {
            let by = self.function_name(by);
            return Err(Refusal::NotNamed { symbol: name, object, by });
        }
        if let Some(slot) = self.symbols.get_mut(symbol as usize) {
            *slot = Some((value, by));
        }
        Ok(())
    }

    /// Why the first function that is still open cannot be found.
    fn stuck(&mut self) -> Refusal<'a> {
        for (index, function) in (0u32..).zip(self.record.functions().iter()) {
            if self.function(index).is_some() {
                continue;
            }
            let (name, object) = self.names_of(function.symbol);
            let candidates = self.names.candidates(function.symbol);
            if function.flags & function_flags::FRAGMENT != 0 || candidates.is_empty() {
                return Refusal::NoParent { function: name, object };
            }
            let mut matching = 0;
            for &address in candidates {
                match self.attempt(&function, address) {
                    Ok(Ok(_)) => matching += 1,
                    Ok(Err(_)) => {}
                    Err(refusal) => return refusal,
                }
            }
            return Refusal::Ambiguous { function: name, object, matching };
        }
        Refusal::Record("functions")
    }

    /// Gives symbols that a clone needs and no function gave the one address that their name has.
    fn name_the_rest(&mut self) -> Result<(), Refusal<'a>> {
        for (index, symbol) in (0u32..).zip(self.record.symbols().iter()) {
            let open = self.symbol(index).is_none();
            if !open || symbol.flags & symbol_flags::NEEDED == 0 {
                continue;
            }
            let (symbol_name, object) = self.names_of(index);
            if symbol.flags & symbol_flags::ANONYMOUS != 0 {
                return Err(Refusal::SymbolUnreferenced { symbol: symbol_name, object });
            }
            match self.names.candidates(index) {
                [] => return Err(Refusal::NoSymbol { symbol: symbol_name, object }),
                [address] => {
                    if let Some(slot) = self.symbols.get_mut(index as usize) {
                        *slot = Some((*address, dynamos_abi::NONE));
                    }
                }
                several => {
                    let candidates = several.len();
                    return Err(Refusal::SymbolAmbiguous {
                        symbol: symbol_name,
                        object,
                        candidates,
                    });
                }
            }
        }
        Ok(())
    }

    /// Checks that no two functions are one, and hands over.
    fn finish(self) -> Result<Resolved, Refusal<'a>> {
        let mut by_address = filled((0, 0), 0)?;
        by_address.try_reserve_exact(self.functions.len()).map_err(|_| Refusal::OutOfMemory)?;
        let mut functions = filled(0, 0)?;
        functions.try_reserve_exact(self.functions.len()).map_err(|_| Refusal::OutOfMemory)?;
        for (index, address) in (0u32..).zip(&self.functions) {
            let address = address.ok_or(Refusal::Record("functions"))?;
            functions.push(address);
            by_address.push((address, index));
        }
        sort(&mut by_address);
        for pair in by_address.windows(2) {
            if let [(first, one), (second, other)] = *pair
                && first == second
            {
                let (function, other) = (self.function_name(one), self.function_name(other));
                return Err(Refusal::SameAddress { function, other });
            }
        }
        let mut symbols = filled(None, self.symbols.len())?;
        for (slot, known) in symbols.iter_mut().zip(&self.symbols) {
            *slot = known.map(|(address, _)| address);
        }
        Ok(Resolved { symbols, functions, traced: self.traced })
    }

    fn symbol(&self, index: u32) -> Option<u64> {
        self.symbols.get(index as usize).copied().flatten().map(|(address, _)| address)
    }

    fn function(&self, index: u32) -> Option<u64> {
        self.functions.get(index as usize).copied().flatten()
    }

    fn flags(&self, symbol: u32) -> u32 {
        self.record.symbols().get(symbol).map_or(0, |symbol| symbol.flags)
    }

    /// Names of a symbol and of its object.
    fn names_of(&self, symbol: u32) -> (&'a str, &'a str) {
        names_of(self.record, symbol)
    }

    fn function_name(&self, index: u32) -> &'a str {
        function_name(self.record, index)
    }
}

/// Names of a symbol and of its object.
pub(crate) fn names_of<'a>(record: &Record<'a>, symbol: u32) -> (&'a str, &'a str) {
    let Some(symbol) = record.symbols().get(symbol) else { return ("?", "?") };
    let object = record.objects().get(symbol.object);
    let object = object.map_or("the kernel and its modules", |object| record.str(object.name));
    (record.str(symbol.name), object)
}

/// Name of function `index` of a record.
pub(crate) fn function_name<'a>(record: &Record<'a>, index: u32) -> &'a str {
    record.functions().get(index).map_or("kallsyms", |function| names_of(record, function.symbol).0)
}

/// A vector of `count` times `value`.
pub(crate) fn filled<'a, T: Clone>(value: T, count: usize) -> Result<Vec<T>, Refusal<'a>> {
    let mut filled = Vec::new();
    filled.try_reserve_exact(count).map_err(|_| Refusal::OutOfMemory)?;
    filled.resize(count, value);
    Ok(filled)
}
