//! The table, and that the handler finds in it what [`TaskTable::edition`] does.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use proptest::prelude::*;

use super::*;
use crate::policy::native::emulate::{GS, LAYOUT, Machine, PLACE, TASK};
use crate::policy::tests::call;

const ASKS: Asks =
    Asks { flag: PLACE.at + 0x8000, current: LAYOUT.current, cell: 0xffff_8880_0000_1000 };

fn code() -> Vec<u8> {
    let mut into = vec![0; 1024];
    let len = write_handler(&ASKS, &PLACE, &mut into).unwrap();
    into.truncate(len);
    into
}

/// Whether a call by `task` takes the update's edition.
fn takes(table: &TaskTable, flag: u8, task: u64) -> bool {
    asked(table, flag, task).0
}

/// The same, and how many instructions it takes.
fn asked(table: &TaskTable, flag: u8, task: u64) -> (bool, u32) {
    let mut machine = Machine::new(&call());
    machine.put(GS + u64::from(LAYOUT.current), task);
    machine.put(ASKS.flag, u64::from(flag));
    machine.put(ASKS.cell, table.address());
    for (index, word) in (0..).zip(&table.words) {
        machine.put(table.address() + 8 * index, word.load(Ordering::Relaxed));
    }
    static CODE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(code);
    (machine.run(&CODE), machine.steps)
}

#[test]
fn the_flag_decides_before_the_table() {
    let table = TaskTable::with_room(1, true).unwrap();
    assert!(!takes(&table, 0, TASK));
    assert!(takes(&table, 1, TASK) && takes(&table, 0x80, TASK));
    table.note(TASK, false).unwrap();
    table.set(TASK, true);
    assert_eq!(asked(&table, 0x81, TASK), (true, 16));
    table.set(TASK, false);
    assert!(takes(&table, 1, TASK) && !takes(&table, 0x81, TASK));
    table.set(TASK, true);
    table.set_default(false);
    assert!(takes(&table, 0x80, TASK) && !takes(&table, 0x80, TASK + 64));
}

#[test]
fn the_handler_is_what_its_description_shows() {
    use Mnemonic::*;
    let code = code();
    let found: Vec<_> = Decoder::with_ip(64, &code, PLACE.at, DecoderOptions::NONE)
        .iter()
        .map(|instruction| instruction.mnemonic())
        .collect();
    let head = [Endbr64, Cmp, Jb, Je, Mov, Mov, Mov, Mov, Imul, Shr];
    let rest = [And, Cmp, Je, Cmp, Je, Add, Jmp, Cmp, Je, Jmp, Cmp, Je, Jmp];
    assert_eq!(found, [&head[..], &rest[..]].concat());
    let short = write_handler(&ASKS, &PLACE, &mut [0; 64]);
    assert!(matches!(short, Err(crate::policy::native::NativeError::TooLong { .. })));
    let far = Asks { flag: 0x7000_0000_0000, ..ASKS };
    assert!(write_handler(&far, &PLACE, &mut [0; 1024]).is_err());
}

#[test]
fn there_is_room_for_what_was_asked_and_an_end_to_it() {
    let table = TaskTable::with_room(100, false).unwrap();
    for task in 0..100 {
        assert_eq!(table.note(TASK + 64 * task, true), Ok(true));
        assert_eq!(table.note(TASK + 64 * task, false), Ok(false), "as it was noted first");
    }
    let more = (100..1000).find_map(|task| table.note(TASK + 64 * task, true).err());
    assert_eq!(more, Some(Full));
    // What is let go makes room.
    assert!(table.forget(TASK) && !table.forget(TASK) && table.noted(TASK).is_none());
    let second = (0..1000).map(|task| TASK - 64 * task - 64);
    assert!(second.take(1000).any(|task| table.note(task, true) == Ok(true)));
    assert!(table.tasks().all(|(_, edition)| edition));
}

#[derive(Clone, Debug)]
enum Act {
    Note(u64, bool),
    Set(u64, bool),
    Forget(u64),
    Default(bool),
}

fn act() -> impl Strategy<Value = Act> {
    // A few slabs of tasks.
    let task = (0u64..3, 0u64..8).prop_map(|(slab, at)| TASK + slab * 0x8000 + at * 0x1340);
    prop_oneof![
        (task.clone(), any::<bool>()).prop_map(|(task, edition)| Act::Note(task, edition)),
        (task.clone(), any::<bool>()).prop_map(|(task, edition)| Act::Set(task, edition)),
        task.prop_map(Act::Forget),
        any::<bool>().prop_map(Act::Default),
    ]
}

proptest! {
    #[test]
    fn it_is_a_map_with_a_default(
        acts in proptest::collection::vec(act(), 0..60),
        room in 1usize..32,
    ) {
        let (table, mut model, mut default) =
            (TaskTable::with_room(room, false).unwrap(), BTreeMap::new(), false);
        for act in acts {
            match act {
                Act::Note(task, edition) => match table.note(task, edition) {
                    Ok(new) => {
                        prop_assert_eq!(new, !model.contains_key(&task));
                        model.entry(task).or_insert(edition);
                    }
                    Err(Full) => prop_assert!(!model.contains_key(&task) && room < 24),
                },
                Act::Set(task, edition) => {
                    table.set(task, edition);
                    if let Some(noted) = model.get_mut(&task) {
                        *noted = edition;
                    }
                }
                Act::Forget(task) => {
                    prop_assert_eq!(table.forget(task), model.remove(&task).is_some());
                }
                Act::Default(edition) => {
                    table.set_default(edition);
                    default = edition;
                }
            }
        }
        for slab in 0..3 {
            for at in 0..8 {
                let task = TASK + slab * 0x8000 + at * 0x1340;
                let expected = model.get(&task).copied().unwrap_or(default);
                prop_assert_eq!(table.edition(task), expected);
            }
        }
        for at in 0..8 {
            let task = TASK + 0x8000 + at * 0x1340;
            prop_assert_eq!(takes(&table, 0x81, task), table.edition(task));
        }
        let noted: BTreeMap<_, _> = table.tasks().collect();
        prop_assert_eq!(noted, model);
    }
}
