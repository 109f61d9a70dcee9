//! The weakest scope that is safe for an update, and why.
//!
//! That no layout, variable or constant differs does not show that two functions may run in different editions: one may
//! leave what the other's edition does not understand, in memory that both have known all along. But where all calls from
//! elsewhere come to one function, and only it and its like call the others, they are as one: a task that has one edition
//! of all of them does what it would if the compiler had inlined them.

use dynamos_abi::LEAVES_UNSEEN;

use crate::handlers::Handlers;
use crate::plan::{Plan, ScopePlan};

/// Proposes `function` where it can be shown that both editions may run at a time, else `system`.
///
/// Where the update says which object each call works on, it is that editions may not mix on one: `object`.
///
/// A function that tasks leave unseen can only be switched with `function`; where that is not shown to be safe, the reason says so.
pub fn propose(plan: &Plan, handlers: &Handlers) -> ScopePlan {
    let mut proposed = weakest(plan, handlers);
    let unseen = plan.functions.iter().find(|function| {
        function.matched_bytes > 0 && LEAVES_UNSEEN.contains(&function.name.as_str())
    });
    if let Some(function) = unseen.filter(|_| proposed.scope != "function") {
        proposed.reason.push_str(&format!(
            ". But tasks are in `{}` where no look at their stacks shows it, so it will load with --scope function only: do so \
             if you know better",
            function.name
        ));
    }
    proposed
}

fn weakest(plan: &Plan, handlers: &Handlers) -> ScopePlan {
    let (redirected, counts) = (handlers.functions.len(), handlers.count());
    if handlers.phases {
        let reason = "there are phases: calls move one by one, the bridge editions work with what edition 0 and V2's \
                      leave, and those two never run at a time";
        return ScopePlan { scope: "function".into(), reason: reason.into() };
    }
    if let Some(table) = plan.slots.iter().find(|table| table.written) {
        let reason = format!(
            "handlers of `{}` are written, which all calls share: nobody may be in a function that reads one",
            table.name
        );
        return ScopePlan { scope: "system".into(), reason };
    }
    let changed = plan.layouts.iter().find(|layout| layout.verdict != "added");
    let inner = plan.functions.iter().filter(|function| function.inner).count();
    let entries = redirected.saturating_sub(inner);
    let adapts = plan.functions.iter().any(|function| function.adapted_by.is_some());
    let reshaped = plan.functions.iter().find(|function| function.reshaped);
    let (scope, reason) = if let Some(function) =
        reshaped.filter(|_| entries != 1 || redirected == 1)
    {
        let reason = format!(
            "`{}` takes other parameters or gives another result in V2, or that is not known: no call of it may come from \
             the other edition of a caller",
            function.name
        );
        ("system", reason)
    } else if !counts && (entries != 1 || redirected != 1 && adapts) {
        let reason = format!(
            "{redirected} functions are replaced, and a call of one edition may meet what another function's other \
             edition has left or expects: none may be running when they change"
        );
        ("system", reason)
    } else if let Some(layout) = changed {
        let reason = format!(
            "`{} {}` differs, and both editions would work on objects of it at a time",
            layout.kind, layout.name
        );
        ("system", reason)
    } else if let Some(data) = plan.data.first() {
        let reason = format!(
            "`{}` is {}, and only one of the two editions would work with it as it is meant",
            data.name, data.verdict
        );
        ("system", reason)
    } else if counts {
        let reason = "the update says which object each call works on; no layout, variable or constant differs and none is \
                      added, so calls of either edition may run beside each other on different objects. That they meet \
                      nowhere else is the word of whoever wrote it; what a comparison cannot see is another order of locks \
                      that are not an object's: for those load it with --scope system";
        ("object", reason.to_string())
    } else if redirected != 1 {
        let reason = format!(
            "{redirected} functions are replaced, of which only one is called from elsewhere: within a call of it the \
             others must be of its edition. No layout, variable or constant differs and none is added, so calls of \
             either edition may run beside each other in different tasks. What a comparison cannot see is a new meaning \
             of old data, or another order of locks that other tasks take too: for those load it with --scope system"
        );
        ("task", reason)
    } else {
        let reason = "one function is replaced; no layout, variable or constant differs and none is added. So its \
                      editions share nothing that one of them does not know, and calls of either may run beside each \
                      other. What a comparison cannot see is a new meaning of old data, or another order of locks: \
                      for those load it with --scope system";
        ("function", reason.to_string())
    };
    ScopePlan { scope: scope.into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counting::ObjectOf;
    use crate::handlers::Redirected;
    use crate::plan::{DataPlan, FunctionPlan, LayoutPlan};

    fn proposed(plan: &Plan, redirected: usize) -> (String, String) {
        let functions = vec![Redirected::default(); redirected];
        let handlers = Handlers { functions, phases: false };
        let ScopePlan { scope, reason } = propose(plan, &handlers);
        (scope, reason)
    }

    fn function(name: &str, inner: bool) -> FunctionPlan {
        FunctionPlan {
            name: name.into(),
            object: "fs/pipe.o".into(),
            verdict: "changed".into(),
            reason: String::new(),
            matched_bytes: 0,
            adapted_by: None,
            works_on: None,
            inner,
            reshaped: false,
        }
    }

    fn data(name: String, object: String) -> DataPlan {
        let (verdict, reason) = ("new".into(), String::new());
        DataPlan { name, object, verdict, reason, ..DataPlan::default() }
    }

    #[test]
    fn one_function_alone_may_switch_by_itself() {
        let (scope, reason) = proposed(&Plan::default(), 1);
        assert_eq!(scope, "function");
        assert!(reason.contains("one function is replaced"), "{reason}");
    }

    #[test]
    fn what_is_left_unseen_is_told() {
        let mut plan = Plan { functions: vec![function("do_exit", false)], ..Plan::default() };
        plan.functions[0].matched_bytes = 100;
        let (scope, reason) = proposed(&plan, 1);
        assert!(scope == "function" && !reason.contains("do_exit"), "{reason}");
        let (scope, reason) = proposed(&plan, 2);
        assert!(scope == "system" && reason.contains("in `do_exit` where no look"), "{reason}");
        assert!(reason.contains("--scope function only"), "{reason}");
    }

    #[test]
    fn functions_behind_one_are_as_one() {
        let functions = [true, false, true].map(|inner| function("f", inner)).to_vec();
        let mut plan = Plan { functions, ..Plan::default() };
        let (scope, reason) = proposed(&plan, 3);
        assert!(
            scope == "task" && reason.contains("only one is called from elsewhere"),
            "{reason}"
        );
        assert_eq!(proposed(&plan, 4).0, "system");
        // A task has one edition of all of them.
        plan.functions[0].reshaped = true;
        assert_eq!(proposed(&plan, 3).0, "task");
        let (scope, reason) = proposed(&plan, 4);
        assert!(scope == "system" && reason.contains("takes other parameters"), "{reason}");
        plan.functions[0].reshaped = false;
        plan.functions[1].adapted_by = Some("dynamos_adapt_f".into());
        assert_eq!(proposed(&plan, 3).0, "system");
        plan.functions[1].adapted_by = None;
        let (name, object) = ("count".into(), "fs/pipe.o".into());
        plan.data = vec![data(name, object)];
        assert_eq!(proposed(&plan, 3).0, "system");
    }

    #[test]
    fn objects_that_are_told_are_gone_by() {
        let function =
            Redirected { object: Some(ObjectOf::Argument(0, "f".into())), ..Redirected::default() };
        let handlers = Handlers { functions: vec![function; 2], phases: false };
        let mut plan = Plan::default();
        assert_eq!(propose(&plan, &handlers).scope, "object");
        let (name, object) = ("count".into(), "fs/pipe.o".into());
        plan.data = vec![data(name, object)];
        assert_eq!(propose(&plan, &handlers).scope, "system");
    }

    #[test]
    fn whatever_it_could_share_forbids_it() {
        assert_eq!(proposed(&Plan::default(), 2).0, "system");
        let mut plan = Plan::default();
        plan.layouts.push(LayoutPlan {
            kind: "struct".into(),
            name: "pipe_buffer".into(),
            object: "fs/pipe.o".into(),
            verdict: "changed".into(),
            reason: String::new(),
            defined_in: String::new(),
            members: vec![],
            embedded_in: vec![],
            users: vec![],
            users_unknown: vec![],
            created_by: vec![],
            freed_by: vec![],
            live: vec![],
            liveness: String::new(),
        });
        let (scope, reason) = proposed(&plan, 1);
        assert!(scope == "system" && reason.contains("struct pipe_buffer"), "{reason}");
        let (name, object) = ("count.1".into(), "fs/pipe.o".into());
        let data = vec![data(name, object)];
        let (scope, reason) = proposed(&Plan { data, ..Plan::default() }, 1);
        assert!(scope == "system" && reason.contains("`count.1` is new"), "{reason}");
    }
}
