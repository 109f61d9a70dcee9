//! The functions that are replaced, and what chooses between their editions.

use anyhow::{Context, Result};

use super::Builder;
use super::flow::{calls_itself, comes_to, returns};
use crate::clones::Target;
use crate::counting::ObjectOf;
use crate::handlers::{Redirected, accessor_symbol, adaptation_symbol, clone_symbol};

impl Builder<'_> {
    /// Clones a function that the update replaces.
    pub(super) fn replace(&mut self, name: &str, v1_name: &str) -> Result<()> {
        let unit = self.context.unit;
        let index = unit.find(name).with_context(|| format!("V2 has no function {name}"))?;
        let number = self.context.first_clone + self.closure.replaced.len();
        let (piece, into) = self.known_as(index, clone_symbol(number))?;
        let handler = self.context.adaptations.get(name);
        if let Some(handler) = handler {
            self.choose_by(handler, adaptation_symbol(number))?;
        }
        let object = self.context.objects.get(name);
        if let Some(ObjectOf::Accessor(accessor)) = object {
            self.choose_by(accessor, accessor_symbol(number))?;
        }
        if object.is_some() && !returns(unit, index)? {
            self.refuse(v1_name, "never returns, so its calls cannot be counted");
        }
        if object.is_some() && calls_itself(unit, index)? {
            self.refuse(v1_name, "calls itself, which in V2's edition would not be counted");
        }
        let (adapts, object) = (handler.is_some(), object.cloned());
        self.closure.handlers.push(Redirected { adapts, object });
        let addr = self.closure.object.addr(Target::Piece(piece), into as i64);
        self.closure.replaced.push(v1_name.into());
        self.closure.clone_addrs.push(addr as u32);
        Ok(())
    }

    /// Copies a function that is called before each call of a replaced one.
    fn choose_by(&mut self, name: &str, symbol: String) -> Result<()> {
        let unit = self.context.unit;
        let index = unit.find(name).with_context(|| format!("V2 has no function {name}"))?;
        let replaced = |name: &str| self.context.replaced.contains_key(name);
        // Such a call would be decided on in its turn, and so on without end.
        if let Some(callee) = comes_to(unit, index, &replaced)? {
            self.refuse(
                name,
                &format!("is called before calls of what is replaced, and may itself call {callee}, which is"),
            );
        }
        self.known_as(index, symbol)?;
        self.closure.added.insert(name.into());
        Ok(())
    }
}
