//! The facts about a module, sorted by the source files that it is linked from.

use std::collections::BTreeMap;

use super::Comparison;
use crate::error::Result;
use crate::object_file::Object;
use crate::units::Units;

impl Comparison {
    /// One comparison for each source file of both objects, as if it had been compiled alone. What cannot be told to
    /// be of one (types, sections without symbols, assembly) is under the empty name. What ties symbols together
    /// is not kept.
    pub fn by_unit(self, v1: &Object<'_>, v2: &Object<'_>) -> Result<BTreeMap<String, Comparison>> {
        let (a, b) = rayon::join(|| Units::of_object(&v1.elf), || Units::of_object(&v2.elf));
        let (a, b) = (a?, b?);
        let mut parts: BTreeMap<String, Comparison> = BTreeMap::new();
        for source in a.sources().chain(b.sources()) {
            parts.entry(source.to_owned()).or_default();
        }
        for function in self.functions {
            let old = function.v1.and_then(|id| v1.function(id)).map(|f| (&a, f.section, f.start));
            let new = function.v2.and_then(|id| v2.function(id)).map(|f| (&b, f.section, f.start));
            let unit = new.or(old).and_then(|(units, section, at)| units.in_section(section, at));
            parts.entry(unit.unwrap_or_default().to_owned()).or_default().functions.push(function);
        }
        for data in self.data {
            let old = data.v1.and_then(|id| v1.model.data_object(id)).map(|d| (&a, d));
            let new = data.v2.and_then(|id| v2.model.data_object(id)).map(|d| (&b, d));
            let unit = new.or(old).and_then(|(units, d)| units.in_section(d.section, d.start));
            let part = parts.entry(unit.unwrap_or_default().to_owned()).or_default();
            if let Some(slots) = self.slots.get(&data.name) {
                part.slots.insert(data.name.clone(), slots.clone());
            }
            part.data.push(data);
        }
        let rest = parts.entry(String::new()).or_default();
        rest.sections = self.sections;
        rest.layouts = self.layouts;
        rest.retyped = self.retyped;
        rest.layouts_unknown = self.layouts_unknown;
        Ok(parts)
    }
}
