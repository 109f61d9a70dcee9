//! Phase 5: which function and which data object of v2 is which of v1.
//!
//! Functions go by name. What carries a compiler's number goes by who refers to it from where:
//! the instructions of the two referring functions are aligned, and each aligned pair of
//! references is a vote. A number is never a reason for anything.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

use iced_x86::OpKind;

use crate::compare::is_read_only;
use crate::decode::Insn;
use crate::model::{DataId, FunctionId, Place};
use crate::names::{base, is_numbered};
use crate::object_file::Object;
use crate::queues::Queues;

mod aliases;
mod clones;
mod left_over;
mod side;

use left_over::{Groups, by_place, content};
use side::{Homes, Side};

/// The pairs; what is in no pair is old (v1 only) or new (v2 only).
#[derive(Debug, Default, Clone)]
pub struct Correlation {
    /// v1 function → v2 function.
    pub functions: BTreeMap<FunctionId, FunctionId>,
    /// v2 function → v1 function.
    pub functions_back: BTreeMap<FunctionId, FunctionId>,
    /// A v1 and a v2 function in no pair with each other that have this name in common: each may be in another pair.
    pub aliases: BTreeMap<(FunctionId, FunctionId), String>,
    /// v1 data object → v2 data object.
    pub data: BTreeMap<DataId, DataId>,
    /// v2 data object → v1 data object.
    pub data_back: BTreeMap<DataId, DataId>,
}

impl Correlation {
    /// Pairs the functions and data objects of two objects.
    pub fn build(a: &Object<'_>, b: &Object<'_>) -> Self {
        let mut all = Self::default();
        let homes = Homes::of(a, b);
        let (a, b) = (&Side { object: a, homes: &homes.0 }, &Side { object: b, homes: &homes.1 });
        all.functions_by_name(a, b);
        let named = aliases::in_common(a, b);
        all.functions_by_alias(&named);
        all.clones(a, b);
        all.functions_moved(a, b);
        all.cold_parts(a, b);
        all.note_aliases(&named);
        all.data_by_name(a, b);
        all.data_moved(a, b);
        all.data_by_votes(a, b);
        all.data_left_over(a, b);
        all.data_by_line(a, b);
        all
    }

    fn pair_functions(&mut self, a: FunctionId, b: FunctionId) {
        if !self.functions.contains_key(&a) && !self.functions_back.contains_key(&b) {
            self.functions.insert(a, b);
            self.functions_back.insert(b, a);
        }
    }

    fn pair_data(&mut self, a: DataId, b: DataId) {
        if !self.data.contains_key(&a) && !self.data_back.contains_key(&b) {
            self.data.insert(a, b);
            self.data_back.insert(b, a);
        }
    }

    fn functions_by_name(&mut self, a: &Side<'_, '_>, b: &Side<'_, '_>) {
        let names: HashMap<(&str, u64), FunctionId> = b
            .model
            .functions()
            .filter(|(_, f)| base(&f.name).clone.is_empty())
            .map(|(id, f)| ((f.name.as_str(), b.home(f.symbol)), id))
            .collect();
        for (id, f) in a.model.functions() {
            if let Some(other) = names.get(&(f.name.as_str(), a.home(f.symbol))) {
                self.pair_functions(id, *other);
            }
        }
    }

    /// What became static, or is no longer, or moved to another source: the only ones left of their name.
    fn functions_moved(&mut self, a: &Side<'_, '_>, b: &Side<'_, '_>) {
        let (left_a, left_b) = (self.unpaired(a, true), self.unpaired(b, false));
        for (name, of_a) in left_a {
            if let ([x], Some([y])) = (of_a.as_slice(), left_b.get(name).map(Vec::as_slice)) {
                self.pair_functions(*x, *y);
            }
        }
    }

    /// Functions in no pair yet, by name.
    fn unpaired<'o>(
        &self,
        object: &'o Side<'_, '_>,
        first: bool,
    ) -> BTreeMap<&'o str, Vec<FunctionId>> {
        let pairs = if first { &self.functions } else { &self.functions_back };
        let mut names: BTreeMap<&str, Vec<FunctionId>> = BTreeMap::new();
        for (id, f) in object.model.functions().filter(|(id, _)| !pairs.contains_key(id)) {
            names.entry(&f.name).or_default().push(id);
        }
        names
    }

    fn cold_parts(&mut self, a: &Side<'_, '_>, b: &Side<'_, '_>) {
        let pairs: Vec<_> = self.functions.iter().map(|(x, y)| (*x, *y)).collect();
        for (x, y) in pairs {
            let cold_a = a.function(x).and_then(|f| f.cold);
            let cold_b = b.function(y).and_then(|f| f.cold);
            if let (Some(x), Some(y)) = (cold_a, cold_b) {
                self.pair_functions(x, y);
            }
        }
    }

    fn data_by_name(&mut self, a: &Side<'_, '_>, b: &Side<'_, '_>) {
        let named = b.model.data().filter(|(_, d)| !is_numbered(&d.name));
        let mut names = Queues::of(named.map(|(id, d)| ((d.name.as_str(), b.home(d.symbol)), id)));
        for (id, d) in a.model.data() {
            let key = (d.name.as_str(), a.home(d.symbol));
            if let Some(other) = names.first(&key, |y| self.data_back.contains_key(&y)) {
                self.pair_data(id, other);
            }
        }
    }

    /// Like [`Self::functions_moved`].
    fn data_moved(&mut self, a: &Side<'_, '_>, b: &Side<'_, '_>) {
        let unique = |groups: Groups| {
            let mut names: BTreeMap<String, Vec<DataId>> = BTreeMap::new();
            for ((name, _), ids) in groups {
                names.entry(name).or_default().extend(ids);
            }
            names
        };
        let (left_a, left_b) = (unique(self.left_over(a, true)), unique(self.left_over(b, false)));
        let plain = |object: &Object<'_>, id: DataId| {
            object.model.data_object(id).is_some_and(|d| !is_numbered(&d.name))
        };
        for (name, of_a) in &left_a {
            if let ([x], Some([y])) = (of_a.as_slice(), left_b.get(name).map(Vec::as_slice))
                && plain(a, *x)
                && plain(b, *y)
            {
                self.pair_data(*x, *y);
            }
        }
    }

    fn data_by_votes(&mut self, a: &Side<'_, '_>, b: &Side<'_, '_>) {
        let mut votes: BTreeMap<(DataId, DataId), usize> = BTreeMap::new();
        for (x, y) in &self.functions {
            let (of_a, of_b) = (numbered(a, *x), numbered(b, *y));
            if of_a.is_empty() || of_b.is_empty() {
                continue;
            }
            for (i, j) in align(a, *x, b, *y) {
                for (da, db) in of_a
                    .get(&i)
                    .into_iter()
                    .flatten()
                    .flat_map(|da| of_b.get(&j).into_iter().flatten().map(move |db| (*da, *db)))
                {
                    if same_base(a, da, b, db) {
                        *votes.entry((da, db)).or_default() += 1;
                    }
                }
            }
        }
        let mut sorted: Vec<_> = votes.into_iter().collect();
        sorted.sort_by_key(|(pair, count)| (std::cmp::Reverse(*count), *pair));
        for ((da, db), _) in sorted {
            self.pair_data(da, db);
        }
    }

    /// Constants whose name ends with the line they stand in (`UVERBS_OBJECT_METHODS`, include/rdma): equal content,
    /// and no other of that name. Only what nobody can write: of two equal constants either will do.
    fn data_by_line(&mut self, a: &Side<'_, '_>, b: &Side<'_, '_>) {
        let group = |object: &Side<'_, '_>, left: Groups| {
            let mut groups = Groups::new();
            for ((text, home), of_text) in left {
                let without = text.trim_end_matches(|c: char| c.is_ascii_digit());
                let constant = |id: &DataId| {
                    object.model.data_object(*id).is_some_and(|d| is_read_only(object, d.section))
                };
                if without != text {
                    let constants = of_text.into_iter().filter(constant);
                    groups.entry((without.to_owned(), home)).or_default().extend(constants);
                }
            }
            groups
        };
        let of_a = group(a, self.left_over(a, true));
        let of_b = group(b, self.left_over(b, false));
        for (text, left_a) in &of_a {
            if let ([x], Some([y])) = (left_a.as_slice(), of_b.get(text).map(Vec::as_slice))
                && content(a, *x, &by_place(a)) == content(b, *y, &by_place(b))
            {
                self.pair_data(*x, *y);
            }
        }
    }
}

fn same_base(a: &Object<'_>, x: DataId, b: &Object<'_>, y: DataId) -> bool {
    match (a.model.data_object(x), b.model.data_object(y)) {
        (Some(x), Some(y)) => base(&x.name).text == base(&y.name).text,
        _ => false,
    }
}

/// The numbered data objects a function refers to, by instruction.
fn numbered(object: &Object<'_>, id: FunctionId) -> BTreeMap<usize, Vec<DataId>> {
    let mut found: BTreeMap<usize, Vec<DataId>> = BTreeMap::new();
    for (index, insn) in object.body(id).insns.iter().enumerate() {
        for reference in &insn.references {
            if let Place::Data { data, .. } = reference.place
                && object.model.data_object(data).is_some_and(|d| is_numbered(&d.name))
            {
                found.entry(index).or_default().push(data);
            }
        }
    }
    // A static key is known by its jump-table entry alone.
    for entry in object.special_entries(id) {
        let start = object.function(id).map_or(0, |f| f.start);
        let (index, _) = object.body(id).position(start + entry.site);
        for r in entry.relocations(&object.elf) {
            if let Place::Data { data, .. } = object.model.resolve(&object.elf, r.symbol, r.addend)
                && object.model.data_object(data).is_some_and(|d| is_numbered(&d.name))
            {
                found.entry(index).or_default().push(data);
            }
        }
    }
    found
}

/// Pairs of instruction indexes that correspond.
pub(crate) fn align(
    a: &Object<'_>,
    x: FunctionId,
    b: &Object<'_>,
    y: FunctionId,
) -> Vec<(usize, usize)> {
    let of_a: Vec<u64> = a.body(x).insns.iter().map(|i| token(a, i)).collect();
    let of_b: Vec<u64> = b.body(y).insns.iter().map(|i| token(b, i)).collect();
    if of_a == of_b {
        return (0..of_a.len()).map(|i| (i, i)).collect();
    }
    let mut pairs = Vec::new();
    for op in similar::capture_diff_slices(similar::Algorithm::Myers, &of_a, &of_b) {
        if let similar::DiffOp::Equal { old_index, new_index, len } = op {
            pairs.extend((0..len).map(|i| (old_index + i, new_index + i)));
        }
    }
    pairs
}

/// What stays of an instruction when numbers, registers' contents and positions are left out.
fn token(object: &Object<'_>, insn: &Insn) -> u64 {
    let mut hasher = DefaultHasher::new();
    hash_shape(object, insn, &mut hasher);
    hasher.finish()
}

/// The whole body with names for targets and all numbers: equal for a clone that was renamed.
fn fingerprint(object: &Object<'_>, id: FunctionId) -> u64 {
    let mut hasher = DefaultHasher::new();
    for insn in &object.body(id).insns {
        hash_shape(object, insn, &mut hasher);
        for i in 0..insn.code.op_count() {
            if insn.code.try_immediate(i).is_ok() {
                insn.code.immediate(i).hash(&mut hasher);
            }
        }
        insn.displacement().hash(&mut hasher);
    }
    hasher.finish()
}

pub(crate) fn hash_shape(object: &Object<'_>, insn: &Insn, hasher: &mut DefaultHasher) {
    insn.raw.hash(hasher);
    insn.code.mnemonic().hash(hasher);
    for i in 0..insn.code.op_count() {
        match insn.code.op_kind(i) {
            OpKind::Register => insn.code.op_register(i).hash(hasher),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => 1.hash(hasher),
            OpKind::Memory => {
                insn.code.memory_base().hash(hasher);
                insn.code.memory_index().hash(hasher);
                insn.code.memory_size().hash(hasher);
            }
            _ => 2.hash(hasher),
        }
    }
    for reference in &insn.references {
        match reference.place {
            Place::External { symbol, .. } => {
                object.elf.symbol(symbol).map_or("", |s| s.name).hash(hasher);
            }
            Place::Function { function, offset: 0 } => {
                object.function(function).map(|f| base(&f.name).text).hash(hasher);
            }
            Place::Data { data, .. } => {
                object.model.data_object(data).map(|d| base(&d.name).text).hash(hasher);
            }
            _ => 3.hash(hasher),
        }
    }
}
