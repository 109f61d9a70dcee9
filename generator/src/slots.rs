//! Tables of operations in use, of which a fix changes handlers.

use dynamos_differ::compare::{Slot, Slots};

/// What a change of a table of functions is, for people.
pub fn told(slots: &Result<Slots, String>) -> String {
    match slots {
        Ok(slots) => {
            let list: Vec<String> = slots.slots.iter().map(change).collect();
            format!("nothing but handlers differs: {}", list.join(", "))
        }
        Err(why) => format!("more than handlers differs: {why}"),
    }
}

fn change(slot: &Slot) -> String {
    let name = |function: &Option<String>| function.clone().unwrap_or_else(|| "NULL".into());
    format!("`.{}` {} → {}", slot.path, name(&slot.old), name(&slot.new))
}
