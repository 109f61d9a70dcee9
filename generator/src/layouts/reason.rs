//! How a type differs, in words; and the differences that no object shows.

use dynamos_differ::layout::{Definition, LayoutChange, LayoutKind, LayoutVerdict, Member};

/// What differs in a type: its size, then its members.
pub(super) fn reason(layout: &LayoutChange) -> String {
    let mut parts = Vec::new();
    match (layout.old.as_slice(), layout.new.as_slice()) {
        ([old], [new]) => {
            if old.size != new.size {
                parts.push(format!("size {} → {}", old.size, new.size));
            }
            if old.alignment != new.alignment {
                let told = |to: Option<u64>| to.map_or("natural".into(), |to| to.to_string());
                parts.push(format!("alignment {} → {}", told(old.alignment), told(new.alignment)));
            }
            if old.target != new.target {
                let named = |target: &Option<String>| target.clone().unwrap_or_default();
                parts.push(format!("{} → {}", named(&old.target), named(&new.target)));
            }
        }
        (old, new) if layout.verdict == LayoutVerdict::Changed => return several(old, new),
        _ => {}
    }
    // What moved did so because of the others.
    let mut members: Vec<_> = layout.members.iter().collect();
    members.sort_by_key(|member| member.changes == ["moved"]);
    for member in members.into_iter().take(8) {
        let to = match (&member.old, &member.new) {
            (Some(old), Some(new)) if old.name != new.name => format!(" to {}", new.name),
            _ => String::new(),
        };
        parts.push(format!("{} {}{to}", member.name, member.changes.join(" and ")));
    }
    if layout.members.len() > 8 {
        parts.push(format!("and {} more members", layout.members.len() - 8));
    }
    for changed in layout.enumerators.iter().take(8) {
        parts.push(format!("{} {}", changed.name, changed.change));
    }
    if layout.enumerators.len() > 8 {
        parts.push(format!("and {} more enumerators", layout.enumerators.len() - 8));
    }
    parts.join(", ")
}

/// What each side alone has of a name, if nothing says which became which.
fn several(old: &[Definition], new: &[Definition]) -> String {
    let only = [("v1", old), ("v2", new)].into_iter().filter(|(_, list)| !list.is_empty());
    let told: Vec<_> = only.map(|(side, list)| format!("{side} alone {}", all(list))).collect();
    format!("several types have this name: {}", told.join(", "))
}

/// What definitions are, if there is nothing to compare them with.
fn all(list: &[Definition]) -> String {
    let one = |of: &Definition| {
        let members = of.members.iter().map(|member| member.name.as_str());
        let names = members.chain(of.enumerators.iter().map(|value| value.name.as_str()));
        let names: Vec<&str> = names.chain(of.target.as_deref()).take(4).collect();
        format!("one of {} bytes ({})", of.size, names.join(", "))
    };
    let told: Vec<String> = list.iter().take(4).map(one).collect();
    let more = if list.len() > 4 { format!(" and {} more", list.len() - 4) } else { String::new() };
    format!("has {}{more}", told.join(" and "))
}

/// An enumeration that has more values, while the old ones are what they were: no object looks otherwise for it. What
/// is sized by the number of values counts by itself.
pub(super) fn only_adds_values(layout: &LayoutChange) -> bool {
    let same_size = match (layout.old.as_slice(), layout.new.as_slice()) {
        ([old], [new]) => old.size == new.size && old.alignment == new.alignment,
        _ => false,
    };
    layout.kind == LayoutKind::Enum
        && same_size
        && !layout.enumerators.is_empty()
        && layout.enumerators.iter().all(|change| change.change == "added")
}

/// A struct or union that has more names for what is there already, of the same type: another member of a union. Every
/// object looks as before.
pub(super) fn only_adds_names(layout: &LayoutChange) -> bool {
    let ([old], [new]) = (layout.old.as_slice(), layout.new.as_slice()) else { return false };
    let same_place = |m: &Member, other: &Member| {
        (m.bit_offset, m.bit_size, m.bitfield, &m.type_name)
            == (other.bit_offset, other.bit_size, other.bitfield, &other.type_name)
    };
    let is_alias = |m: &Member| m.bit_size > 0 && old.members.iter().any(|o| same_place(m, o));
    old.size == new.size
        && old.alignment == new.alignment
        && !layout.members.is_empty()
        && old.members.iter().all(|m| new.members.contains(m))
        && new.members.iter().all(|m| old.members.contains(m) || is_alias(m))
}

#[cfg(test)]
pub(super) mod tests {
    use dynamos_differ::layout::{Definition, TypeName, Types, compare_types};

    use super::*;

    pub(in crate::layouts) fn member(name: &str, bit_offset: u64, type_name: &str) -> Member {
        Member {
            name: name.into(),
            bit_offset,
            bit_size: 64,
            bitfield: false,
            type_name: type_name.into(),
        }
    }

    pub(in crate::layouts) fn change(old: Vec<Member>, new: Vec<Member>) -> LayoutChange {
        change_of(vec![old], vec![new])
    }

    /// Of several types of one name.
    fn change_of(old: Vec<Vec<Member>>, new: Vec<Vec<Member>>) -> LayoutChange {
        let side = |all: Vec<Vec<Member>>| {
            let definition = |members| Definition {
                size: 16,
                alignment: None,
                members,
                enumerators: Vec::new(),
                target: None,
            };
            let name = TypeName { kind: LayoutKind::Struct, name: "s".into() };
            Types::from([(name, all.into_iter().map(definition).collect())])
        };
        compare_types(&side(old), &side(new)).remove(0)
    }

    #[test]
    fn of_several_types_of_a_name_those_are_compared_that_one_side_has() {
        let of = |name: &str| vec![member(name, 0, "u64")];
        let told = |old: &[&str], new: &[&str]| {
            let side = |names: &[&str]| names.iter().map(|name| of(name)).collect();
            reason(&change_of(side(old), side(new)))
        };
        assert_eq!(
            told(&["a", "b"], &["a", "b", "c"]),
            "several types have this name: v2 alone has one of 16 bytes (c)"
        );
        assert_eq!(
            told(&["a", "b"], &["c", "d"]),
            "several types have this name: v1 alone has one of 16 bytes (a) and one of 16 bytes (b), v2 alone has one of \
             16 bytes (c) and one of 16 bytes (d)"
        );
        assert_eq!(told(&["a", "b"], &["a", "c"]), "b renamed to c");
    }

    #[test]
    fn another_name_for_the_same_place_is_no_change_of_objects() {
        let old = || vec![member("dev", 0, "struct d *"), member("ops", 64, "struct o *")];
        let with = |more: Member| change(old(), [old(), vec![more]].concat());
        assert!(only_adds_names(&with(member("dev_rcu", 0, "struct d *"))));
        assert!(!only_adds_names(&with(member("dev_rcu", 0, "struct o *"))));
        assert!(!only_adds_names(&with(member("dev_rcu", 128, "struct d *"))));
        let moved = vec![member("dev", 64, "struct d *"), member("ops", 0, "struct o *")];
        assert!(!only_adds_names(&change(old(), moved)));
        let renamed = vec![member("device", 0, "struct d *"), member("ops", 64, "struct o *")];
        assert!(!only_adds_names(&change(old(), renamed)));
    }
}
